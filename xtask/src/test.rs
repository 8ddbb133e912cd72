//! `cargo xtask test`: everything that must hold before a change lands, cheapest first.

use crate::error::Error;
use crate::process::{self, Context};
use crate::{foreign, generate, tidy, web};
use std::time::Instant;

/// Version of cargo-deny that checks licences and bans; built once per machine into the cache directory.
const CARGO_DENY: &str = "0.20.2";

/// What a step came to, if it did not fail.
enum Outcome {
    Passed,
    /// With what was left out, and why.
    Skipped(Vec<String>),
}

struct Step {
    name: &'static str,
    run: fn(&Context) -> Result<Outcome, Error>,
}

/// In this order. A failing step does not stop the ones after it, so that one run shows everything.
const STEPS: &[Step] = &[
    Step {
        name: "tidy",
        run: |context| tidy::run(context).map(|()| Outcome::Passed),
    },
    Step {
        name: "fmt",
        run: |context| cargo(context, &["fmt", "--all", "--check"]),
    },
    // Before cargo, which embeds the result.
    Step {
        name: "web",
        run: |context| {
            where_node_is(context, |context| {
                web::check(context)?;
                web::build(context)?;
                Ok(Outcome::Passed)
            })
        },
    },
    Step {
        name: "clippy",
        run: |context| {
            cargo(
                context,
                &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
            )
        },
    },
    Step { name: "deny", run: deny },
    Step {
        name: "test",
        run: |context| cargo(context, &["test", "--workspace", "--locked"]),
    },
    Step {
        name: "generated files",
        run: |context| generate::run(context, true).map(|()| Outcome::Passed),
    },
    Step {
        name: "browser",
        run: |context| {
            where_node_is(context, |context| {
                Ok(if web::browse(context)? {
                    Outcome::Passed
                } else {
                    Outcome::Skipped(vec!["there is no Chromium; on Debian: apt-get install chromium".into()])
                })
            })
        },
    },
    Step { name: "doc", run: doc },
    Step {
        name: "other languages",
        run: |context| {
            let skipped = foreign::run(context)?;
            Ok(if skipped.is_empty() {
                Outcome::Passed
            } else {
                Outcome::Skipped(skipped)
            })
        },
    },
];

/// Runs all steps and ends with a table of results; an error names the steps that failed.
pub fn run(context: &Context, install_python: bool) -> Result<(), Error> {
    if install_python {
        foreign::install(context)?;
    }
    let mut summary = Vec::new();
    let mut failed = Vec::new();
    for Step { name, run } in STEPS {
        println!("\n==> {name}");
        let start = Instant::now();
        let result = match run(context) {
            Ok(Outcome::Passed) => "ok".to_string(),
            Ok(Outcome::Skipped(reasons)) => format!("ok, skipped: {}", reasons.join("; ")),
            Err(error) => {
                eprintln!("error: {error}");
                failed.push((*name).to_string());
                "FAILED".to_string()
            }
        };
        let line = format!("{name:16} {:7.1} s  {result}", start.elapsed().as_secs_f64());
        println!("<== {line}");
        summary.push(line);
    }
    println!("\n{}", summary.join("\n"));
    if failed.is_empty() { Ok(()) } else { Err(Error::Steps(failed)) }
}

/// Runs a step that needs Node, or says why not.
fn where_node_is(context: &Context, run: impl Fn(&Context) -> Result<Outcome, Error>) -> Result<Outcome, Error> {
    match web::missing() {
        None => run(context),
        Some(reason) => Ok(Outcome::Skipped(vec![reason])),
    }
}

fn cargo(context: &Context, arguments: &[&str]) -> Result<Outcome, Error> {
    process::run(&mut context.cargo(arguments)).map(|()| Outcome::Passed)
}

/// Licences and bans of `deny.toml`, offline. cargo-deny reads the manifests of every target's crates, so they are fetched first.
fn deny(context: &Context) -> Result<Outcome, Error> {
    let root = context.cache.join("tools");
    let program = root.join("bin").join(format!("cargo-deny{}", std::env::consts::EXE_SUFFIX));
    let installed = process::works(&program, "--version")
        && process::output(&mut context.command(&program, &["--version"]))?.trim() == format!("cargo-deny {CARGO_DENY}");
    if !installed {
        println!("building cargo-deny {CARGO_DENY} once, into {}", root.display());
        let root = root.to_string_lossy();
        let mut install = context.cargo(&[
            "install",
            "--quiet",
            "--locked",
            "--force",
            "--root",
            &root,
            "cargo-deny",
            "--version",
            CARGO_DENY,
        ]);
        process::run(&mut install)?;
    }
    process::run(&mut context.cargo(&["fetch", "--locked", "--quiet"]))?;
    process::run(&mut context.command(&program, &["--offline", "--log-level", "error", "check", "licenses", "bans"]))?;
    Ok(Outcome::Passed)
}

fn doc(context: &Context) -> Result<Outcome, Error> {
    let mut command = context.cargo(&["doc", "--workspace", "--no-deps", "--locked", "--quiet"]);
    process::run(command.env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(Outcome::Passed)
}
