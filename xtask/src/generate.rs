//! `cargo xtask gen`: the generated files that are committed, and the check that they are fresh. Golden files of tests are not listed
//! here: `FATHOM_BLESS=1 cargo test` rewrites them.

use crate::database;
use crate::error::Error;
use crate::process::{self, Context};

/// A committed file that is the standard output of a `fathom` command.
struct Generated {
    path: &'static str,
    arguments: &'static [&'static str],
}

const GENERATED: &[Generated] = &[
    Generated {
        path: "docs/schema/deepseekv3job.schema.json",
        arguments: &["schema"],
    },
    Generated {
        path: "api/openapi.json",
        arguments: &["schema", "--api"],
    },
];

/// Rewrites the generated files, or with `check` reports those that are stale.
pub fn run(context: &Context, check: bool) -> Result<(), Error> {
    let mut problems = Vec::new();
    // First: a store whose queries have changed does not compile before they are described.
    database::generate(context, check, &mut problems)?;
    // With the features of the tests, so that nothing is built twice.
    process::run(&mut context.cargo(&["test", "--workspace", "--no-run", "--quiet"]))?;
    for Generated { path, arguments } in GENERATED {
        let mut command = context.command(context.fathom("debug"), arguments);
        let fresh = process::output(&mut command)?;
        if fresh.trim().is_empty() {
            return Err(Error::Output {
                command: process::display(&command),
                problem: format!("printed nothing; {path} is left as it is"),
            });
        }
        settle(context, path, &with_one_final_newline(&fresh), check, &mut problems)?;
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Rules(problems)) }
}

/// Compares a committed file with its fresh text; without `check` rewrites it.
pub fn settle(context: &Context, path: &str, fresh: &str, check: bool, problems: &mut Vec<String>) -> Result<(), Error> {
    let file = context.root.join(path);
    let file_error = |source| Error::File {
        path: file.clone(),
        source,
    };
    let committed = match std::fs::read_to_string(&file) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(file_error(error)),
    };
    match (compare(committed.as_deref(), fresh), check) {
        (None, _) => {}
        (Some(difference), true) => problems.push(format!("{path}: {difference}; run `cargo xtask gen` and commit the result")),
        (Some(difference), false) => {
            if let Some(folder) = file.parent() {
                std::fs::create_dir_all(folder).map_err(file_error)?;
            }
            std::fs::write(&file, fresh).map_err(file_error)?;
            println!("{path}: rewritten ({difference})");
        }
    }
    Ok(())
}

fn with_one_final_newline(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

/// Where a committed file differs from the fresh text, in words; none if they are equal.
fn compare(committed: Option<&str>, fresh: &str) -> Option<String> {
    let Some(committed) = committed else {
        return Some("does not exist".into());
    };
    if committed == fresh {
        return None;
    }
    let same = committed.lines().zip(fresh.lines()).take_while(|(old, new)| old == new).count();
    Some(format!("stale from line {}", same + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stale_line_is_named() {
        assert_eq!(compare(Some("a\nb\n"), "a\nb\n"), None);
        assert_eq!(compare(Some("a\nb\n"), "a\nc\n").as_deref(), Some("stale from line 2"));
        assert_eq!(compare(Some("a\n"), "a\nb\n").as_deref(), Some("stale from line 2"));
        assert_eq!(compare(Some("a"), "a\n").as_deref(), Some("stale from line 2"));
        assert_eq!(compare(None, "a\n").as_deref(), Some("does not exist"));
    }

    #[test]
    fn generated_text_ends_with_one_newline() {
        for text in ["{}", "{}\n", "{}\n\n"] {
            assert_eq!(with_one_final_newline(text), "{}\n");
        }
    }
}
