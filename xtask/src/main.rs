//! `cargo xtask`: the developer commands. It only shells out (cargo, git, python) and reads files: no crate of the workspace is a
//! dependency, so it compiles in seconds.

mod bench;
mod cluster;
mod database;
mod error;
mod foreign;
mod generate;
mod image;
mod needs;
mod process;
mod quickstart;
mod test;
mod tidy;
mod web;

use crate::error::Error;
use crate::process::Context;
use std::process::ExitCode;

const HELP: &str = "\
Developer commands of Fathom.

Usage: cargo xtask COMMAND [OPTIONS]

Commands:
  quickstart [ARGS...]  Build the release binary and run examples/quickstart.yaml; ARGS go to `fathom run`
  test [--python]       Everything that must hold before a change lands; --python also installs what the Python checks need
  tidy                  Crate edges, sources, licences of exceptions: what the compiler does not check
  gen [--check]         Rewrite the generated files that are committed; --check only compares
  bench train|history   Measure training speed, or the history; `cargo xtask bench --help` lists the options
  cluster up|down|...   A real Kubernetes on this machine; `cargo xtask cluster` lists what it can
  image                 Make the image of Fathom and load it into the cluster; `cargo xtask image --help` lists the options
  help                  This text

Environment:
  FATHOM_CACHE      Where builds, tools and virtual environments are kept (default: $XDG_CACHE_HOME/fathom or ~/.cache/fathom)
  CARGO_TARGET_DIR  Where cargo builds; $FATHOM_CACHE/target unless set, shared by all clones on this machine
  FATHOM_BLESS=1    Tests with golden files rewrite them instead of comparing
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            match error {
                Error::Usage(_) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<ExitCode, Error> {
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", arguments),
    };
    if matches!(command, "help" | "-h" | "--help") || (!matches!(command, "bench" | "cluster" | "image") && wants_help(rest)) {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    let context = Context::from_environment()?;
    match command {
        // Nothing of these has to be built by cargo, or they build it themselves.
        "cluster" => return cluster::run(&context, rest),
        "image" => return image::run(&context, rest),
        _ => context.claim_target()?,
    }
    match command {
        "quickstart" => quickstart::run(&context, rest),
        "test" => test::run(&context, flag(rest, "--python")?).map(|()| ExitCode::SUCCESS),
        "tidy" => {
            no_arguments(rest)?;
            tidy::run(&context)?;
            generate::run(&context, true)?;
            println!("tidy: nothing to complain about");
            Ok(ExitCode::SUCCESS)
        }
        "gen" => generate::run(&context, flag(rest, "--check")?).map(|()| ExitCode::SUCCESS),
        "bench" => bench::run(&context, rest).map(|()| ExitCode::SUCCESS),
        unknown => Err(Error::Usage(format!(
            "unknown command `{unknown}`; expected quickstart, test, tidy, gen, bench, cluster or image"
        ))),
    }
}

/// Whether help is asked for; what follows `--` is meant for another program.
fn wants_help(arguments: &[String]) -> bool {
    arguments
        .iter()
        .take_while(|argument| argument.as_str() != "--")
        .any(|argument| matches!(argument.as_str(), "-h" | "--help"))
}

/// Whether the only allowed flag is given; anything else is refused.
fn flag(arguments: &[String], name: &str) -> Result<bool, Error> {
    match arguments {
        [] => Ok(false),
        [only] if only == name => Ok(true),
        [first, ..] => Err(Error::Usage(format!("unexpected argument `{first}`; only `{name}` is known here"))),
    }
}

fn no_arguments(arguments: &[String]) -> Result<(), Error> {
    match arguments {
        [] => Ok(()),
        [first, ..] => Err(Error::Usage(format!("unexpected argument `{first}`; this command takes none"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(arguments: &[&str]) -> Vec<String> {
        arguments.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_the_known_flag_is_accepted() {
        assert!(!flag(&[], "--check").unwrap());
        assert!(flag(&owned(&["--check"]), "--check").unwrap());
        assert!(flag(&owned(&["--chek"]), "--check").is_err());
        assert!(flag(&owned(&["--check", "--check"]), "--check").is_err());
    }

    #[test]
    fn help_after_two_dashes_belongs_to_the_other_program() {
        assert!(wants_help(&owned(&["-h"])));
        assert!(!wants_help(&owned(&["--", "--help"])));
    }
}
