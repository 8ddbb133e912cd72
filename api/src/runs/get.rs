//! `GET /runs/{run}`, `/attempts`, `/metrics` and `/logs`.

use super::describe::describe;
use super::find;
use crate::Api;
use crate::extract::Query;
use crate::jobs::{LogQuery, page_of_lines};
use crate::number::Number;
use crate::page::{Items, List, Page};
use crate::problem::Problem;
use crate::view::{Attempt, LogLine, Metric, Run};
use axum::Json;
use axum::extract::{OriginalUri, Path, State};
use fathom_store::attempts::AttemptRow;
use fathom_store::codec::buckets::Bucket;
use fathom_store::read::{MAX_NAMES, Range, View};
use fathom_store::runs::RunRow;
use fathom_store::series::SeriesRow;
use std::collections::BTreeMap;

/// One run.
#[utoipa::path(get, path = "/runs/{run}", operation_id = "getRun", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, body = Run)))]
pub(super) async fn run(State(api): State<Api>, Path(run): Path<String>) -> Result<Json<Run>, Problem> {
    view(&api, find(&api, &run).await?).await.map(Json)
}

/// The view of a run.
pub(super) async fn view(api: &Api, row: RunRow) -> Result<Run, Problem> {
    let attempts = api.timed("attempts", api.store.attempts(row.id)).await?;
    Ok(Run::new(row, attempts.last().map_or(0, |attempt| attempt.attempt)))
}

/// The processes that executed a run, in order.
#[utoipa::path(get, path = "/runs/{run}/attempts", operation_id = "listRunAttempts", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, body = Items<Attempt>)))]
pub(super) async fn attempts(State(api): State<Api>, Path(run): Path<String>) -> Result<Json<Items<Attempt>>, Problem> {
    let row = find(&api, &run).await?;
    let rows = api.timed("attempts", api.store.attempts(row.id)).await?;
    let items = Attempt::of(&rows, row.state == "running");
    Ok(Json(Items { items }))
}

/// What a run measures.
#[utoipa::path(get, path = "/runs/{run}/metrics", operation_id = "listRunMetrics", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, body = Items<Metric>)))]
pub(super) async fn metrics(State(api): State<Api>, Path(run): Path<String>) -> Result<Json<Items<Metric>>, Problem> {
    let row = find(&api, &run).await?;
    let catalogue = api.timed("catalogue", api.store.catalogue(row.id)).await?;
    let attempts = api.timed("attempts", api.store.attempts(row.id)).await?;
    let scalars: Vec<i64> = catalogue
        .iter()
        .filter(|series| series.kind == "scalar")
        .map(|series| series.id)
        .collect();
    let totals = totals(&api, &attempts, &scalars).await?;
    let mut items = Vec::with_capacity(catalogue.len());
    for series in catalogue {
        let total = match series.kind.as_str() {
            "matrix" => matrix_total(&api, &row, &series).await?,
            _ => totals.get(&series.id).map(Total::from),
        };
        items.push(metric(series, total.unwrap_or_default()));
    }
    Ok(Json(Items { items }))
}

/// All points of a metric in short.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    points: u64,
    last_step: u64,
    last: Option<f64>,
}

impl From<&Bucket> for Total {
    fn from(bucket: &Bucket) -> Self {
        Self {
            points: bucket.count,
            last_step: bucket.last_step,
            last: Some(bucket.last),
        }
    }
}

/// Everything that scalars ever were, in one bucket each.
pub(super) async fn totals(api: &Api, attempts: &[AttemptRow], scalars: &[i64]) -> Result<BTreeMap<i64, Bucket>, Problem> {
    let last = attempts.iter().filter_map(|attempt| attempt.last_step).max().unwrap_or(0);
    let range = Range {
        from: 0,
        to: last.unsigned_abs(),
        buckets: 1,
    };
    let mut totals = BTreeMap::new();
    for ids in scalars.chunks(MAX_NAMES) {
        let window = api
            .timed("window", api.store.window_of(attempts, ids, range, View::Resolved))
            .await?;
        totals.extend(window.series.into_iter().filter_map(|(id, buckets)| Some((id, *buckets.last()?))));
    }
    Ok(totals)
}

async fn matrix_total(api: &Api, run: &RunRow, series: &SeriesRow) -> Result<Option<Total>, Problem> {
    let to = run.last_step.unwrap_or(0).unsigned_abs();
    let (steps, points) = api.timed("matrix_steps", api.store.matrix_steps(run.id, series, 0, to, 2)).await?;
    Ok(steps.last().map(|&(_, last_step)| Total {
        points,
        last_step,
        last: None,
    }))
}

fn metric(series: SeriesRow, total: Total) -> Metric {
    let description = describe(&series.name);
    let shape = series.matrix_rows.zip(series.matrix_columns).map(|(rows, columns)| [rows, columns]);
    Metric {
        unit: description.unit.map(str::to_owned),
        description: description.text.map(str::to_owned),
        better: description.better,
        axes: shape.map(|_| description.axes.map(str::to_owned)),
        shape,
        points: total.points,
        first_step: series.first_step,
        last_step: i64::try_from(total.last_step).unwrap_or(i64::MAX).max(series.first_step),
        last: total.last.map(Number),
        name: series.name,
        kind: series.kind,
    }
}

/// What the workers of a run printed.
#[utoipa::path(get, path = "/runs/{run}/logs", operation_id = "listRunLogs", tag = "runs", params(("run" = String, Path), LogQuery),
    responses((status = 200, body = List<LogLine>)))]
pub(super) async fn logs(
    State(api): State<Api>,
    Path(run): Path<String>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<LogQuery>,
) -> Result<Page<LogLine>, Problem> {
    let row = find(&api, &run).await?;
    page_of_lines(&api, &format!("run {}", row.id), &[row.id], uri, &query).await
}
