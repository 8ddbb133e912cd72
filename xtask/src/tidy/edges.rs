//! Which crate may depend on which, compared with `cargo metadata`. A new edge needs a decision record in docs/adr.

use serde_json::Value;

/// Each crate of the workspace and the crates of the workspace that it may depend on, tests included.
const EDGES: &[(&str, &[&str])] = &[
    ("fathom-spec", &[]),
    ("fathom-kernels", &[]),
    ("fathom-worker", &["fathom-spec", "fathom-kernels"]),
    ("fathom-store", &["fathom-spec"]),
    ("fathom-api", &["fathom-spec", "fathom-store"]),
    ("fathom-operator", &["fathom-spec"]),
    (
        "fathom",
        &[
            "fathom-spec",
            "fathom-kernels",
            "fathom-worker",
            "fathom-store",
            "fathom-api",
            "fathom-operator",
        ],
    ),
    ("xtask", &[]),
];

/// Crates that must never be a dependency of a crate of ours, with the reason.
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    (
        "fathom-spec",
        &[
            "tokio",
            "kube",
            "sqlx",
            "reqwest",
            "rand",
            "walkdir",
            "rustix",
            "signal-hook",
            "rayon",
        ],
        "spec is pure: no I/O, clock, randomness or threads",
    ),
    (
        "fathom-kernels",
        &["tokio", "serde", "walkdir", "rand"],
        "kernels knows arithmetic only",
    ),
    (
        "fathom-worker",
        &["tokio", "kube", "sqlx", "reqwest"],
        "the trainer is synchronous and holds no service's client",
    ),
    ("xtask", &["clap", "tokio", "serde"], "xtask must compile in seconds"),
];

/// Edges and dependencies that are not allowed, and crates without an entry.
pub fn check(metadata: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    for package in members(metadata, "packages") {
        let name = text(package, "name");
        let Some((_, allowed)) = EDGES.iter().find(|(entry, _)| *entry == name) else {
            problems.push(format!(
                "crate {name}: no entry in xtask/src/tidy/edges.rs; say what it may depend on"
            ));
            continue;
        };
        for dependency in members(package, "dependencies") {
            let to = text(dependency, "name");
            // Only crates of the workspace are given by path.
            if dependency.get("path").is_some_and(Value::is_string) && !allowed.contains(&to) {
                problems.push(format!(
                    "crate {name}: may not depend on {to}; a new edge needs a record in docs/adr"
                ));
            }
            let development = text(dependency, "kind") == "dev";
            for (_, _, reason) in FORBIDDEN.iter().filter(|(from, names, _)| *from == name && names.contains(&to)) {
                if !development {
                    problems.push(format!("crate {name}: may not depend on {to}: {reason}"));
                }
            }
        }
    }
    problems
}

fn members<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, dependencies: &Value) -> Value {
        json!({"packages": [{"name": name, "dependencies": dependencies}]})
    }

    #[test]
    fn allowed_edges_pass() {
        let worker = json!([
            {"name": "fathom-spec", "path": "/clone/spec", "kind": null},
            {"name": "fathom-kernels", "path": "/clone/kernels", "kind": null},
            {"name": "rand", "kind": null},
        ]);
        assert_eq!(check(&package("fathom-worker", &worker)), Vec::<String>::new());
    }

    #[test]
    fn every_other_edge_is_refused_in_tests_too() {
        for (from, to, kind) in [
            ("fathom-spec", "fathom-kernels", "null"),
            ("fathom-kernels", "fathom-spec", "\"dev\""),
            ("fathom-worker", "fathom", "\"build\""),
            ("xtask", "fathom-spec", "null"),
        ] {
            let kind: Value = serde_json::from_str(kind).unwrap();
            let problems = check(&package(from, &json!([{"name": to, "path": "/clone/x", "kind": kind}])));
            assert_eq!(problems.len(), 1, "{from} -> {to}");
            assert!(
                problems[0].contains(&format!("crate {from}: may not depend on {to};")),
                "{problems:?}"
            );
        }
    }

    #[test]
    fn forbidden_crates_are_refused_outside_tests() {
        let rand = |kind: &str| check(&package("fathom-spec", &json!([{"name": "rand", "kind": kind}]))).len();
        assert_eq!((rand("build"), rand("dev")), (1, 0));
    }

    #[test]
    fn a_crate_without_an_entry_is_refused() {
        assert!(check(&package("fathom-new", &json!([])))[0].contains("no entry"));
    }
}
