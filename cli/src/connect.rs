//! Which server a command asks: the one that `FATHOM_SERVER` names; else the one that has the local directory; else one of its own, which
//! lives as long as the command.

use crate::client::{Answer, Client, Refusal};
use crate::failure::{Exit, Failure, Result};
use crate::local::endpoint::Endpoint;
use crate::local::queue::Queue;
use crate::runner::directory::Directory;
use serde_json::Value;
use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a server may take to start: a new database, and a directory that its history has to catch up with.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a server of our own may take to end before it is killed. What it did not do is done by the next one.
const END: Duration = Duration::from_secs(30);
/// Pause before a server that is starting or ending is looked at again.
const PAUSE: Duration = Duration::from_millis(100);
/// Pause after a request that came too soon after others, and how often it is made again.
const TOO_FAST: Duration = Duration::from_secs(1);
const MANY_TIMES: u32 = 10;
/// Bytes of a server's complaints that are kept.
const MAX_COMPLAINTS: u64 = 16 << 10;
/// Jobs that are counted when none is named.
const MANY_JOBS: u32 = 500;

/// A way to a server. Commands of several threads may share it.
#[derive(Debug)]
pub struct Connection {
    source: Source,
    current: Mutex<Current>,
}

#[derive(Debug)]
enum Source {
    /// `FATHOM_SERVER`.
    Named(String),
    /// The server of this directory.
    Local(Directory),
}

/// The server that is asked now.
#[derive(Debug)]
struct Current {
    client: Client,
    /// Held, not used: it ends with this.
    _own: Option<Private>,
}

impl Connection {
    /// Finds or starts a server.
    pub fn open(directory: &Directory) -> Result<Self> {
        let (source, current) = match server() {
            Some(server) => {
                let client = named(&server)?;
                (Source::Named(server), Current { client, _own: None })
            }
            None => (Source::Local(directory.clone()), local(directory)?),
        };
        Ok(Self {
            source,
            current: Mutex::new(current),
        })
    }

    /// Asks for `path`, which begins with a slash.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.ask(path)?.map_err(|refusal| self.failure(refusal))
    }

    /// Asks for `path`; nothing if there is no such thing.
    pub fn find(&self, path: &str) -> Result<Option<Value>> {
        match self.ask(path)? {
            Err(Refusal::Problem(problem)) if problem.status == 404 => Ok(None),
            answer => answer.map(Some).map_err(|refusal| self.failure(refusal)),
        }
    }

    /// The name of the job that the user names; without a name, the only one there is.
    pub fn job(&self, name: Option<&str>) -> Result<String> {
        if let Some(name) = name {
            return Ok(name.to_owned());
        }
        let jobs = self.get(&format!("/api/v1/jobs?sort=name&limit={MANY_JOBS}"))?;
        let names: Vec<&str> = items(&jobs).iter().map(|job| text(job, "name")).collect();
        match names.as_slice() {
            [] => Err(Failure::new(Exit::NotFound, "the server knows no job").help("start one with `fathom run FILE`")),
            [job] => Ok((*job).to_owned()),
            several => {
                let list = printable(&several.join(", ")).into_owned();
                Err(Failure::new(Exit::Usage, format!("there are {} jobs", several.len())).help(format!("name one of: {list}")))
            }
        }
    }

    /// The run of a job's phase; without a phase, its last run of a training phase.
    pub fn run_of(&self, job: &str, phase: Option<&str>) -> Result<String> {
        let phases = self.get(&format!("/api/v1/jobs/{}/phases", segment(job)))?;
        let phases: Vec<&Value> = items(&phases).iter().filter(|phase| phase["run"].is_string()).collect();
        let found = match phase {
            Some(name) => phases.iter().find(|phase| text(phase, "name") == name),
            None => phases.iter().rfind(|phase| text(phase, "kind") == "pretrain"),
        };
        found.map(|phase| text(phase, "run").to_owned()).ok_or_else(|| {
            let names: Vec<&str> = phases.iter().map(|phase| text(phase, "name")).collect();
            let what = match phase {
                Some(phase) => format!("job `{}` has no run of a phase `{}`", printable(job), printable(phase)),
                None => format!("job `{}` has not pre-trained yet", printable(job)),
            };
            let failure = Failure::new(Exit::NotFound, what);
            if names.is_empty() {
                failure.help("wait until a phase has begun: `fathom status`")
            } else {
                failure.help(format!("phases with runs: {}", printable(&names.join(", "))))
            }
        })
    }

    /// The outer result is a server that cannot be found or started.
    fn ask(&self, path: &str) -> Result<Answer> {
        let client = self.client();
        let mut answer = client.get(path);
        for _ in 0..MANY_TIMES {
            if !matches!(&answer, Err(Refusal::Problem(problem)) if problem.status == 429) {
                break;
            }
            std::thread::sleep(TOO_FAST);
            answer = client.get(path);
        }
        let lost = match &answer {
            Err(Refusal::Unreachable(_)) => true,
            // Another server has taken the port of the one that was asked before.
            Err(Refusal::Problem(problem)) => problem.status == 401,
            Ok(_) => false,
        };
        match &self.source {
            Source::Local(directory) if lost => {
                let current = local(directory)?;
                let client = current.client.clone();
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
                Ok(client.get(path))
            }
            Source::Local(_) | Source::Named(_) => Ok(answer),
        }
    }

    fn client(&self) -> Client {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).client.clone()
    }

    fn failure(&self, refusal: Refusal) -> Failure {
        match (&self.source, refusal) {
            (Source::Named(server), Refusal::Unreachable(reason)) => {
                Failure::new(Exit::Unreachable, format!("the server at {server} does not answer"))
                    .cause(reason)
                    .help("check FATHOM_SERVER, or unset it to ask the server of the local directory")
            }
            (Source::Named(_), Refusal::Problem(problem)) if problem.status == 401 => {
                Failure::new(Exit::Auth, "the server does not know the token in FATHOM_TOKEN")
                    .help("it may have expired: make another with `fathom server token create NAME --scope runs:read`")
            }
            (Source::Local(_), Refusal::Problem(problem)) if problem.status == 404 && problem.text("hint").is_empty() => {
                Failure::from(Refusal::Problem(problem)).help("`fathom status` lists the jobs")
            }
            (Source::Named(_) | Source::Local(_), refusal) => refusal.into(),
        }
    }
}

/// `FATHOM_SERVER`.
fn server() -> Option<String> {
    std::env::var("FATHOM_SERVER").ok().filter(|server| !server.is_empty())
}

/// Whether the environment names a server.
pub fn is_named() -> bool {
    server().is_some()
}

/// A client of the server that the environment names. The token is never an argument: arguments are in lists of processes and in histories.
fn named(server: &str) -> Result<Client> {
    let usage = |what: &str| Failure::new(Exit::Usage, what.to_owned());
    if !server.starts_with("http://") && !server.starts_with("https://") {
        return Err(usage("FATHOM_SERVER is not an address").help("set it to something like `https://fathom.example.com`"));
    }
    if server.contains('?') {
        return Err(usage("FATHOM_SERVER holds more than an address").help("put the secret into FATHOM_TOKEN"));
    }
    match std::env::var("FATHOM_TOKEN") {
        Ok(token) if !token.is_empty() => Ok(Client::new(server, token.trim())),
        Ok(_) | Err(_) => Err(Failure::new(Exit::Auth, "FATHOM_SERVER is set but FATHOM_TOKEN is not")
            .help("put a token into FATHOM_TOKEN: `fathom server token create NAME --scope runs:read` makes one")),
    }
}

/// The server of a directory, started if there is none.
fn local(directory: &Directory) -> Result<Current> {
    let end = Instant::now() + PATIENCE;
    loop {
        let failure = match Endpoint::of(directory) {
            Some(endpoint) => {
                let client = endpoint.client();
                // A server that is starting has not said where it is: what is written is about the one before it.
                match client.get("/api/v1/whoami") {
                    Ok(_) => return Ok(Current { client, _own: None }),
                    Err(refusal) => refusal.into(),
                }
            }
            None => {
                may_start(directory)?;
                match Private::start(directory) {
                    Ok((own, client)) => return Ok(Current { client, _own: Some(own) }),
                    // Another server is starting or ending.
                    Err(failure) if failure.exit() == Exit::Conflict => failure,
                    Err(failure) => return Err(failure),
                }
            }
        };
        if Instant::now() > end {
            return Err(failure);
        }
        std::thread::sleep(PAUSE);
    }
}

/// A look at nothing leaves nothing behind.
fn may_start(directory: &Directory) -> Result {
    if directory.jobs()?.is_empty() && Queue::new(directory.clone()).waiting()?.is_empty() {
        directory.choose_job(None)?;
    }
    Ok(())
}

/// A server that lives as long as this.
#[derive(Debug)]
struct Private {
    child: Child,
}

impl Private {
    fn start(directory: &Directory) -> Result<(Self, Client)> {
        let cannot = || Failure::new(Exit::Failed, format!("cannot start a server for {}", directory.root().display()));
        let executable = std::env::current_exe().map_err(|error| cannot().caused_by(&error))?;
        let child = Command::new(executable)
            .arg0("fathom")
            .arg("--dir")
            .arg(directory.root())
            .args(["ui", "--no-open", "--until-eof", "--no-queue", "--port", "0", "--output", "json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Its log would be mixed with what the command says, or break the screen of `fathom top`.
            .stderr(Stdio::piped())
            // Ctrl-C is the command's: the end of its standard input ends the server.
            .process_group(0)
            .spawn()
            .map_err(|error| cannot().caused_by(&error))?;
        let mut own = Self { child };
        let complaints = own.child.stderr.take().map(complaints);
        let line = own.child.stdout.take().and_then(first_line).unwrap_or_default();
        let link: Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some((address, secret)) = link["url"].as_str().and_then(|url| url.split_once("/?secret=")) {
            return Ok((own, Client::new(address, secret)));
        }
        own.end(Duration::ZERO);
        let code = own.child.try_wait().ok().flatten().and_then(|status| status.code());
        if code == Some(Exit::Conflict as i32) {
            return Err(Failure::new(Exit::Conflict, "another server is starting or ending in this directory").help("try again"));
        }
        let said = complaints.and_then(|thread| thread.join().ok()).unwrap_or_default();
        let said = said.lines().map(|line| line.trim_start_matches("error: ").trim());
        Err(said
            .filter(|line| !line.is_empty())
            .fold(cannot(), |failure, line| failure.cause(printable(line))))
    }

    /// Tells it to end, waits, and kills it if it does not.
    fn end(&mut self, patience: Duration) {
        self.child.stdin = None;
        let end = Instant::now() + patience;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > end {
                // It may be gone already.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        self.end(END);
    }
}

/// Reads on to the end, so that the server never waits for us, and keeps the beginning.
fn complaints(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        // What cannot be read is not known.
        let _ = (&mut from).take(MAX_COMPLAINTS).read_to_end(&mut kept);
        let _ = std::io::copy(&mut from, &mut std::io::sink());
        String::from_utf8_lossy(&kept).into_owned()
    })
}

/// The first line, if it comes in time.
fn first_line(from: impl Read + Send + 'static) -> Option<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = String::new();
        if from.read_line(&mut line).is_ok() {
            // Nobody may be waiting any more.
            let _ = sender.send(line);
        }
        let _ = std::io::copy(&mut from, &mut std::io::sink());
    });
    receiver.recv_timeout(PATIENCE).ok()
}

/// A text as one segment of a path, or one value of a query.
pub fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// The items of a list.
pub fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

/// A text member; empty if there is none.
pub fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

/// A number as the API writes it: those that JSON lacks are strings.
pub fn number(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("NaN") => Some(f64::NAN),
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        Some(_) => None,
        None => value.as_f64(),
    }
}

/// The numbers of an array.
pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(number).collect()
}

/// Text with everything visible that would steer a terminal or turn the order of letters: whoever wrote it may not be trusted.
pub fn printable(text: &str) -> Cow<'_, str> {
    let steers = |letter: char| {
        let turns = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        (letter.is_control() && letter != '\t') || turns
    };
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let shown = text.chars().map(|letter| match letter {
        _ if !steers(letter) => letter.to_string(),
        _ if u32::from(letter) < 256 => format!("\\x{:02x}", u32::from(letter)),
        _ => letter.escape_unicode().to_string(),
    });
    Cow::Owned(shown.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("step 1\tloss 2 \u{e9}"), "step 1\tloss 2 \u{e9}");
        assert_eq!(
            printable("\u{1b}[31mred\u{9b}2J\u{7}\r\u{202e}x"),
            "\\x1b[31mred\\x9b2J\\x07\\x0d\\u{202e}x"
        );
    }

    #[test]
    fn segments_keep_their_place() {
        assert_eq!(segment("a.b-c_1"), "a.b-c_1");
        assert_eq!(segment("a/b?c d\u{e9}"), "a%2Fb%3Fc%20d%C3%A9");
    }

    #[test]
    fn numbers_that_json_lacks() {
        assert_eq!(number(&json!(1.5)), Some(1.5));
        assert!(number(&json!("NaN")).is_some_and(f64::is_nan));
        assert_eq!(numbers(&json!(["-Infinity", 2, null, "x"])), [f64::NEG_INFINITY, 2.0]);
    }

    #[test]
    fn a_directory_without_jobs_starts_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path().join("none"));
        assert_eq!(local(&directory).unwrap_err().exit(), Exit::NotFound);
        assert!(!directory.root().exists());
    }
}
