//! `cargo xtask quickstart`: from a fresh clone to a trained model.

use crate::error::Error;
use crate::needs::{self, Need};
use crate::process::{self, Context};
use crate::web;
use std::process::{Command, ExitCode};

/// rustc links through the C compiler, and the crates `zstd-sys` and `blake3` compile C and assembly: nothing else is needed.
const COMPILER: Need = Need {
    what: "a C compiler and the headers of the C library",
    debian: &["gcc", "libc6-dev"],
    elsewhere: "Fedora: dnf install gcc glibc-devel; Arch: pacman -S base-devel; Alpine: apk add gcc musl-dev; macOS: xcode-select --install",
};

/// Builds the release binary and runs the quickstart manifest; the exit code is that of `fathom run`.
pub fn run(context: &Context, arguments: &[String]) -> Result<ExitCode, Error> {
    let manifest = "examples/quickstart.yaml";
    if !context.root.join(manifest).is_file() {
        return Err(Error::Missing(format!("{manifest} is missing in this clone")));
    }
    build(context)?;

    let mut command = context.command(context.fathom("release"), &["run", manifest]);
    command.args(arguments.iter().filter(|argument| *argument != "--"));
    eprintln!("Running {}", process::display(&command));
    replace(command)
}

/// Builds the release binary, with the dashboard where Node is there.
pub fn build(context: &Context) -> Result<(), Error> {
    needs::require(&COMPILER, || compiler_works(context))?;
    match web::missing() {
        None => web::build(context)?,
        Some(reason) => eprintln!("{reason}. Everything else works without it."),
    }
    eprintln!("Building fathom into {} ...", context.target.display());
    process::run(&mut context.cargo(&["build", "--release", "--locked", "-p", "fathom"]))
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
