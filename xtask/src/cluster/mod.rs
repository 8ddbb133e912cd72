//! `cargo xtask cluster`: a real Kubernetes on this machine, for trying what Fathom does in one. One per machine: its addresses are fixed.

mod check;
mod config;
mod dns;
mod files;
mod host;
mod processes;
mod programs;

pub use config::{Layout, PAUSE_IMAGE};
pub use programs::{file_error, folder as programs_folder};

use crate::error::Error;
use crate::image;
use crate::needs;
use crate::process::{self, Context};
use config::{Daemon, INTERFACE, MOST_NODES, node_address, node_name};
use processes::{Remedy, Started};
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const HELP: &str = "\
A real Kubernetes on this Linux machine, as root: for trying what Fathom does in a cluster.

Usage: cargo xtask cluster up [--nodes N] | down | status | check | build

Commands:
  up      Starts it, with at least N nodes (1 unless said; at most 4), waits until it is ready and prints the path of its kubeconfig:
            export KUBECONFIG=$(cargo xtask cluster up)
          One that is up is kept. One that is broken is begun anew: what was in it is lost
  down    Ends every process of it, those in pods included, and removes its state; what was built stays
  status  What runs, where the kubeconfig, kubectl and helm are, whether the nodes are ready; ends with 1 if it is not up
  build   Builds and fetches what `up` needs, and starts nothing
  check   Runs pods that must find each other and the API, under restricted pod security

The first `up` builds Kubernetes from its Go modules into the cache directory: 10 minutes or more. No container engine is
needed. `cargo xtask image` makes the image of Fathom and loads it into the nodes.
";

/// How long one step of the start may take, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(180);
const API_SERVICE: &str = "kubernetes.default.svc.cluster.local";

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Up(u8),
    Down,
    Status,
    Check,
    Build,
}

/// Runs a command of the cluster.
pub fn run(context: &Context, arguments: &[String]) -> Result<ExitCode, Error> {
    let Some(action) = parse(arguments)? else {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    if !cfg!(target_os = "linux") {
        return Err(Error::Missing("a cluster can be started on Linux only".into()));
    }
    if !needs::is_root() {
        return Err(Error::Missing(
            "a cluster has to be started by root, who may make namespaces, interfaces and mounts".into(),
        ));
    }
    let layout = layout(context)?;
    if action == Action::Status {
        // A look does not wait for who builds or starts.
        return status(&layout);
    }
    let _lock = lock(&layout)?;
    match action {
        Action::Up(nodes) => up(context, nodes).map(|()| ExitCode::SUCCESS),
        Action::Down => down(&layout).map(|()| ExitCode::SUCCESS),
        Action::Status => status(&layout),
        Action::Check => check::run(&layout).map(|()| ExitCode::SUCCESS),
        Action::Build => programs::prepare(context).map(|()| ExitCode::SUCCESS),
    }
}

/// Nothing if help is wanted.
fn parse(arguments: &[String]) -> Result<Option<Action>, Error> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["help"] => Ok(None),
        ["up"] => Ok(Some(Action::Up(1))),
        ["up", "--nodes", nodes] => match nodes.parse() {
            Ok(nodes) if (1..=MOST_NODES).contains(&nodes) => Ok(Some(Action::Up(nodes))),
            _ => Err(Error::Usage(format!("--nodes {nodes}: expected a number from 1 to {MOST_NODES}"))),
        },
        ["down"] => Ok(Some(Action::Down)),
        ["status"] => Ok(Some(Action::Status)),
        ["check"] => Ok(Some(Action::Check)),
        ["build"] => Ok(Some(Action::Build)),
        words if words.iter().any(|word| matches!(*word, "-h" | "--help")) => Ok(None),
        words => Err(Error::Usage(format!(
            "`cluster {}` is not understood; expected up [--nodes N], down, status, check or build",
            words.join(" ")
        ))),
    }
}

/// Where the cluster of this machine is, whether it is up or not.
pub fn layout(context: &Context) -> Result<Layout, Error> {
    let top = context.cache.join("kubernetes");
    std::fs::create_dir_all(&top).map_err(file_error(&top))?;
    // Mounts are listed by their real paths.
    let top = top.canonicalize().map_err(file_error(&top))?;
    let layout = Layout {
        state: top.join("state"),
        bin: programs::folder(context),
        plugins: programs::plugins().unwrap_or_default().to_string(),
    };
    match config::path_problem(&layout) {
        None => Ok(layout),
        Some(problem) => Err(Error::Missing(problem)),
    }
}

/// One command at a time; the lock ends with the process that has it.
fn lock(layout: &Layout) -> Result<std::fs::File, Error> {
    let path = layout.state.with_extension("lock");
    let file = std::fs::File::create(&path).map_err(file_error(&path))?;
    if file.try_lock().is_err() {
        eprintln!("Waiting for another `cargo xtask cluster` to end ...");
        file.lock().map_err(file_error(&path))?;
    }
    Ok(file)
}

/// The nodes that have been started.
pub fn nodes(layout: &Layout) -> impl Iterator<Item = u8> {
    (1..=MOST_NODES).filter(|node| layout.node(*node).is_dir())
}

/// The nodes whose containerd runs.
pub fn nodes_that_run(layout: &Layout) -> Vec<u8> {
    let running = processes::running(layout);
    config::daemons(layout, MOST_NODES)
        .iter()
        .filter(|daemon| daemon.name.starts_with("containerd") && processes::find(daemon, &running).is_some())
        .map(|daemon| daemon.node)
        .collect()
}

fn up(context: &Context, wanted: u8) -> Result<(), Error> {
    programs::prepare(context)?;
    // Only now is it known where the plugins are.
    let layout = &layout(context)?;
    let begin = Instant::now();
    let daemons = config::daemons(layout, wanted);
    let running = processes::running(layout);
    let there: Vec<u8> = nodes(layout).collect();
    let mut remedy = processes::remedy(&daemons, &running, |node| there.contains(&node));
    let same = |(path, text): &(_, String)| std::fs::read_to_string(path).is_ok_and(|found| found == *text);
    let kept = wanted.min(there.len() as u8);
    if !files::files(layout, kept).iter().all(same) {
        remedy = Remedy::Restart;
    }
    let mut started = Vec::new();
    let before = match &remedy {
        Remedy::Keep => Vec::new(),
        Remedy::Add(nodes) => {
            eprintln!("Adding {} node(s) ...", nodes.len());
            daemons.iter().filter(|daemon| nodes.contains(&daemon.node)).collect()
        }
        Remedy::Restart => {
            if layout.state.exists() || !running.is_empty() {
                eprintln!("The cluster is not whole: it is taken down and begun anew.");
                down(layout)?;
            }
            eprintln!("Starting Kubernetes {} with {wanted} node(s) ...", programs::KUBERNETES);
            daemons.iter().collect()
        }
    };
    let result = bring_up(context, layout, wanted, &before, &mut started);
    // What was started is ended with a failed start, but its logs stay for a look.
    if result.is_err() && remedy == Remedy::Restart {
        processes::end_all(layout)?;
    }
    result?;
    if !matches!(remedy, Remedy::Keep) {
        eprintln!("Ready after {:.1} s.", begin.elapsed().as_secs_f64());
    }
    println!("{}", layout.kubeconfig("admin").display());
    Ok(())
}

/// Starts the daemons and waits until the cluster with `nodes` nodes is ready.
fn bring_up<'a>(
    context: &Context,
    layout: &Layout,
    nodes: u8,
    daemons: &[&'a Daemon],
    started: &mut Vec<Started<'a>>,
) -> Result<(), Error> {
    let whole = daemons.iter().any(|daemon| daemon.node == 0);
    if !daemons.is_empty() {
        make_files(layout, nodes, whole)?;
        host::connect(layout, nodes)?;
    }
    let (first, rest): (Vec<_>, Vec<_>) = daemons.iter().partition(|daemon| config::first(daemon));
    // kube-proxy ends when the addresses of its node change, which they do while the node registers.
    let (proxy, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|daemon: &&&Daemon| daemon.name == "kube-proxy");
    for daemon in first {
        started.push(processes::start(layout, daemon)?);
    }
    processes::wait(layout, started, "kube-apiserver", "answering", PATIENCE, || {
        kubectl_succeeds(layout, &["get", "--raw=/readyz"])
    })?;
    let pause = image::pause(context)?;
    let with_containerd = daemons.iter().filter(|daemon| daemon.name.starts_with("containerd"));
    for daemon in with_containerd {
        let socket = layout.socket(daemon.node);
        processes::wait(layout, started, &daemon.name, "answering", PATIENCE, || {
            process::succeeds(ctr(&socket).arg("version"))
        })?;
        load(layout, daemon.node, &pause)?;
    }
    for daemon in rest {
        started.push(processes::start(layout, daemon)?);
    }
    for node in 1..=nodes {
        let name = format!("node/{}", node_name(node));
        let condition = "--for=condition=Ready";
        let blamed = format!("kubelet-{node}");
        processes::wait(layout, started, &blamed, "ready", PATIENCE, || {
            kubectl_succeeds(layout, &["wait", condition, "--timeout=0", &name])
        })?;
    }
    for daemon in proxy {
        started.push(processes::start(layout, daemon)?);
    }
    processes::wait(layout, started, "kube-proxy", "answering", PATIENCE, || {
        is_healthy(&format!("{}:{}", node_address(1), config::PROXY_HEALTH_PORT))
    })?;
    processes::wait(layout, started, "coredns", "answering", PATIENCE, || {
        dns::answers(node_address(1), API_SERVICE)
    })?;
    processes::wait(
        layout,
        started,
        "kube-controller-manager",
        "making service accounts",
        PATIENCE,
        || kubectl_succeeds(layout, &["get", "serviceaccount/default", "configmap/kube-root-ca.crt"]),
    )
}

/// Whether `/healthz` at an address says so.
fn is_healthy(address: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.split_whitespace().nth(1) == Some("200"))
}

/// Writes what the daemons read; secrets only for a new cluster.
fn make_files(layout: &Layout, nodes: u8, whole: bool) -> Result<(), Error> {
    let write = |path: &Path, text: &str| std::fs::write(path, text).map_err(file_error(path));
    for folder in ["logs", "kubeconfig", "etcd"] {
        let folder = layout.state.join(folder);
        std::fs::create_dir_all(&folder).map_err(file_error(&folder))?;
        // etcd insists on it.
        process::run(Command::new("chmod").arg("700").arg(&folder))?;
    }
    for node in 1..=nodes {
        let folder = layout.node(node).join("cni");
        std::fs::create_dir_all(&folder).map_err(file_error(&folder))?;
    }
    for (path, text) in files::files(layout, nodes) {
        write(&path, &text)?;
    }
    if !whole {
        return Ok(());
    }
    // Tokens and keys are for root.
    process::run(Command::new("chmod").arg("700").arg(&layout.state))?;
    let mut tokens = String::new();
    for user in config::users() {
        let token = random_token()?;
        tokens.push_str(&config::token_line(&user, &token));
        write(&layout.kubeconfig(&user.file), &config::kubeconfig(layout, &user.file, &token))?;
    }
    write(&layout.tokens(), &tokens)?;
    process::run(
        Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(layout.signing_key())
            .arg("2048")
            .stderr(Stdio::null()),
    )
}

fn random_token() -> Result<String, Error> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    std::fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(file_error(path))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Ends and removes everything. On a cluster that is down it does nothing.
fn down(layout: &Layout) -> Result<(), Error> {
    processes::end_all(layout)?;
    host::release(layout)
}

fn status(layout: &Layout) -> Result<ExitCode, Error> {
    let (text, whole) = describe(layout);
    // A reader that has seen enough (`| head`) is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What `status` prints, and whether everything runs and every node is ready.
fn describe(layout: &Layout) -> (String, bool) {
    let nodes = nodes(layout).count() as u8;
    if nodes == 0 {
        return ("The cluster is down.\n".into(), false);
    }
    let running = processes::running(layout);
    let mut lines = Vec::new();
    let mut whole = true;
    for daemon in config::daemons(layout, nodes) {
        let found = processes::find(&daemon, &running);
        whole &= found.is_some();
        let state = found.map_or("does not run             ".into(), |process| {
            let memory = processes::memory_mib(process.pid).unwrap_or(0);
            format!("process {:>7}, {memory:>4} MiB", process.pid)
        });
        lines.push((daemon.name.clone(), format!("{state}  {}", layout.log(&daemon.name).display())));
    }
    let mut line = |name: &str, value: String| lines.push((name.to_string(), value));
    line("containers", processes::containers(layout).len().to_string());
    line("network", format!("{INTERFACE}, {}", config::NETWORK));
    line("kubeconfig", layout.kubeconfig("admin").display().to_string());
    for program in ["kubectl", "helm"] {
        line(program, layout.bin.join(program).display().to_string());
    }
    let mut text: String = lines.iter().map(|(name, value)| format!("{name:<24} {value}\n")).collect();
    if whole {
        let listed = process::output(kubectl(layout).args(["get", "nodes", "-o", "wide"]));
        let ready = kubectl_succeeds(layout, &["wait", "--for=condition=Ready", "--timeout=0", "nodes", "--all"]);
        whole = ready && listed.is_ok();
        text.push_str(&listed.unwrap_or_else(|error| format!("{error}\n")));
    }
    (text, whole)
}

/// kubectl, for the administrator.
fn kubectl(layout: &Layout) -> Command {
    let mut command = Command::new(layout.bin.join("kubectl"));
    command
        .arg("--kubeconfig")
        .arg(layout.kubeconfig("admin"))
        // A proxy for the outside does not reach addresses of this machine.
        .env("NO_PROXY", "*");
    command
}

fn kubectl_succeeds(layout: &Layout, arguments: &[&str]) -> bool {
    process::succeeds(kubectl(layout).arg("--request-timeout=5s").args(arguments))
}

fn ctr(socket: &Path) -> Command {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket).args(["--namespace", "k8s.io"]);
    command
}

/// Loads an image into a node.
pub fn load(layout: &Layout, node: u8, archive: &Path) -> Result<(), Error> {
    process::run(
        ctr(&layout.socket(node))
            .args(["images", "import", "--snapshotter", "native"])
            .arg(archive)
            .stdout(Stdio::null()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_understood_or_refused() {
        let parse = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_string).collect();
            parse(&words)
        };
        assert_eq!(parse("up").unwrap(), Some(Action::Up(1)));
        assert_eq!(parse("up --nodes 2").unwrap(), Some(Action::Up(2)));
        assert_eq!(parse("down").unwrap(), Some(Action::Down));
        assert_eq!(parse("up --help").unwrap(), None);
        for wrong in [
            "up --nodes 0",
            "up --nodes 5",
            "up --nodes two",
            "up --nodes",
            "start",
            "down --all",
        ] {
            assert!(matches!(parse(wrong), Err(Error::Usage(_))), "{wrong}");
        }
    }
}
