//! `GET /jobs/{job}/events`.

use super::get::find;
use crate::Api;
use crate::extract::Query;
use crate::monitor::situation::is_superseded;
use crate::page::{self, List, Page};
use crate::problem::Problem;
use crate::view::{Event, EventSeverity};
use axum::extract::{OriginalUri, Path, State};
use fathom_store::attempts::AttemptRow;
use fathom_store::events::{EventFilter, EventRow};
use serde::Deserialize;
use std::collections::HashMap;
use utoipa::IntoParams;

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventQuery {
    /// Events that were stored after the one with this id, in that order; without it the newest come first, by when they happened.
    after: Option<i64>,
    /// Only this kind.
    kind: Option<String>,
    /// Only this severity.
    #[param(value_type = Option<EventSeverity>, inline)]
    severity: Option<String>,
    /// Items of a page, 1 to 500.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// What happened to a job and its runs.
#[utoipa::path(get, path = "/jobs/{job}/events", operation_id = "listJobEvents", tag = "jobs", params(("job" = String, Path), EventQuery),
    responses((status = 200, body = List<Event>)))]
pub(super) async fn events(
    State(api): State<Api>,
    Path(job): Path<String>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<EventQuery>,
) -> Result<Page<Event>, Problem> {
    let limit = page::limit(&api, query.limit)?;
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let severity = query.severity.as_deref().filter(|severity| !severity.is_empty());
    if severity.is_some_and(|severity| !["info", "warning", "error"].contains(&severity)) {
        return Err(Problem::query("severity", "expected info, warning or error"));
    }
    let row = find(&api, &job).await?;
    let filter = EventFilter {
        run: None,
        kind: query.kind.as_deref().filter(|kind| !kind.is_empty()),
        severity,
    };
    let now = api.now() as i64;
    let list = format!(
        "events {} {:?} {:?} {}",
        row.id,
        filter.kind,
        filter.severity,
        query.after.is_some()
    );
    let cursor = query.cursor.as_deref().filter(|cursor| !cursor.is_empty());
    let (rows, next_cursor) = match query.after {
        Some(after) => {
            let place: Option<i64> = cursor.map(|cursor| api.cursors.read(&list, cursor, now)).transpose()?;
            let page = api.store.events_stored_after(row.id, &filter, place.unwrap_or(after), limit);
            let page = api.timed("events_stored_after", page).await?;
            (page.items, page.next.and_then(|id| api.cursors.write(&list, id, now)))
        }
        None => {
            // As bits: no digit of a time may be lost.
            let place: Option<(u64, i64)> = cursor.map(|cursor| api.cursors.read(&list, cursor, now)).transpose()?;
            let place = place.map(|(time, id)| (f64::from_bits(time), id));
            let page = api.timed("events", api.store.events(row.id, &filter, place, limit)).await?;
            let next = page.next.and_then(|(time, id)| api.cursors.write(&list, (time.to_bits(), id), now));
            (page.items, next)
        }
    };
    let items = mark(&api, row.id, rows).await?;
    Ok(Page {
        list: List { items, next_cursor },
        uri,
    })
}

/// Views of events, with those of superseded steps marked.
async fn mark(api: &Api, job: i64, rows: Vec<EventRow>) -> Result<Vec<Event>, Problem> {
    let mut attempts: HashMap<String, Vec<AttemptRow>> = HashMap::new();
    if rows.iter().any(|row| row.attempt_id.is_some() && row.step.is_some()) {
        for run in api.timed("runs", api.store.runs(job)).await? {
            if rows.iter().any(|row| row.run.as_deref() == Some(run.name.as_str())) {
                let found = api.timed("attempts", api.store.attempts(run.id)).await?;
                attempts.insert(run.name, found);
            }
        }
    }
    let views = rows.into_iter().map(|row| {
        let superseded = row
            .run
            .as_ref()
            .and_then(|run| attempts.get(run))
            .is_some_and(|attempts| is_superseded(&row, attempts));
        Event {
            superseded,
            ..Event::from(row)
        }
    });
    Ok(views.collect())
}
