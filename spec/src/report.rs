//! Collects problems of a manifest, each at its place.

use crate::problem::{Problem, Severity};
use crate::tree::{Node, Path, Position};

/// Most problems that are listed; a manifest with more is not the manifest that its author meant.
const MAX_PROBLEMS: usize = 200;

/// Problems under collection.
pub(crate) struct Report<'a> {
    root: &'a Node,
    found: Vec<(Path, Problem)>,
}

impl<'a> Report<'a> {
    pub(crate) const fn new(root: &'a Node) -> Self {
        Self { root, found: Vec::new() }
    }

    /// Adds a problem at a known place.
    pub(crate) fn push(&mut self, path: &Path, position: Position, draft: Draft) {
        if self.is_full() {
            return;
        }
        let Draft {
            message,
            expected,
            suggestion,
            severity,
        } = draft;
        let problem = Problem {
            line: position.line,
            column: position.column,
            path: path.to_string(),
            message,
            expected,
            suggestion,
            severity,
        };
        self.found.push((path.clone(), problem));
    }

    /// Adds an error about the meaning of a part, unless the part is already known to be wrong: its value is then not what was written.
    pub(crate) fn error(&mut self, path: &Path, message: impl Into<String>) {
        self.judge(path, Draft::error(message));
    }

    /// As [`Report::error`], for what is accepted but suspicious.
    pub(crate) fn warning(&mut self, path: &Path, message: impl Into<String>) {
        let draft = Draft {
            severity: Severity::Warning,
            ..Draft::error(message)
        };
        self.judge(path, draft);
    }

    /// As [`Report::error`], with everything a problem can have.
    pub(crate) fn judge(&mut self, path: &Path, draft: Draft) {
        if !self
            .found
            .iter()
            .any(|(wrong, problem)| problem.severity == Severity::Error && wrong.contains(path))
        {
            self.push(path, path.locate(self.root), draft);
        }
    }

    /// Whether further problems would not be listed.
    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= MAX_PROBLEMS
    }

    /// Whether an error lies at `path` or below.
    pub(crate) fn is_wrong(&self, path: &Path) -> bool {
        self.found
            .iter()
            .any(|(wrong, problem)| problem.severity == Severity::Error && path.contains(wrong))
    }

    /// All problems by place, errors before warnings at the same place.
    pub(crate) fn finish(self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.found.into_iter().map(|(_, problem)| problem).collect();
        problems.sort_by(|left, right| {
            let key = |problem: &Problem| (problem.line, problem.column, problem.severity);
            key(left).cmp(&key(right)).then_with(|| left.path.cmp(&right.path))
        });
        problems
    }
}

/// A problem without its place.
pub(crate) struct Draft {
    pub(crate) message: String,
    pub(crate) expected: Option<String>,
    pub(crate) suggestion: Option<String>,
    pub(crate) severity: Severity,
}

impl Draft {
    pub(crate) fn error(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            expected: None,
            suggestion: None,
            severity: Severity::Error,
        }
    }

    pub(crate) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(crate) fn suggestion(mut self, suggestion: Option<&str>) -> Self {
        self.suggestion = suggestion.map(str::to_owned);
        self
    }
}
