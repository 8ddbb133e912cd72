//! The cluster's processes: which of them run, how one is started, how all are ended. Nothing is remembered between commands: what runs is
//! read from `/proc`, so a cluster whose starter was killed is known as well.

use super::config::{Daemon, Layout};
use super::programs::file_error;
use crate::error::Error;
use crate::process;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The programs that a cluster's state directory is an argument of. Other programs may name it too: an editor, a `tail`, a client.
const PROGRAMS: [&str; 10] = [
    "etcd",
    "containerd",
    "containerd-shim-runc-v2",
    "runc",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "coredns",
    "kubelet",
];
/// How long processes may take to vanish after they were killed.
const END_PATIENCE: Duration = Duration::from_secs(20);
/// How many lines of a log an error shows.
const TAIL_LINES: usize = 15;

/// A process of the cluster.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// What was started by this command, and is watched until all is ready.
pub struct Started<'a> {
    daemon: &'a Daemon,
    child: Child,
}

/// The processes that have the state directory in their command line, containers aside.
pub fn running(layout: &Layout) -> Vec<Process> {
    processes()
        .filter_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let command: Vec<String> = String::from_utf8_lossy(&line).split_terminator('\0').map(str::to_string).collect();
            belongs(&command, &layout.state).then_some(Process { pid, command })
        })
        .collect()
}

/// Whether a command line is that of a process of the cluster with this state directory.
fn belongs(command: &[String], state: &Path) -> bool {
    let Some((program, arguments)) = command.split_first() else {
        return false;
    };
    let known = Path::new(program)
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| PROGRAMS.contains(&name));
    let folder = format!("{}/", state.display());
    known && arguments.iter().any(|argument| argument.contains(&folder))
}

/// Every process of the machine.
fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The containers that nodes have started, by their number; each has a directory as long as it was not cleaned up.
pub fn containers(layout: &Layout) -> Vec<PathBuf> {
    let nodes = std::fs::read_dir(&layout.state).into_iter().flatten().flatten();
    nodes
        .map(|node| node.path().join("run/io.containerd.runtime.v2.task/k8s.io"))
        .filter_map(|tasks| std::fs::read_dir(tasks).ok())
        .flat_map(Iterator::flatten)
        .map(|task| task.path())
        .collect()
}

/// The last part of a path.
fn id(container: &Path) -> String {
    container
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The processes in containers, known by their cgroups.
fn contained(containers: &[PathBuf]) -> Vec<u32> {
    let ids: Vec<String> = containers.iter().map(|container| id(container)).collect();
    processes()
        .filter(|pid| {
            let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            in_one_of(&cgroups, &ids)
        })
        .collect()
}

/// Whether a `/proc/PID/cgroup` names a cgroup of one of the containers.
fn in_one_of(cgroups: &str, ids: &[String]) -> bool {
    cgroups
        .lines()
        .flat_map(|line| line.split('/'))
        .any(|part| ids.iter().any(|id| id == part))
}

/// Whether a daemon is among the running processes, with these arguments.
pub fn find<'a>(daemon: &Daemon, running: &'a [Process]) -> Option<&'a Process> {
    running.iter().find(|process| process.command == daemon.command)
}

/// Memory in use, in MiB.
pub fn memory_mib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

/// Starts a daemon in a session of its own, so that it outlives us and the terminal.
pub fn start<'a>(layout: &Layout, daemon: &'a Daemon) -> Result<Started<'a>, Error> {
    let path = layout.log(&daemon.name);
    let log = std::fs::File::create(&path).map_err(file_error(&path))?;
    let copy = log.try_clone().map_err(file_error(&path))?;
    let search = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("setsid");
    command
        .args(&daemon.command)
        // Daemons of root, and a caller whose PATH is that of a user.
        .env("PATH", format!("{search}:/usr/local/sbin:/usr/sbin:/sbin"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(copy);
    let child = command.spawn().map_err(|source| process::start_error(&command, source))?;
    Ok(Started { daemon, child })
}

/// Waits until `ready`, and fails as soon as one of the processes has ended, or after `patience`: then `blamed` is the one that
/// the error shows the log of.
pub fn wait(
    layout: &Layout,
    started: &mut [Started],
    blamed: &str,
    what: &str,
    patience: Duration,
    ready: impl Fn() -> bool,
) -> Result<(), Error> {
    let begin = Instant::now();
    loop {
        if ready() {
            return Ok(());
        }
        for Started { daemon, child } in started.iter_mut() {
            // A process whose end cannot be asked for is taken for a running one: the patience ends.
            if let Ok(Some(status)) = child.try_wait() {
                return Err(failure(layout, &daemon.name, format!("ended ({status})")));
            }
        }
        if begin.elapsed() > patience {
            return Err(failure(
                layout,
                blamed,
                format!("did not do its work: after {patience:?} still not {what}"),
            ));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn failure(layout: &Layout, name: &str, problem: String) -> Error {
    let log = layout.log(name);
    let text = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Error::Daemon {
        name: name.into(),
        problem,
        tail: text.map_or_else(|error| error.to_string(), |text| last_lines(&text)),
        log,
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// Ends every process of the cluster, those in containers included. They are not asked: nothing of what they have is kept.
pub fn end_all(layout: &Layout) -> Result<(), Error> {
    let containers = containers(layout);
    let end = Instant::now() + END_PATIENCE;
    loop {
        let mut pids: Vec<u32> = running(layout).iter().map(|process| process.pid).collect();
        pids.extend(contained(&containers));
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(Error::Missing(format!(
                "processes that cannot be killed: {pids:?}; look at them with `ps -fp`, then run this again"
            )));
        }
        let numbers = pids.iter().map(ToString::to_string);
        // One that is gone already is what we want.
        let _ = Command::new("kill").arg("-KILL").args(numbers).stderr(Stdio::null()).status();
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What to do about a cluster of which some processes run.
#[derive(Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Everything runs.
    Keep,
    /// Only these nodes are missing, and were never there.
    Add(Vec<u8>),
    /// Something has ended, or runs with other arguments.
    Restart,
}

/// Compares what should run with what does. `exists` says whether a node has been there.
pub fn remedy(wanted: &[Daemon], running: &[Process], exists: impl Fn(u8) -> bool) -> Remedy {
    let missing: Vec<&Daemon> = wanted.iter().filter(|daemon| find(daemon, running).is_none()).collect();
    if missing.is_empty() {
        return Remedy::Keep;
    }
    if missing.iter().any(|daemon| daemon.node == 0 || exists(daemon.node)) {
        return Remedy::Restart;
    }
    let mut nodes: Vec<u8> = missing.iter().map(|daemon| daemon.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    Remedy::Add(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_string).collect()
    }

    #[test]
    fn only_the_clusters_own_programs_belong_to_it() {
        let state = Path::new("/cache/state");
        let cases = [
            ("/cache/bin/etcd --data-dir=/cache/state/etcd", true),
            ("/usr/bin/containerd-shim-runc-v2 -address /cache/state/node1/containerd.sock", true),
            ("containerd --config /cache/state/node1/containerd.toml", true),
            ("containerd --config /cache/state-of-another/node1/containerd.toml", false),
            ("containerd", false),
            ("tail -f /cache/state/logs/etcd.log", false),
            ("kubectl --kubeconfig /cache/state/kubeconfig/admin get pods", false),
            ("", false),
        ];
        for (line, expected) in cases {
            assert_eq!(belongs(&words(line), state), expected, "{line}");
        }
        assert!(!belongs(&[], state));
    }

    #[test]
    fn a_containers_processes_are_known_by_their_cgroup() {
        let ids = ["abc".to_string()];
        assert!(in_one_of("12:memory:/k8s.io/abc\n0::/k8s.io/abc\n", &ids));
        assert!(in_one_of("0::/k8s.io/abc/inner\n", &ids));
        assert!(!in_one_of("0::/k8s.io/abcd\n0::/\n", &ids));
        assert!(!in_one_of("0::/k8s.io/abc\n", &[]));
    }

    #[test]
    fn only_nodes_that_were_never_there_are_added() {
        let daemon = |name: &str, node: u8| Daemon {
            name: name.into(),
            node,
            command: words(name),
        };
        let wanted = [
            daemon("etcd", 0),
            daemon("kubelet-1", 1),
            daemon("kubelet-2", 2),
            daemon("containerd-2", 2),
        ];
        let run = |names: &[&str]| -> Vec<Process> {
            names
                .iter()
                .map(|name| Process {
                    pid: 1,
                    command: words(name),
                })
                .collect()
        };
        let one = |node: u8| node == 1;
        let all = run(&["etcd", "kubelet-1", "kubelet-2", "containerd-2"]);
        assert_eq!(remedy(&wanted, &all, one), Remedy::Keep);
        assert_eq!(remedy(&wanted, &run(&["etcd", "kubelet-1"]), one), Remedy::Add(vec![2]));
        assert_eq!(remedy(&wanted, &run(&["etcd", "kubelet-1"]), |_| true), Remedy::Restart);
        assert_eq!(remedy(&wanted, &run(&["etcd"]), one), Remedy::Restart);
        assert_eq!(remedy(&wanted, &run(&["kubelet-1"]), one), Remedy::Restart);
        assert_eq!(remedy(&wanted, &run(&["etcd --other", "kubelet-1"]), one), Remedy::Restart);
    }

    #[test]
    fn the_end_of_a_log_is_shown() {
        let text: String = (0..100).map(|number| format!("line {number}\n")).collect();
        let tail = last_lines(&text);
        assert!(tail.starts_with("line 85\n") && tail.ends_with("line 99"), "{tail}");
        assert_eq!(last_lines(""), "");
    }
}
