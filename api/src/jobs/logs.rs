//! `GET /jobs/{job}/logs`, and the pages of lines that runs share.

use super::get::find;
use crate::Api;
use crate::extract::Query;
use crate::page::{self, List, Page};
use crate::problem::Problem;
use crate::view::{LogLevel, LogLine};
use axum::extract::{OriginalUri, Path, State};
use axum::http::Uri;
use fathom_store::logs::LogFilter;
use serde::Deserialize;
use utoipa::IntoParams;

/// Parameters of lists of lines.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogQuery {
    /// Lines after this id, oldest first; without it the newest come first.
    after: Option<i64>,
    /// Lines before this id, newest first.
    before: Option<i64>,
    /// Only this level.
    #[param(value_type = Option<LogLevel>, inline)]
    level: Option<String>,
    /// Only this attempt.
    attempt: Option<i32>,
    /// Only this rank.
    rank: Option<i32>,
    /// Only lines with this text, whatever its case.
    contains: Option<String>,
    /// Items of a page, 1 to 500.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// What the workers of a job printed, merged.
#[utoipa::path(get, path = "/jobs/{job}/logs", operation_id = "listJobLogs", tag = "jobs", params(("job" = String, Path), LogQuery),
    responses((status = 200, body = List<LogLine>)))]
pub(super) async fn logs(
    State(api): State<Api>,
    Path(job): Path<String>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<LogQuery>,
) -> Result<Page<LogLine>, Problem> {
    let row = find(&api, &job).await?;
    let runs = api.timed("runs", api.store.runs(row.id)).await?;
    let runs: Vec<i64> = runs.iter().map(|run| run.id).collect();
    page_of_lines(&api, &format!("job {}", row.id), &runs, uri, &query).await
}

/// A page of lines of some runs. `whose` names them for the cursor.
pub(crate) async fn page_of_lines(api: &Api, whose: &str, runs: &[i64], uri: Uri, query: &LogQuery) -> Result<Page<LogLine>, Problem> {
    let LogQuery {
        after,
        before,
        level,
        attempt,
        rank,
        contains,
        limit,
        cursor,
    } = query;
    let limit = u32::try_from(page::limit(api, *limit)?).unwrap_or(u32::MAX);
    if after.is_some() && before.is_some() {
        return Err(Problem::query("before", "cannot be combined with `after`"));
    }
    let filter = LogFilter {
        attempt: *attempt,
        rank: *rank,
        level: level.as_deref().filter(|level| !level.is_empty()),
        contains: contains.as_deref().filter(|text| !text.is_empty()),
    };
    if filter
        .level
        .is_some_and(|level| !["error", "warn", "info", "debug"].contains(&level))
    {
        return Err(Problem::query("level", "expected error, warn, info or debug"));
    }
    let now = api.now() as i64;
    let list = format!("logs {whose} {filter:?} {}", after.is_some());
    let cursor = cursor.as_deref().filter(|cursor| !cursor.is_empty());
    let place: Option<i64> = cursor.map(|cursor| api.cursors.read(&list, cursor, now)).transpose()?;
    let page = match after {
        Some(after) => {
            api.timed("lines_after", api.store.lines_after(runs, &filter, place.unwrap_or(*after), limit))
                .await?
        }
        None => {
            api.timed("lines_before", api.store.lines_before(runs, &filter, place.or(*before), limit))
                .await?
        }
    };
    let next_cursor = page.next.and_then(|next| api.cursors.write(&list, next, now));
    Ok(Page {
        list: List {
            items: page.items.into_iter().map(LogLine::from).collect(),
            next_cursor,
        },
        uri,
    })
}
