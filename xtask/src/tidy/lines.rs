//! Rules for single files and their lines.

/// Longest source file; the reason is in docs/architecture.md.
pub const MOST_LINES: usize = 600;
/// Largest committed file, in bytes.
const MOST_BYTES: usize = 1 << 20;

/// Words that may not occur in some files, with the reason. The words are split so that this file passes its own rules.
struct Banned {
    words: &'static [&'static str],
    /// Where they are looked for.
    applies: fn(&str) -> bool,
    /// Whether tests (what follows `#[cfg(test)]`, and `tests/` folders) and comments are exempt.
    shipped_code_only: bool,
    reason: &'static str,
}

const BANNED: &[Banned] = &[
    Banned {
        words: &[concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")],
        applies: |_| true,
        shipped_code_only: false,
        reason: "a path of somebody's machine",
    },
    Banned {
        words: &[
            concat!("FIX", "ME"),
            concat!("to", "do!"),
            concat!("unimple", "mented!"),
            concat!("db", "g!("),
        ],
        applies: |path| is_source(path),
        shipped_code_only: false,
        reason: "unfinished work; finish it or file an issue",
    },
    Banned {
        words: &[
            "std::fs",
            "std::env",
            "std::net",
            "std::process",
            "std::thread",
            "SystemTime",
            "Instant::now",
        ],
        applies: |path| path.starts_with("spec/src/"),
        shipped_code_only: true,
        reason: "spec is pure; pass it as an argument",
    },
    Banned {
        words: &["std::fs", "std::env", "std::net", "std::process", "SystemTime", "Instant::now"],
        applies: |path| path.starts_with("kernels/src/") && !path.starts_with("kernels/src/bench"),
        shipped_code_only: true,
        reason: "kernels computes; only its benchmarks know a clock",
    },
    Banned {
        words: &[
            "std::fs",
            "std::env",
            "std::net",
            "std::process",
            "SystemTime",
            "Instant::now",
            "fathom_kernels::cpu",
            "fathom_kernels::reference",
        ],
        applies: |path| path.starts_with("worker/src/model/"),
        shipped_code_only: true,
        reason: "the model does no I/O and names no backend",
    },
];

/// Everything that is wrong with a file, each problem with its place.
pub fn check(path: &str, bytes: &[u8]) -> Vec<String> {
    let mut problems = Vec::new();
    if bytes.len() > MOST_BYTES {
        problems.push(format!("{path}: {} bytes; at most {MOST_BYTES} are committed", bytes.len()));
    }
    // Binary files have no lines.
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')) else {
        return problems;
    };
    if has_plain_layout(path) {
        check_layout(path, text, &mut problems);
    }
    check_words(path, text, &mut problems);
    if path.ends_with("Cargo.toml") && text.contains("[package]") && !inherits_lints(text) {
        problems.push(format!(
            "{path}: the lints of the workspace are missing; add `[lints]` with `workspace = true`"
        ));
    }
    problems
}

/// Whether a source file is longer than [`MOST_LINES`].
pub fn is_long(path: &str, bytes: &[u8]) -> bool {
    is_source(path) && bytes.iter().filter(|&&byte| byte == b'\n').count() > MOST_LINES
}

fn is_source(path: &str) -> bool {
    has_extension(path, &["rs", "py"])
}

fn has_plain_layout(path: &str) -> bool {
    has_extension(path, &["rs", "py", "toml", "md", "yaml", "yml"])
}

fn has_extension(path: &str, extensions: &[&str]) -> bool {
    let extension = std::path::Path::new(path).extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| extensions.contains(&extension))
}

fn check_layout(path: &str, text: &str, problems: &mut Vec<String>) {
    for (number, line) in numbered(text) {
        if line.trim_end() != line {
            problems.push(format!("{path}:{number}: white space at the end of the line"));
        }
        if line.contains('\t') {
            problems.push(format!("{path}:{number}: a tab; indent with spaces"));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        problems.push(format!("{path}: no newline at the end of the file"));
    }
}

fn check_words(path: &str, text: &str, problems: &mut Vec<String>) {
    let rust = has_extension(path, &["rs"]);
    let may_be_unsafe = path.starts_with("kernels/src/cpu/") || path.starts_with("kernels/src/cuda/");
    let in_tests_folder = path.contains("/tests/") || path.ends_with("/tests.rs");
    let mut in_tests = in_tests_folder;
    for (number, line) in numbered(text) {
        in_tests |= rust && is_test_attribute(line);
        let code = if rust { line.split("//").next().unwrap_or(line) } else { line };
        for Banned {
            words,
            applies,
            shipped_code_only,
            reason,
        } in BANNED
        {
            if !applies(path) || (*shipped_code_only && in_tests) {
                continue;
            }
            let place = if *shipped_code_only { code } else { line };
            for word in words.iter().filter(|word| place.contains(**word)) {
                problems.push(format!("{path}:{number}: `{word}`: {reason}"));
            }
        }
        if rust && !may_be_unsafe && !path.starts_with("xtask/src/tidy/") && has_word(code, "unsafe") {
            problems.push(format!("{path}:{number}: `unsafe` outside kernels/src/cpu"));
        }
    }
}

/// `#[cfg(test)]` and its combinations: from here on the file is tests, by the custom that they come last.
fn is_test_attribute(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test")
}

/// Whether `word` occurs as a whole word: `unsafe_code` does not contain `unsafe`.
fn has_word(line: &str, word: &str) -> bool {
    // A hyphen joins the words of other languages' names (`'unsafe-inline'` of a content security policy).
    let part_of_name = |character: char| character.is_alphanumeric() || matches!(character, '_' | '-');
    line.match_indices(word)
        .any(|(start, _)| !line[..start].ends_with(part_of_name) && !line[start + word.len()..].starts_with(part_of_name))
}

fn inherits_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim);
    lines.any(|line| line == "[lints]")
        && lines
            .take_while(|line| !line.starts_with('['))
            .any(|line| line == "workspace = true")
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    // Not `lines`, which would hide a carriage return.
    text.split_terminator('\n').enumerate().map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_rules() {
        let home = format!("{}me/x", "/ho");
        let unfinished = format!("{}()", concat!("to", "do!"));
        let cases: &[(&str, &str, Option<&str>)] = &[
            ("worker/src/a.rs", "fn a() {}\n", None),
            ("worker/src/a.rs", "fn a() {} \n", Some("worker/src/a.rs:1: white space")),
            ("worker/src/a.rs", "fn a() {}\r\n", Some(":1: white space")),
            ("README.md", "a\n\tb\n", Some("README.md:2: a tab")),
            ("README.md", "a", Some("no newline")),
            ("worker/tests/golden/a.txt", "a \n\tb", None),
            ("docs/a.txt", &home, Some("somebody's machine")),
            ("spec/src/a.rs", &format!("fn a() {{ {unfinished} }}\n"), Some("unfinished")),
            ("docs/a.md", &format!("we allow no {unfinished}\n"), None),
            ("spec/src/a.rs", "use std::fs;\n", Some("spec is pure")),
            ("spec/src/a.rs", "//! unlike std::fs\n", None),
            ("spec/src/a.rs", "#[cfg(test)]\nmod tests { use std::fs; }\n", None),
            ("spec/tests/a.rs", "use std::fs;\n", None),
            ("worker/src/model/a.rs", "use fathom_kernels::cpu::Cpu;\n", Some("names no backend")),
            ("worker/src/train/a.rs", "use fathom_kernels::cpu::Cpu;\n", None),
            ("worker/src/a.rs", "unsafe { f() }\n", Some("outside kernels/src/cpu")),
            ("worker/src/a.rs", "#![deny(unsafe_code)] // unsafe\n", None),
            ("kernels/src/cpu/a.rs", "unsafe { f() }\n", None),
            ("kernels/src/reference/a.rs", "unsafe { f() }\n", Some("outside kernels/src/cpu")),
        ];
        for (path, text, expected) in cases {
            let problems = check(path, text.as_bytes());
            match expected {
                None => assert_eq!(problems, Vec::<String>::new(), "{path}: {text:?}"),
                Some(part) => assert!(problems.len() == 1 && problems[0].contains(part), "{path}: {text:?}: {problems:?}"),
            }
        }
    }

    #[test]
    fn a_package_inherits_the_lints_of_the_workspace() {
        let manifest = |rest: &str| format!("[package]\nname = \"a\"\n{rest}");
        let problems = |rest: &str| check("a/Cargo.toml", manifest(rest).as_bytes()).len();
        assert_eq!(problems("\n[lints]\nworkspace = true\n"), 0);
        assert_eq!(problems(""), 1);
        assert_eq!(problems("\n[lints]\n\n[features]\nworkspace = true\n"), 1);
        assert_eq!(check("Cargo.toml", b"[workspace]\n").len(), 0);
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(check("a.bin", &vec![0; MOST_BYTES]).len(), 0);
        assert_eq!(check("a.bin", &vec![0; MOST_BYTES + 1]).len(), 1);
        let lines = |count: usize| "x\n".repeat(count).into_bytes();
        assert!(!is_long("a.rs", &lines(MOST_LINES)));
        assert!(is_long("a.rs", &lines(MOST_LINES + 1)));
        assert!(!is_long("a.json", &lines(MOST_LINES + 1)));
    }
}
