//! Files that may be longer than the rule allows, each with its reason.

use super::lines::MOST_LINES;

/// Path and reason. An entry that is no longer needed is a problem too.
const LONG_FILES: &[(&str, &str)] = &[];

/// Long files that have no entry, and entries that have no long file.
pub fn check_long(long_files: &[String]) -> Vec<String> {
    compare(long_files, LONG_FILES)
}

fn compare(long_files: &[String], allowed: &[(&str, &str)]) -> Vec<String> {
    let missing = long_files
        .iter()
        .filter(|path| !allowed.iter().any(|(entry, _)| entry == path))
        .map(|path| {
            format!("{path}: more than {MOST_LINES} lines; look for the concept that is missing, or list it with a reason in xtask/src/tidy/exceptions.rs")
        });
    let stale = allowed
        .iter()
        .filter(|(entry, _)| !long_files.iter().any(|path| path == entry))
        .map(|(entry, _)| {
            format!("{entry}: listed in xtask/src/tidy/exceptions.rs but not longer than {MOST_LINES} lines; remove the entry")
        });
    missing.chain(stale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_long_file_needs_an_entry_and_every_entry_a_long_file() {
        let long = ["a.rs".to_string(), "b.rs".to_string()];
        assert_eq!(compare(&long, &[("a.rs", "a table"), ("b.rs", "a table")]), Vec::<String>::new());
        let problems = compare(&long, &[("a.rs", "a table"), ("c.rs", "a table")]);
        assert_eq!(problems.len(), 2);
        assert!(
            problems[0].starts_with("b.rs: more than") && problems[1].starts_with("c.rs: listed"),
            "{problems:?}"
        );
    }
}
