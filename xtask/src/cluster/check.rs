//! Whether the cluster gives pods what Fathom's pods need.

use super::config::{Layout, PAUSE_IMAGE};
use super::{kubectl, kubectl_succeeds};
use crate::error::Error;
use crate::process;
use std::io::Write;
use std::process::Stdio;
use std::time::Instant;

const MANIFEST: &str = include_str!("../../cluster/check.yaml");
const NAMESPACE: &str = "fathom-check";

/// Runs the job of the manifest to its end and shows what its pods say.
pub fn run(layout: &Layout) -> Result<(), Error> {
    if !kubectl_succeeds(layout, &["get", "--raw=/readyz"]) {
        return Err(Error::Missing("the cluster is down; start it with `cargo xtask cluster up`".into()));
    }
    remove(layout)?;
    let begin = Instant::now();
    apply(layout)?;
    let waited = process::run(
        kubectl(layout)
            .args(["-n", NAMESPACE, "wait", "--for=condition=Complete", "--timeout=120s", "job/probe"])
            .stdout(Stdio::null()),
    );
    if waited.is_ok() {
        eprintln!("Both pods were done after {:.1} s.", begin.elapsed().as_secs_f64());
    }
    let show = |arguments: &[&str]| process::run(kubectl(layout).args(["-n", NAMESPACE]).args(arguments));
    show(&["get", "pods", "-o", "wide"])?;
    show(&["logs", "--selector=app=probe", "--prefix", "--tail=-1"])?;
    waited?;
    refuses_privileges(layout)?;
    remove(layout)
}

fn apply(layout: &Layout) -> Result<(), Error> {
    let mut command = kubectl(layout);
    command.args(["apply", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let failed = |source| process::start_error(&kubectl(layout), source);
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(MANIFEST.as_bytes()).map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed {
        command: process::display(&command),
        status: status.to_string(),
    })
}

/// A pod that wants more than `restricted` allows must not be admitted.
fn refuses_privileges(layout: &Layout) -> Result<(), Error> {
    let mut command = kubectl(layout);
    command
        .args(["-n", NAMESPACE, "run", "free", "--dry-run=server", "--privileged"])
        .arg(format!("--image={PAUSE_IMAGE}"));
    let output = command.output().map_err(|source| process::start_error(&command, source))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() || !said.contains("violates PodSecurity") {
        return Err(Error::Output {
            command: process::display(&command),
            problem: format!("a privileged pod was not refused for its privileges: {said}"),
        });
    }
    println!("a privileged pod is refused");
    Ok(())
}

fn remove(layout: &Layout) -> Result<(), Error> {
    for resource in ["namespace", "clusterrolebinding"] {
        process::run(
            kubectl(layout)
                .args(["delete", resource, NAMESPACE, "--ignore-not-found", "--wait=true"])
                .stdout(Stdio::null()),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_uses_the_image_that_nodes_have() {
        assert!(MANIFEST.contains(&format!("image: {PAUSE_IMAGE}\n")));
        assert!(MANIFEST.contains(&format!("namespace: {NAMESPACE}\n")));
    }
}
