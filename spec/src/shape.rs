//! The shape of a manifest: a YAML tree against the JSON Schema of the manifest types. Finds unknown, missing and repeated fields,
//! values of the wrong type or out of range, and words that no enumeration has.
//!
//! Only the part of JSON Schema that the types generate is understood: `$ref`, `properties`, `required`, `additionalProperties`,
//! `items`, `type`, `enum`/`const`/`oneOf` of constants, `anyOf` with null, bounds, and the formats of [`crate::quantity`].

use crate::problem::did_you_mean;
use crate::quantity::{Bytes, Duration, Milestone, Quantity, Tokens};
use crate::report::{Draft, Report};
use crate::tree::{Entry, Node, Path, Position, Value, shorten};
use serde_json::Value as Json;
use std::collections::HashMap;

/// Checks `node` against `root` (a schema with `$defs`). Returns the value as JSON without the parts that are wrong, `None` if
/// nothing is left; wrong list elements become null, so that places of the others stay.
pub(crate) fn check(root: &Json, node: &Node, report: &mut Report<'_>) -> Option<Json> {
    Checker { root, report }.value(root, node, &Path::default(), node.position)
}

/// The schema that `schema` stands for, references followed.
pub(crate) fn resolve<'s>(root: &'s Json, mut schema: &'s Json) -> &'s Json {
    // Bounded, as a cycle of references alone would be a defect of the generator.
    for _ in 0..16 {
        let Some(target) = schema
            .get("$ref")
            .and_then(Json::as_str)
            .and_then(|target| root.pointer(target.strip_prefix('#')?))
        else {
            break;
        };
        schema = target;
    }
    schema
}

/// The non-null alternative of an optional schema.
pub(crate) fn without_null<'s>(root: &'s Json, schema: &'s Json) -> &'s Json {
    let schema = resolve(root, schema);
    let alternative = schema
        .get("anyOf")
        .and_then(Json::as_array)
        .and_then(|all| all.iter().find(|one| one.get("type").and_then(Json::as_str) != Some("null")));
    alternative.map_or(schema, |alternative| resolve(root, alternative))
}

/// The words that an enumeration allows; empty for other schemas.
pub(crate) fn words(schema: &Json) -> Vec<&str> {
    if let Some(all) = schema.get("enum").and_then(Json::as_array) {
        return all.iter().filter_map(Json::as_str).collect();
    }
    if let Some(one) = schema.get("const").and_then(Json::as_str) {
        return vec![one];
    }
    let alternatives = schema.get("oneOf").and_then(Json::as_array);
    alternatives.into_iter().flatten().flat_map(words).collect()
}

struct Checker<'c, 'r> {
    root: &'c Json,
    report: &'c mut Report<'r>,
}

impl Checker<'_, '_> {
    /// `position` is where problems of the whole value are shown: its key, or its element.
    fn value(&mut self, schema: &Json, node: &Node, path: &Path, position: Position) -> Option<Json> {
        let declared = resolve(self.root, schema);
        if node.value == Value::Null {
            return self.null(declared, path, position);
        }
        let schema = without_null(self.root, declared);
        let words = words(schema);
        if !words.is_empty() {
            return self.word(&words, node, path);
        }
        if let Some(format) = schema.get("format").and_then(Json::as_str)
            && let Some(quantity) = self.quantity(format, node, path)
        {
            return quantity;
        }
        match type_of(schema) {
            Some("object") => self.object(schema, node, path, position),
            Some("array") => self.array(schema, node, path, position),
            Some("integer") => self.integer(schema, node, path),
            Some("number") => self.number(schema, node, path),
            Some("string") => self.text(schema, node, path),
            Some("boolean") => match node.value {
                Value::Bool(value) => Some(Json::Bool(value)),
                _ => self.wrong(node, path, "true or false"),
            },
            // A schema without a type allows anything; the manifest has none.
            _ => None,
        }
    }

    /// An absent value written out. Objects and lists may be empty; scalars may be null only where the schema says so.
    fn null(&mut self, schema: &Json, path: &Path, position: Position) -> Option<Json> {
        let nullable = schema
            .get("type")
            .and_then(Json::as_array)
            .is_some_and(|types| types.iter().any(|one| one == "null"))
            || schema
                .get("anyOf")
                .and_then(Json::as_array)
                .is_some_and(|all| all.iter().any(|one| one.get("type").and_then(Json::as_str) == Some("null")));
        if nullable {
            return Some(Json::Null);
        }
        let expected = describe(self.root, schema);
        self.report.push(path, position, Draft::error("has no value").expected(expected));
        None
    }

    fn wrong(&mut self, node: &Node, path: &Path, expected: &str) -> Option<Json> {
        let found = match &node.value {
            Value::Text(text) => format!("`{}` is text", shorten(text)),
            Value::Integer(value) => format!("{value} is a whole number"),
            Value::Float(value) => format!("{value} is a number"),
            Value::Bool(value) => format!("{value} is a boolean"),
            Value::Null | Value::List(_) | Value::Map(_) => format!("{} stands here", node.value.kind()),
        };
        self.report.push(path, node.position, Draft::error(found).expected(expected));
        None
    }

    fn word(&mut self, words: &[&str], node: &Node, path: &Path) -> Option<Json> {
        let text = match &node.value {
            Value::Text(text) if words.contains(&text.as_str()) => return Some(Json::String(text.clone())),
            Value::Text(text) => text,
            _ => return self.wrong(node, path, &one_of(words)),
        };
        // A single word is expected already.
        let suggestion = did_you_mean(text, words.iter().copied()).filter(|_| words.len() > 1);
        let draft = Draft::error(format!("unknown value `{}`", shorten(text)))
            .expected(one_of(words))
            .suggestion(suggestion);
        self.report.push(path, node.position, draft);
        None
    }

    /// `None` if `format` is not that of a quantity.
    fn quantity(&mut self, format: &str, node: &Node, path: &Path) -> Option<Option<Json>> {
        match format {
            "tokens" => Some(self.parse::<Tokens>(node, path)),
            "bytes" => Some(self.parse::<Bytes>(node, path)),
            "duration" => Some(self.parse::<Duration>(node, path)),
            "milestone" => Some(self.parse::<Milestone>(node, path)),
            _ => None,
        }
    }

    fn parse<Q: Quantity + serde::Serialize>(&mut self, node: &Node, path: &Path) -> Option<Json> {
        let text = match &node.value {
            Value::Text(text) => text.clone(),
            Value::Integer(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => return self.wrong(node, path, Q::EXPECTED),
        };
        match text.parse::<Q>() {
            Ok(quantity) => serde_json::to_value(quantity).ok(),
            Err(error) => {
                let message = match error {
                    crate::quantity::QuantityError::Unreadable { text, .. } => format!("`{text}` is not a quantity"),
                    other => other.to_string(),
                };
                self.report.push(path, node.position, Draft::error(message).expected(Q::EXPECTED));
                None
            }
        }
    }

    fn object(&mut self, schema: &Json, node: &Node, path: &Path, position: Position) -> Option<Json> {
        let Value::Map(entries) = &node.value else {
            return self.wrong(node, path, &describe(self.root, schema));
        };
        let empty = serde_json::Map::new();
        let properties = schema.get("properties").and_then(Json::as_object).unwrap_or(&empty);
        let mut object = serde_json::Map::new();
        let mut seen: HashMap<&str, Position> = HashMap::with_capacity(entries.len());
        for Entry { key, position, node } in entries {
            if self.report.is_full() {
                return None;
            }
            let path = path.field(key.as_str());
            if let Some(first) = seen.insert(key, *position) {
                let message = format!("`{}` is given twice; before on line {}", shorten(key), first.line);
                self.report.push(&path, *position, Draft::error(message));
                continue;
            }
            let schema = match (properties.get(key), schema.get("additionalProperties")) {
                (Some(property), _) => property,
                (None, Some(any)) if any.is_object() => any,
                (None, _) => {
                    let names: Vec<&str> = properties.keys().map(String::as_str).collect();
                    let draft = Draft::error(format!("unknown field `{}`", shorten(key)))
                        .expected(one_of(&names))
                        .suggestion(did_you_mean(key, names.iter().copied()));
                    self.report.push(&path, *position, draft);
                    continue;
                }
            };
            if let Some(value) = self.value(schema, node, &path, *position) {
                object.insert(key.clone(), value);
            }
        }
        let required = schema.get("required").and_then(Json::as_array);
        for name in required.into_iter().flatten().filter_map(Json::as_str) {
            if !seen.contains_key(name) {
                let expected = properties
                    .get(name)
                    .map_or_else(String::new, |property| describe(self.root, property));
                let draft = Draft::error(format!("`{name}` is missing")).expected(expected);
                self.report.push(&path.field(name), position, draft);
            }
        }
        Some(Json::Object(object))
    }

    fn array(&mut self, schema: &Json, node: &Node, path: &Path, position: Position) -> Option<Json> {
        let Value::List(nodes) = &node.value else {
            return self.wrong(node, path, &describe(self.root, schema));
        };
        let bound = |name: &str| schema.get(name).and_then(Json::as_u64);
        let length = nodes.len() as u64;
        if let Some(least) = bound("minItems").filter(|&least| length < least) {
            let draft = Draft::error("the list is too short").expected(format!("at least {least}"));
            self.report.push(path, position, draft);
            return None;
        }
        if let Some(most) = bound("maxItems").filter(|&most| length > most) {
            let draft = Draft::error(format!("the list has {length} elements")).expected(format!("at most {most}"));
            self.report.push(path, position, draft);
            return None;
        }
        let items = schema.get("items").unwrap_or(&Json::Null);
        let values = nodes
            .iter()
            .enumerate()
            .map(|(index, node)| self.value(items, node, &path.element(index), node.position).unwrap_or(Json::Null))
            .collect();
        Some(Json::Array(values))
    }

    fn integer(&mut self, schema: &Json, node: &Node, path: &Path) -> Option<Json> {
        let value = match &node.value {
            Value::Integer(value) => *value,
            // `1e3` is a whole number to people, and a float to YAML. 2^53 is where floats stop being exact.
            Value::Float(value) if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 => *value as i128,
            _ => return self.wrong(node, path, "a whole number"),
        };
        let (least, most) = integer_bounds(schema);
        if (least..=most).contains(&value) {
            return u64::try_from(value)
                .map(Json::from)
                .or_else(|_| i64::try_from(value).map(Json::from))
                .ok();
        }
        let draft = Draft::error(format!("{value} is out of range")).expected(format!("a whole number from {least} to {most}"));
        self.report.push(path, node.position, draft);
        None
    }

    fn number(&mut self, schema: &Json, node: &Node, path: &Path) -> Option<Json> {
        let value = match &node.value {
            Value::Integer(value) => *value as f64,
            Value::Float(value) => *value,
            // Percentages and exponents without a point (`5e-6`) are text to YAML.
            Value::Text(text) => match text.parse::<Milestone>() {
                Ok(Milestone::Fraction(fraction)) => fraction,
                Ok(Milestone::Tokens(_)) | Err(_) => match text.parse::<f64>() {
                    Ok(value) if value.is_finite() => value,
                    Ok(_) | Err(_) => return self.wrong(node, path, "a number"),
                },
            },
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => return self.wrong(node, path, "a number"),
        };
        let bound = |name: &str| schema.get(name).and_then(Json::as_f64);
        let (least, most) = (bound("minimum"), bound("maximum"));
        if least.is_none_or(|least| value >= least) && most.is_none_or(|most| value <= most) {
            return Some(Json::from(value));
        }
        let draft = Draft::error(format!("{value} is out of range")).expected(describe(self.root, schema));
        self.report.push(path, node.position, draft);
        None
    }

    fn text(&mut self, schema: &Json, node: &Node, path: &Path) -> Option<Json> {
        let Value::Text(text) = &node.value else {
            return match &node.value {
                Value::Integer(value) => self.wrong(node, path, &format!("text, in quotes: \"{value}\"")),
                Value::Float(value) => self.wrong(node, path, &format!("text, in quotes: \"{value}\"")),
                Value::Bool(value) => self.wrong(node, path, &format!("text, in quotes: \"{value}\"")),
                Value::Null | Value::Text(_) | Value::List(_) | Value::Map(_) => self.wrong(node, path, "text"),
            };
        };
        let most = schema.get("maxLength").and_then(Json::as_u64).unwrap_or(4096);
        let expected = if schema.get("format").and_then(Json::as_str) == Some("dns-label") {
            (!is_dns_label(text) || text.len() as u64 > most)
                .then(|| format!("lower-case letters, digits and `-`, beginning with a letter, at most {most} characters"))
        } else if text.is_empty() {
            Some("text that is not empty".into())
        } else {
            (text.chars().count() as u64 > most).then(|| format!("at most {most} characters"))
        };
        let Some(expected) = expected else {
            return Some(Json::String(text.clone()));
        };
        let draft = Draft::error(format!("`{}` is not allowed here", shorten(text))).expected(expected);
        self.report.push(path, node.position, draft);
        None
    }
}

/// Whether `text` can be part of a host name: lower-case letters, digits and inner hyphens, beginning with a letter.
fn is_dns_label(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The first type of a schema that is not null.
pub(crate) fn type_of(schema: &Json) -> Option<&str> {
    match schema.get("type")? {
        Json::String(one) => Some(one),
        Json::Array(all) => all.iter().filter_map(Json::as_str).find(|&one| one != "null"),
        _ => None,
    }
}

/// Bounds of an integer, from its keywords and its width.
fn integer_bounds(schema: &Json) -> (i128, i128) {
    let width = match schema.get("format").and_then(Json::as_str) {
        Some("uint8") => u8::MAX.into(),
        Some("uint16") => u16::MAX.into(),
        Some("uint32") => u32::MAX.into(),
        _ => u64::MAX.into(),
    };
    let bound = |name: &str| schema.get(name).and_then(Json::as_f64).map(|bound| bound as i128);
    (bound("minimum").unwrap_or(0), bound("maximum").unwrap_or(width).min(width))
}

/// What a schema allows, in words.
pub(crate) fn describe(root: &Json, schema: &Json) -> String {
    let schema = without_null(root, schema);
    let words = words(schema);
    if !words.is_empty() {
        return one_of(&words);
    }
    match schema.get("format").and_then(Json::as_str) {
        Some("tokens") => return Tokens::EXPECTED.into(),
        Some("bytes") => return Bytes::EXPECTED.into(),
        Some("duration") => return Duration::EXPECTED.into(),
        Some("milestone") => return Milestone::EXPECTED.into(),
        _ => {}
    }
    match type_of(schema) {
        Some("object") => match schema.get("properties").and_then(Json::as_object) {
            Some(properties) => {
                let names: Vec<&str> = properties.keys().map(String::as_str).collect();
                format!("a mapping with {}", listed(&names))
            }
            None => "a mapping".into(),
        },
        Some("array") => "a list".into(),
        Some("integer") => match integer_bounds(schema) {
            (least, most) if most >= i128::from(u32::MAX) => format!("a whole number from {least}"),
            (least, most) => format!("a whole number from {least} to {most}"),
        },
        Some("number") => {
            let bound = |name: &str| schema.get(name).and_then(Json::as_f64);
            match (bound("minimum"), bound("maximum")) {
                (Some(least), Some(most)) => format!("a number from {least} to {most}"),
                (Some(least), None) => format!("a number from {least}"),
                (None, Some(most)) => format!("a number up to {most}"),
                (None, None) => "a number".into(),
            }
        }
        Some("boolean") => "true or false".into(),
        _ => "text".into(),
    }
}

fn one_of(words: &[&str]) -> String {
    match words {
        [] => "no fields".into(),
        [one] => format!("`{one}`"),
        several => format!("one of {}", listed(several)),
    }
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
