//! The filter of lists: `name~proxy AND label.team="nlp"`. Pure.

use crate::problem::{Code, Problem};
use fathom_store::jobs::JobRow;

/// Conditions of one filter.
const MOST_CONDITIONS: usize = 10;
/// Characters of one filter.
const MOST_CHARACTERS: usize = 1000;

/// Conditions that all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter(Vec<Condition>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    field: Field,
    operator: Operator,
    value: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Name,
    State,
    Message,
    Label(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Is,
    IsNot,
    Contains,
}

impl Filter {
    /// Reads a filter.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        if text.len() > MOST_CHARACTERS {
            return Err(Problem::query("filter", format!("expected at most {MOST_CHARACTERS} characters")));
        }
        let mut reader = Reader { text, at: 0 };
        let mut conditions = vec![reader.condition()?];
        while !reader.rest().trim_start().is_empty() {
            reader.word("AND")?;
            conditions.push(reader.condition()?);
        }
        if conditions.len() > MOST_CONDITIONS {
            return Err(Problem::query("filter", format!("expected at most {MOST_CONDITIONS} conditions")));
        }
        Ok(Self(conditions))
    }

    /// Whether a job passes.
    pub(super) fn passes(&self, job: &JobRow) -> bool {
        self.0.iter().all(|condition| condition.holds(job))
    }
}

impl Condition {
    fn holds(&self, job: &JobRow) -> bool {
        let value = match &self.field {
            Field::Name => Some(job.name.as_str()),
            Field::State => Some(job.state.as_str()),
            Field::Message => job.message.as_deref(),
            Field::Label(name) => job.labels.get(name).and_then(serde_json::Value::as_str),
        };
        match self.operator {
            Operator::Is => value == Some(self.value.as_str()),
            Operator::IsNot => value != Some(self.value.as_str()),
            Operator::Contains => value.is_some_and(|value| value.to_lowercase().contains(&self.value.to_lowercase())),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn wrong(&self, expected: &str) -> Problem {
        let column = self.text[..self.at].chars().count() + 1;
        let detail = format!("column {column}: expected {expected}");
        Problem::new(Code::INVALID_QUERY, format!("`filter`, {detail}.")).at("filter", detail)
    }

    fn word(&mut self, word: &str) -> Result<(), Problem> {
        self.skip_space();
        let found = self.rest().get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
        if !found {
            return Err(self.wrong(&format!("`{word}`")));
        }
        self.at += word.len();
        Ok(())
    }

    fn condition(&mut self) -> Result<Condition, Problem> {
        self.skip_space();
        let field = self.field()?;
        self.skip_space();
        let operators = [("!=", Operator::IsNot), ("=", Operator::Is), ("~", Operator::Contains)];
        let found = operators.into_iter().find(|(sign, _)| self.rest().starts_with(sign));
        let (sign, operator) = found.ok_or_else(|| self.wrong("`=`, `!=` or `~` (contains)"))?;
        self.at += sign.len();
        self.skip_space();
        let value = self.value()?;
        Ok(Condition { field, operator, value })
    }

    fn field(&mut self) -> Result<Field, Problem> {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || "._-/".contains(c)))
            .unwrap_or(rest.len());
        let name = &rest[..end];
        let field = match name {
            "name" => Field::Name,
            "state" => Field::State,
            "message" => Field::Message,
            _ => match name.strip_prefix("label.") {
                Some(label) if !label.is_empty() => Field::Label(label.to_owned()),
                Some(_) | None => return Err(self.wrong("`name`, `state`, `message` or `label.NAME`")),
            },
        };
        self.at += end;
        Ok(field)
    }

    /// A word, or a text in double quotes with `\"` and `\\`.
    fn value(&mut self) -> Result<String, Problem> {
        let rest = self.rest();
        let Some(quoted) = rest.strip_prefix('"') else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            if end == 0 {
                return Err(self.wrong("a value"));
            }
            self.at += end;
            return Ok(rest[..end].to_owned());
        };
        let mut value = String::new();
        let mut letters = quoted.char_indices();
        while let Some((index, letter)) = letters.next() {
            match letter {
                '"' => {
                    self.at += index + 2;
                    return Ok(value);
                }
                '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
                other => value.push(other),
            }
        }
        self.at = self.text.len();
        Err(self.wrong("`\"` at the end of the text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use serde_json::json;

    fn job() -> JobRow {
        JobRow {
            id: 1,
            project: "default".into(),
            name: "proxy-1b".into(),
            uid: "u".into(),
            state: "failed".into(),
            message: Some("disk \"a\" is full".into()),
            labels: json!({"team": "nlp", "x/y": "1"}),
            phases: json!([]),
            generation: 1,
            version: 1,
            created_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
        }
    }

    #[test]
    fn what_passes() {
        for (filter, passes) in [
            ("state=failed", true),
            ("state = failed AND name ~ PROXY", true),
            ("state=failed and name=proxy", false),
            ("state!=succeeded", true),
            ("label.team=\"nlp\"", true),
            ("label.x/y=1", true),
            ("label.other=nlp", false),
            ("label.other!=nlp", true),
            (r#"message~"disk \"a\"""#, true),
        ] {
            assert_eq!(Filter::parse(filter).unwrap().passes(&job()), passes, "{filter}");
        }
    }

    #[test]
    fn errors_point_at_the_column() {
        for (filter, words) in [
            ("", "column 1: expected `name`"),
            ("colour=red", "column 1: expected `name`"),
            ("name", "column 5: expected `=`"),
            ("name=", "column 6: expected a value"),
            ("name=\"a", "column 8: expected `\"`"),
            ("name=é OR state=x", "column 8: expected `AND`"),
        ] {
            let problem = serde_json::to_value(Filter::parse(filter).unwrap_err()).unwrap();
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(words), "{filter}: {detail}");
        }
        assert!(Filter::parse(&["name=a"; 11].join(" AND ")).is_err());
    }
}
