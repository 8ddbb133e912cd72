//! Keyset pages: a list goes on after the last row that was seen, whatever was inserted meanwhile.

/// Some rows, and where the next ones begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T, C> {
    /// The rows.
    pub items: Vec<T>,
    /// Key of the last row, if more rows may follow.
    pub next: Option<C>,
}

impl<T, C> Page<T, C> {
    /// A page of `rows`, of which one more than `limit` was asked for.
    pub(crate) fn new(mut rows: Vec<T>, limit: u32, key: impl Fn(&T) -> C) -> Self {
        let limit = limit as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = if more { rows.last().map(key) } else { None };
        Self { items: rows, next }
    }
}
