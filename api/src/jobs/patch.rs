//! JSON merge patch (RFC 7396) of manifests. Pure.

use crate::problem::{Code, Problem};
use serde_json::{Map, Value};

/// Levels of a patch.
const MOST_LEVELS: usize = 32;

/// The manifest with another name and a patch applied. Comments of the original are lost.
pub(super) fn fork(manifest: &str, name: &str, patch: Option<&Value>) -> Result<String, Problem> {
    // Whoever runs a job reports its manifest; only a job that this API created has one that was checked.
    let mut tree: Value = serde_saphyr::from_str(manifest).map_err(|error| {
        Problem::new(Code::CONFLICT, format!("The manifest of this job is no YAML: {error}."))
            .hint("Create a job from a manifest of your own.")
    })?;
    if let Some(patch) = patch {
        if depth(patch) > MOST_LEVELS {
            return Err(Problem::new(Code::INVALID, format!("A patch may have {MOST_LEVELS} levels.")).at("/patch", "too deep"));
        }
        merge(&mut tree, patch);
    }
    // The name of the request counts, whatever the patch says.
    merge(&mut tree, &serde_json::json!({ "metadata": { "name": name } }));
    serde_saphyr::to_string(&tree).map_err(|error| Problem::internal("a manifest cannot be written", &error))
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(own) = target else { return };
    for (name, value) in fields {
        if value.is_null() {
            own.remove(name);
        } else {
            merge(own.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_examples_of_the_rfc() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
            (json!(["a"]), json!({"a": 1}), json!({"a": 1})),
        ] {
            let mut merged = target.clone();
            merge(&mut merged, &patch);
            assert_eq!(merged, result, "{target} {patch}");
        }
    }

    #[test]
    fn a_manifest_that_cannot_be_read_is_no_fault_of_the_server() {
        assert_eq!(fork("{", "new", None).unwrap_err().code(), "conflict");
    }

    #[test]
    fn a_fork_has_its_own_name() {
        let manifest = "metadata:\n  name: old # comment\nspec:\n  seed: 1\n";
        let text = fork(manifest, "new", Some(&json!({"spec": {"seed": 2}, "metadata": {"name": "other"}}))).unwrap();
        let tree: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(tree, json!({"metadata": {"name": "new"}, "spec": {"seed": 2}}));
    }
}
