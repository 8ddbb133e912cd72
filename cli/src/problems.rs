//! The problems of a manifest as people read them: file, line, column, the line itself with a mark, what was expected, what was meant.

use fathom_spec::{Problem, Severity};
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Report};
use std::sync::Arc;

/// Columns of a report, so that it is the same everywhere.
const WIDTH: usize = 100;
/// More problems than this are counted, not shown.
const MAX_SHOWN: usize = 50;
/// A line longer than this is no help beside its problem.
const MAX_LINE: usize = 400;

/// Renders every problem and a last line that counts them.
pub fn render(problems: &[Problem], file: &str, text: &str, colour: bool) -> String {
    let theme = if colour {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(WIDTH).with_context_lines(1);
    let source = Arc::new(NamedSource::new(file, text.to_owned()));
    let mut rendered = String::new();
    for problem in problems.iter().take(MAX_SHOWN) {
        if !is_showable(text, problem.line) {
            rendered.push_str(&format!("{file}:{problem}\n"));
            continue;
        }
        let report = Report::new(diagnostic(problem, text)).with_source_code(Arc::clone(&source));
        if handler.render_report(&mut rendered, report.as_ref()).is_err() {
            rendered.push_str(&format!("{file}:{problem}\n"));
        }
    }
    rendered.push_str(&summary(problems, file));
    rendered
}

/// Whether the lines around a problem are short enough to be shown.
fn is_showable(text: &str, line: u64) -> bool {
    let first = usize::try_from(line.saturating_sub(2)).unwrap_or(usize::MAX);
    text.split('\n').skip(first).take(3).all(|line| line.len() <= MAX_LINE)
}

fn diagnostic(problem: &Problem, text: &str) -> MietteDiagnostic {
    let Problem {
        line,
        column,
        path,
        message,
        expected,
        suggestion,
        severity,
    } = problem;
    let message = if path.is_empty() {
        message.clone()
    } else {
        format!("{path}: {message}")
    };
    let mut diagnostic = MietteDiagnostic::new(message).with_severity(match severity {
        Severity::Error => miette::Severity::Error,
        Severity::Warning => miette::Severity::Warning,
    });
    let label = expected.as_ref().map(|expected| format!("expected {expected}"));
    match span(text, *line, *column) {
        Some((offset, length)) => diagnostic = diagnostic.with_label(LabeledSpan::new(label, offset, length)),
        None => diagnostic.help = label,
    }
    if let Some(suggestion) = suggestion {
        diagnostic = diagnostic.with_help(format!("did you mean `{suggestion}`?"));
    }
    diagnostic
}

/// Byte offset and length of the word at a line and column, both from 1. `None` if the text has no such place.
fn span(text: &str, line: u64, column: u64) -> Option<(usize, usize)> {
    let line_index = usize::try_from(line.checked_sub(1)?).ok()?;
    let column_index = usize::try_from(column.checked_sub(1)?).ok()?;
    let line_text = text.split_inclusive('\n').nth(line_index)?;
    let start: usize = text.split_inclusive('\n').take(line_index).map(str::len).sum();
    let visible = line_text.trim_end();
    let at = visible.char_indices().nth(column_index).map_or(visible.len(), |(index, _)| index);
    let word = &visible[at..];
    let quoted = word.chars().next().filter(|quote| matches!(quote, '"' | '\''));
    let length = match quoted {
        Some(quote) => word[1..].find(quote).map_or(word.len(), |end| end + 2),
        None => word.find([' ', ',', ':', ']', '}', '#']).unwrap_or(word.len()),
    };
    Some((start + at, length))
}

fn summary(problems: &[Problem], file: &str) -> String {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let counted = |count: usize, noun: &str| match count {
        0 => None,
        1 => Some(format!("1 {noun}")),
        count => Some(format!("{count} {noun}s")),
    };
    let parts: Vec<String> = [counted(errors, "error"), counted(problems.len() - errors, "warning")]
        .into_iter()
        .flatten()
        .collect();
    let hidden = problems.len().saturating_sub(MAX_SHOWN);
    let note = if hidden > 0 {
        format!(" ({hidden} not shown)")
    } else {
        String::new()
    };
    format!("{file}: {}{note}\n", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_a_word() {
        let text = "a: 1\nphäses: [x,\"y z\"]\n";
        let at = |line, column| span(text, line, column).map(|(offset, length)| &text[offset..offset + length]);
        assert_eq!(at(1, 1), Some("a"));
        assert_eq!(at(2, 1), Some("phäses"));
        assert_eq!(at(2, 10), Some("x"));
        assert_eq!(at(2, 12), Some("\"y z\""));
        assert_eq!(at(2, 99), Some(""));
        assert_eq!(at(9, 1), None);
        assert_eq!(at(0, 0), None);
    }

    #[test]
    fn a_line_of_a_megabyte_is_not_shown_beside_its_problem() {
        let text = format!("a: [{}\n", "[".repeat(1_000_000));
        let problems = fathom_spec::parse_manifest(&text).unwrap_err();
        let rendered = render(&problems, "deep.yaml", &text, false);
        assert!(
            rendered.len() < 1000 && rendered.starts_with("deep.yaml:1:"),
            "{} bytes",
            rendered.len()
        );
    }
}
