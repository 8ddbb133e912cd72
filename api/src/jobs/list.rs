//! `GET /jobs`.

use super::assemble;
use super::filter::Filter;
use crate::Api;
use crate::extract::Query;
use crate::page::{self, List, Page};
use crate::problem::Problem;
use crate::view::{Job, JobState};
use axum::extract::{OriginalUri, State};
use chrono::{DateTime, Utc};
use fathom_store::jobs::{JobFilter, JobRow};
use serde::Deserialize;
use utoipa::IntoParams;

/// Rows that are looked at for one page; a filter that passes fewer gives a short page with a cursor.
const MOST_SCANNED: usize = 2000;
/// States, as the database names them.
const STATES: [&str; 8] = [
    "pending",
    "queued",
    "running",
    "paused",
    "stopped",
    "cancelled",
    "succeeded",
    "failed",
];

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only jobs in this state.
    #[param(value_type = Option<JobState>, inline)]
    state: Option<String>,
    /// Only jobs that pass: conditions on `name`, `state`, `message` and `label.NAME` with `=`, `!=` or `~` (contains), joined by `AND`.
    filter: Option<String>,
    /// `-createdAt` (newest first) or `name`.
    sort: Option<String>,
    /// Items of a page, 1 to 500.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Jobs, newest first.
#[utoipa::path(get, path = "/jobs", operation_id = "listJobs", tag = "jobs", params(ListQuery),
    responses((status = 200, body = List<Job>),
              (status = 410, description = "The cursor has expired.")))]
pub(crate) async fn list(
    State(api): State<Api>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ListQuery>,
) -> Result<Page<Job>, Problem> {
    let limit = page::limit(&api, query.limit)?;
    let filter = query
        .filter
        .as_deref()
        .filter(|text| !text.trim().is_empty())
        .map(Filter::parse)
        .transpose()?;
    let state = query.state.as_deref().filter(|state| !state.is_empty());
    if let Some(state) = state.filter(|state| !STATES.contains(state)) {
        return Err(Problem::query(
            "state",
            format!(
                "`{}` is no state; expected one of {}",
                crate::problem::shorten(state),
                STATES.join(", ")
            ),
        ));
    }
    let by_name = match query.sort.as_deref() {
        None | Some("" | "-createdAt") => false,
        Some("name") => true,
        Some(_) => return Err(Problem::query("sort", "expected -createdAt or name")),
    };
    let list = format!("jobs {by_name} {state:?} {:?}", query.filter);
    let source = Source {
        api: &api,
        filter: JobFilter {
            state,
            name_contains: None,
        },
        by_name,
        list: &list,
    };
    let (rows, next_cursor) = source.collect(query.cursor.as_deref(), limit, filter.as_ref()).await?;
    let items = assemble::jobs(&api, rows).await?;
    Ok(Page {
        list: List { items, next_cursor },
        uri,
    })
}

/// The key of a row in either order.
type Key = (String, i64);

struct Source<'a> {
    api: &'a Api,
    filter: JobFilter<'a>,
    by_name: bool,
    list: &'a str,
}

impl Source<'_> {
    /// Rows that pass, and the cursor after them.
    async fn collect(&self, cursor: Option<&str>, limit: usize, filter: Option<&Filter>) -> Result<(Vec<JobRow>, Option<String>), Problem> {
        let now = self.api.now() as i64;
        let cursor = cursor.filter(|cursor| !cursor.is_empty());
        let mut after: Option<Key> = cursor.map(|cursor| self.api.cursors.read(self.list, cursor, now)).transpose()?;
        let mut rows = Vec::new();
        let mut scanned = 0;
        loop {
            let (found, more) = self.fetch(after.as_ref(), limit).await?;
            scanned += found.len();
            let (mut seen, count) = (0, found.len());
            for row in found {
                seen += 1;
                after = Some(self.key(&row));
                if filter.is_none_or(|filter| filter.passes(&row)) {
                    rows.push(row);
                }
                if rows.len() == limit {
                    break;
                }
            }
            let exhausted = !more && seen == count;
            if exhausted {
                return Ok((rows, None));
            }
            if rows.len() == limit || scanned >= MOST_SCANNED {
                let next = after.and_then(|key| self.api.cursors.write(self.list, key, now));
                return Ok((rows, next));
            }
        }
    }

    /// Some rows after a key, and whether there are more.
    async fn fetch(&self, after: Option<&Key>, limit: usize) -> Result<(Vec<JobRow>, bool), Problem> {
        let (store, project) = (&self.api.store, &self.api.config.project);
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        if self.by_name {
            let page = store.jobs_by_name(project, &self.filter, after.map(|(name, _)| name.as_str()), limit);
            let page = self.api.timed("jobs_by_name", page).await?;
            return Ok((page.items, page.next.is_some()));
        }
        let after = after.and_then(|(time, id)| Some((DateTime::parse_from_rfc3339(time).ok()?.with_timezone(&Utc), *id)));
        let page = self
            .api
            .timed("jobs_newest", store.jobs_newest(project, &self.filter, after, limit))
            .await?;
        Ok((page.items, page.next.is_some()))
    }

    fn key(&self, row: &JobRow) -> Key {
        let first = if self.by_name {
            row.name.clone()
        } else {
            row.created_at.to_rfc3339()
        };
        (first, row.id)
    }
}
