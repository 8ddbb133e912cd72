//! The dashboard: built with Node before cargo builds the API, which embeds it. Where Node is missing everything else works.

use crate::error::Error;
use crate::process::{self, Context};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What Vite needs.
const NODE: u32 = 20;

/// Why the dashboard cannot be built here, with the cure; nothing if it can.
pub fn missing() -> Option<String> {
    let version = process::output(Command::new("node").arg("--version").stderr(std::process::Stdio::null())).unwrap_or_default();
    let major = version
        .trim()
        .trim_start_matches('v')
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(major) if major >= NODE && process::works("npm", "--version") => None,
        Some(major) if major >= NODE => Some("npm is missing; it comes with Node from https://nodejs.org".into()),
        Some(major) => Some(format!(
            "Node {major} is too old for the dashboard; install {NODE} or newer from https://nodejs.org"
        )),
        None => Some(format!(
            "Node is missing; install {NODE} or newer from https://nodejs.org to get the dashboard"
        )),
    }
}

/// Builds `web/dist` unless it is that of these sources already.
pub fn build(context: &Context) -> Result<(), Error> {
    let web = context.root.join("web");
    let stamp = web.join("dist").join(".sources");
    let sources = digest(context)?;
    if std::fs::read_to_string(&stamp).is_ok_and(|built| built == sources) {
        return Ok(());
    }
    install(context)?;
    process::run(&mut npm(context, &["run", "--silent", "build"]))?;
    std::fs::write(&stamp, sources).map_err(|source| Error::File { path: stamp, source })
}

/// Types and unit tests.
pub fn check(context: &Context) -> Result<(), Error> {
    install(context)?;
    process::run(&mut npm(context, &["run", "--silent", "check"]))?;
    process::run(&mut npm(context, &["test", "--silent"]))
}

/// Every page in a real browser: on a real training run, on runs that go wrong, on a large history.
/// Returns whether there is a browser.
pub fn browse(context: &Context) -> Result<bool, Error> {
    for script in [&["e2e"][..], &["faults"], &["load", "--", "--small"]] {
        let arguments = &[&["run", "--silent"], script].concat();
        if !process::run_if_possible(npm(context, arguments).env("FATHOM_BIN", context.fathom("debug")))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Installs what `package-lock.json` names, once.
fn install(context: &Context) -> Result<(), Error> {
    let modified = |path: PathBuf| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let web = context.root.join("web");
    let installed = modified(web.join("node_modules").join(".package-lock.json"));
    if installed.is_some() && installed >= modified(web.join("package-lock.json")) {
        return Ok(());
    }
    process::run(&mut npm(context, &["ci", "--silent", "--no-audit", "--no-fund"]))
}

fn npm(context: &Context, arguments: &[&str]) -> Command {
    let mut command = context.command("npm", arguments);
    command.current_dir(context.root.join("web"));
    command
}

/// A digest of everything the build reads: what git knows in `web/`, and the API's description.
fn digest(context: &Context) -> Result<String, Error> {
    let listed = process::output(&mut context.command("git", &["ls-files", "--cached", "--others", "--exclude-standard", "web"]))?;
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for name in listed.lines() {
        let path = Path::new(name);
        // A file that was deleted but not yet committed.
        let Ok(bytes) = std::fs::read(context.root.join(path)) else {
            continue;
        };
        for byte in name.bytes().chain(bytes) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    Ok(format!("{hash:016x}"))
}
