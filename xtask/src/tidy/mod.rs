//! `cargo xtask tidy`: rules that the compiler does not check. Each file of this module holds one kind of rule.

mod edges;
mod exceptions;
mod lines;

use crate::error::Error;
use crate::process::{self, Context};

/// Checks crate edges and every file that git knows or would add; reports all problems at once.
pub fn run(context: &Context) -> Result<(), Error> {
    let mut command = context.cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let text = process::output(&mut command)?;
    let metadata = serde_json::from_str(&text).map_err(|error| Error::Output {
        command: process::display(&command),
        problem: format!("not JSON: {error}"),
    })?;
    let mut problems = edges::check(&metadata);

    let listing = process::output(&mut context.command("git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"]))?;
    let mut long_files = Vec::new();
    for path in listing.split_terminator('\0') {
        let file = context.root.join(path);
        // A symbolic link has no text of its own, and git still lists files that were just deleted.
        if !file.symlink_metadata().is_ok_and(|entry| entry.is_file()) {
            continue;
        }
        let bytes = std::fs::read(&file).map_err(|source| Error::File { path: file, source })?;
        problems.extend(lines::check(path, &bytes));
        if lines::is_long(path, &bytes) {
            long_files.push(path.to_string());
        }
    }
    problems.extend(exceptions::check_long(&long_files));
    if problems.is_empty() { Ok(()) } else { Err(Error::Rules(problems)) }
}
