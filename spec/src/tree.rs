//! YAML text as a tree of values that remember where they stand. The only user of the YAML parser.

use crate::problem::{Problem, Severity};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{Location, Options, Spanned};
use std::fmt;

/// Largest manifest, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting of a manifest. The deepest useful one is 12; unoptimised builds need about 45 KB of stack per level.
pub const MAX_DEPTH: usize = 32;
/// Most values in a manifest, aliases expanded; an unoptimised build reads about 75,000 per second.
const MAX_NODES: usize = 20_000;

/// A place in the text, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column in characters.
    pub column: u64,
}

impl From<Location> for Position {
    fn from(location: Location) -> Self {
        Self {
            line: location.line(),
            column: location.column(),
        }
    }
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it begins.
    pub position: Position,
}

/// A YAML value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// Any other number; finite.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the text; keys may repeat.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub position: Position,
    /// The value.
    pub node: Node,
}

impl Value {
    /// The kind of value with an article, for messages.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Parses one document.
///
/// # Errors
/// One [`Problem`] if the text is too large, is not YAML, holds several documents, nests too deeply or expands too far.
pub fn parse(text: &str) -> Result<Node, Box<Problem>> {
    if text.len() > MAX_BYTES {
        return Err(document_problem(
            Position::default(),
            format!("the manifest is larger than the limit of {MAX_BYTES} bytes"),
        ));
    }
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
        let error = error.without_snippet();
        let position = error.location().map(Position::from).unwrap_or_default();
        document_problem(position, describe(error))
    })
}

fn document_problem(position: Position, message: String) -> Box<Problem> {
    Box::new(Problem {
        line: position.line,
        column: position.column,
        path: String::new(),
        message,
        expected: None,
        suggestion: None,
        severity: Severity::Error,
    })
}

/// The parser's message without its own spelling of the place; limits in the words of the manifest.
fn describe(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as Yaml;
    use serde_saphyr::budget::BudgetBreach as Breach;
    match error {
        Yaml::MultipleDocuments { .. } => return ONE_DOCUMENT.into(),
        Yaml::Budget { breach, .. } => match breach {
            Breach::Documents { .. } => return ONE_DOCUMENT.into(),
            Breach::Depth { .. } => return format!("nested too deeply; the limit is {MAX_DEPTH} levels"),
            Breach::Nodes { .. } | Breach::Events { .. } | Breach::ScalarBytes { .. } => {
                return format!("too many values; the limit is {MAX_NODES}");
            }
            Breach::Aliases { .. } | Breach::Anchors { .. } | Breach::AliasAnchorRatio { .. } | Breach::MergeKeys { .. } => {
                return "too many anchors or aliases; write the values out".into();
            }
            _ => return "too large for a manifest".into(),
        },
        Yaml::AliasReplayLimitExceeded { .. }
        | Yaml::AliasExpansionLimitExceeded { .. }
        | Yaml::AliasReplayStackDepthExceeded { .. }
        | Yaml::AliasReplayCounterOverflow { .. } => return TOO_MANY_ALIASED.into(),
        // The parser has many reasons for text not being YAML; its own words are clear.
        _ => {}
    }
    let message = error.to_string();
    if message.starts_with("budget breached: RecordedAnchor") {
        return TOO_MANY_ALIASED.into();
    }
    let message = message.lines().next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let message = &message[..message.find(" at line ").unwrap_or(message.len())];
    if message.ends_with("recursion limit exceeded") {
        // The scanner's own limit on nested brackets, which has no variant of its own.
        return format!("nested too deeply; the limit is {MAX_DEPTH} levels");
    }
    format!("not readable as YAML: {message}")
}

const TOO_MANY_ALIASED: &str = "aliases expand to too many values; write the values out";

const ONE_DOCUMENT: &str = "several documents in one file; keep one job per file, without `---` between parts";

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_documents: 1,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_merge_keys: 1_000,
            max_recorded_anchor_events: MAX_NODES,
            max_recorded_anchor_bytes: MAX_BYTES,
            max_total_scalar_bytes: MAX_BYTES,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Merge,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
            max_replay_stack_depth: 16,
            max_alias_expansions_per_anchor: 1_000,
        },
        strict_booleans: true,
        null_as_string: true,
        leading_zero_numbers_as_strings: true,
        reject_unsupported_tags: true,
        emit_comments: false,
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            value,
            position: referenced.into(),
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        i128::try_from(value)
            .map(Value::Integer)
            .map_err(|_| E::custom("a number is too large"))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        if value.is_finite() {
            Ok(Value::Float(value))
        } else {
            Err(E::custom("a number is not finite"))
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = access.next_element()? {
            nodes.push(node);
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            entries.push(Entry {
                key: key.value,
                position: key.referenced.into(),
                node: access.next_value()?,
            });
        }
        Ok(Value::Map(entries))
    }
}

/// A step from a value into a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Into a field of a mapping.
    Field(String),
    /// Into an element of a list, from 0.
    Element(usize),
}

/// The way from the document to one of its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(Vec<Step>);

impl Path {
    /// The field `name` of this part.
    #[must_use]
    pub fn field(&self, name: impl Into<String>) -> Self {
        self.with(Step::Field(name.into()))
    }

    /// The element `index` of this part.
    #[must_use]
    pub fn element(&self, index: usize) -> Self {
        self.with(Step::Element(index))
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// Whether `self` is `other` or contains it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    /// Where the part stands: a scalar at its value, anything longer at its key; a part that is missing where its parent stands.
    #[must_use]
    pub fn locate(&self, root: &Node) -> Position {
        let mut node = root;
        let mut position = root.position;
        for step in &self.0 {
            let next = match (step, &node.value) {
                (Step::Field(name), Value::Map(entries)) => entries.iter().find(|entry| entry.key == *name).map(|entry| {
                    let place = if entry.node.is_scalar() {
                        entry.node.position
                    } else {
                        entry.position
                    };
                    (&entry.node, place)
                }),
                (Step::Element(index), Value::List(nodes)) => nodes.get(*index).map(|node| (node, node.position)),
                _ => None,
            };
            let Some((found, place)) = next else { break };
            (node, position) = (found, place);
        }
        position
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if index == 0 => formatter.write_str(&shorten(name))?,
                Step::Field(name) => write!(formatter, ".{}", shorten(name))?,
                Step::Element(element) => write!(formatter, "[{element}]")?,
            }
        }
        Ok(())
    }
}

impl Node {
    const fn is_scalar(&self) -> bool {
        !matches!(self.value, Value::List(_) | Value::Map(_) | Value::Null)
    }
}

/// Quotable text of bounded length, without control characters.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}
