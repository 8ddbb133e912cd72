//! `fathom explain`.

use crate::failure::{Exit, Failure, Result};
use crate::output::{self, OutputArgs};
use fathom_spec::schema::{Child, Explanation, explain};
use serde_json::Value;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Path of the field, as in `spec.phases.pretrain.balance`; the whole manifest without it
    #[arg(default_value = "", value_name = "FIELD", hide_default_value = true)]
    field: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// Columns of explanations.
const WIDTH: usize = 100;

/// Runs the command.
pub fn run(args: &Args) -> Result {
    let explanation = explain(&args.field).map_err(|error| {
        let parent = if error.parent.is_empty() {
            String::new()
        } else {
            format!(" {}", error.parent)
        };
        Failure::new(Exit::NotFound, error.to_string()).help(format!("list the fields with `fathom explain{parent}`"))
    })?;
    output::print(args.output.output, &explanation, text)
}

fn text(explanation: &Explanation) -> String {
    let Explanation {
        path,
        expected,
        default,
        required,
        description,
        children,
    } = explanation;
    let name = if path.is_empty() { "DeepSeekV3Job" } else { path };
    let mut text = format!("{name}  <{}>\n\n", value(expected, default.as_ref(), *required));
    for paragraph in description.split("\n\n") {
        text.push_str(&wrapped(paragraph, 2));
        text.push('\n');
    }
    for child in children {
        text.push_str(&child_text(child));
    }
    text
}

fn child_text(child: &Child) -> String {
    let Child {
        name,
        expected,
        default,
        required,
        description,
    } = child;
    let kind = if expected.is_empty() {
        String::new()
    } else {
        format!("  <{}>", value(expected, default.as_ref(), *required))
    };
    format!("  {name}{kind}\n{}", wrapped(description, 6))
}

fn value(expected: &str, default: Option<&Value>, required: bool) -> String {
    match default {
        _ if required => format!("{expected}, required"),
        // Objects explain their defaults field by field.
        Some(default) if !default.is_object() && !default.is_null() => format!("{expected}, default {default}"),
        _ => expected.to_owned(),
    }
}

/// A paragraph in lines of bounded width, indented.
fn wrapped(paragraph: &str, indent: usize) -> String {
    let mut text = String::new();
    let mut line = String::new();
    for word in paragraph.split_whitespace() {
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > WIDTH {
            text.push_str(&format!("{:indent$}{line}\n", ""));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        text.push_str(&format!("{:indent$}{line}\n", ""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_wrapped_at_words() {
        let word = "a".repeat(40);
        let text = wrapped(&format!("{word} {word} {word}"), 4);
        assert_eq!(text, format!("    {word} {word}\n    {word}\n"));
        assert_eq!(wrapped("", 4), "");
    }
}
