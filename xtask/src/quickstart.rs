//! `cargo xtask quickstart`: from a fresh clone to a trained model.

use crate::error::Error;
use crate::process::{self, Context};
use crate::web;
use std::path::Path;
use std::process::{Command, ExitCode};

/// What the build needs beyond the Rust toolchain.
struct Need {
    /// What it is, for people.
    what: &'static str,
    /// Debian packages that provide it.
    debian: &'static [&'static str],
    /// What to do elsewhere.
    elsewhere: &'static str,
}

/// rustc links through the C compiler, and the crates `zstd-sys` and `blake3` compile C and assembly: nothing else is needed.
const COMPILER: Need = Need {
    what: "a C compiler and the headers of the C library",
    debian: &["gcc", "libc6-dev"],
    elsewhere: "Fedora: dnf install gcc glibc-devel; Arch: pacman -S base-devel; Alpine: apk add gcc musl-dev; macOS: xcode-select --install",
};

/// Builds the release binary and runs the quickstart manifest; the exit code is that of `fathom run`.
pub fn run(context: &Context, arguments: &[String]) -> Result<ExitCode, Error> {
    if !compiler_works(context)? {
        install(&COMPILER)?;
        if !compiler_works(context)? {
            return Err(Error::Missing(format!("{} is still missing after the installation", COMPILER.what)));
        }
    }
    let manifest = "examples/quickstart.yaml";
    if !context.root.join(manifest).is_file() {
        return Err(Error::Missing(format!("{manifest} is missing in this clone")));
    }
    match web::missing() {
        None => web::build(context)?,
        Some(reason) => eprintln!("{reason}. Everything else works without it."),
    }
    eprintln!("Building fathom into {} ...", context.target.display());
    process::run(&mut context.cargo(&["build", "--release", "--locked", "-p", "fathom"]))?;

    let mut command = context.command(context.fathom("release"), &["run", manifest]);
    command.args(arguments.iter().filter(|argument| *argument != "--"));
    eprintln!("Running {}", process::display(&command));
    replace(command)
}

/// Becomes the program, so that Ctrl-C and the exit code are its own; returns only where it could not be started.
#[cfg(unix)]
fn replace(mut command: Command) -> Result<ExitCode, Error> {
    let source = std::os::unix::process::CommandExt::exec(&mut command);
    Err(process::start_error(&command, source))
}

#[cfg(not(unix))]
fn replace(mut command: Command) -> Result<ExitCode, Error> {
    let status = command.status().map_err(|source| process::start_error(&command, source))?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Compiles a one-line program that needs a header of the C library. xtask itself was linked by some C compiler, so a failure means
/// that `CC` points astray or that headers are missing.
fn compiler_works(context: &Context) -> Result<bool, Error> {
    let directory = context.cache.join("check");
    let file = |name: &str| directory.join(format!("{}-{name}", std::process::id()));
    let (source, object) = (file("header.c"), file("header.o"));
    std::fs::create_dir_all(&directory)
        .and_then(|()| std::fs::write(&source, "#include <stdlib.h>\nint fathom(void) { return EXIT_SUCCESS; }\n"))
        .map_err(|error| Error::File {
            path: source.clone(),
            source: error,
        })?;
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    // CC may carry a wrapper and flags (`ccache gcc`), as the cc crate allows.
    let mut words = compiler.split_whitespace();
    let program = words.next().unwrap_or("cc");
    let works = Command::new(program)
        .args(words)
        .arg("-c")
        .arg(&source)
        .arg("-o")
        .arg(&object)
        .status()
        .is_ok_and(|status| status.success());
    // Leftovers in the cache do no harm.
    let _ = std::fs::remove_file(&source);
    let _ = std::fs::remove_file(&object);
    Ok(works)
}

/// On Debian as root: installs what is missing. Elsewhere: says what to do.
fn install(need: &Need) -> Result<(), Error> {
    let packages = need.debian.join(" ");
    let debian = Path::new("/etc/debian_version").exists();
    if !(debian && is_root()) {
        let cure = if debian {
            format!("as root: apt-get install --no-install-recommends {packages}")
        } else {
            need.elsewhere.to_string()
        };
        return Err(Error::Missing(format!(
            "{} is missing. Install it, then run this again. {cure}",
            need.what
        )));
    }
    eprintln!("{} is missing: installing {packages}", need.what);
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        process::run(&mut command)
    };
    apt(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(need.debian);
    apt(&arguments)
}

fn is_root() -> bool {
    process::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}
