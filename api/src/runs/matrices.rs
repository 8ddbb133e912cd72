//! `GET /runs/{run}/matrices/{name}`, `/steps` and `/rows`.

use super::{find, step};
use crate::Api;
use crate::extract::Query;
use crate::problem::Problem;
use crate::view::series::packed;
use crate::view::{MatrixRows, MatrixStep, MatrixSteps, MatrixView};
use axum::Json;
use axum::extract::{Path, State};
use fathom_store::codec::matrix::RowStatistic;
use fathom_store::runs::RunRow;
use fathom_store::series::SeriesRow;
use serde::Deserialize;
use utoipa::IntoParams;

/// Steps without `limit`.
const DEFAULT_STEPS: u32 = 1000;
/// Buckets without `points`.
const DEFAULT_POINTS: u32 = 500;

/// Parameters of a matrix.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MatrixQuery {
    /// The step; the newest without.
    #[param(maximum = 9_007_199_254_740_992_u64)]
    step: Option<u64>,
}

/// Parameters of the steps.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct StepsQuery {
    /// First step.
    #[param(maximum = 9_007_199_254_740_992_u64)]
    from: Option<u64>,
    /// Last step.
    #[param(maximum = 9_007_199_254_740_992_u64)]
    to: Option<u64>,
    /// Steps at most, 1 to 4,000.
    #[param(minimum = 1, maximum = 4000)]
    limit: Option<u32>,
}

/// Parameters of the rows.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct RowsQuery {
    /// First step.
    #[param(maximum = 9_007_199_254_740_992_u64)]
    from: Option<u64>,
    /// Last step.
    #[param(maximum = 9_007_199_254_740_992_u64)]
    to: Option<u64>,
    /// Buckets at most, 1 to 4,000.
    #[param(minimum = 1, maximum = 4000)]
    points: Option<u32>,
    /// `maxViolation` (the default), `mean`, `max` or `min`.
    reduce: Option<String>,
}

/// The matrix that covers a step.
#[utoipa::path(get, path = "/runs/{run}/matrices/{name}", operation_id = "getMatrix", tag = "runs",
    params(("run" = String, Path), ("name" = String, Path), MatrixQuery),
    responses((status = 200, body = MatrixView)))]
pub(super) async fn matrix(
    State(api): State<Api>,
    Path((run, name)): Path<(String, String)>,
    Query(query): Query<MatrixQuery>,
) -> Result<Json<MatrixView>, Problem> {
    let asked = step("step", query.step)?;
    let (row, series) = both(&api, &run, &name).await?;
    let matrix = api.timed("matrix", api.store.matrix(row.id, &series, asked)).await?;
    Ok(Json(MatrixView {
        name,
        step: asked.unwrap_or(matrix.step),
        first_step: matrix.first_step,
        last_step: matrix.step,
        exact: matrix.first_step == matrix.step,
        rows: matrix.rows,
        columns: matrix.columns,
        values: packed(&matrix.values),
        row_major: true,
    }))
}

/// The steps that have a matrix.
#[utoipa::path(get, path = "/runs/{run}/matrices/{name}/steps", operation_id = "listMatrixSteps", tag = "runs",
    params(("run" = String, Path), ("name" = String, Path), StepsQuery),
    responses((status = 200, body = MatrixSteps)))]
pub(super) async fn steps(
    State(api): State<Api>,
    Path((run, name)): Path<(String, String)>,
    Query(query): Query<StepsQuery>,
) -> Result<Json<MatrixSteps>, Problem> {
    let limit = count(&api, "limit", query.limit, DEFAULT_STEPS)?;
    let (row, series) = both(&api, &run, &name).await?;
    let (from, to) = range(&row, query.from, query.to)?;
    let (steps, total) = api
        .timed("matrix_steps", api.store.matrix_steps(row.id, &series, from, to, limit))
        .await?;
    let step = |(first_step, step)| MatrixStep {
        step,
        first_step,
        exact: first_step == step,
    };
    Ok(Json(MatrixSteps {
        items: steps.into_iter().map(step).collect(),
        total,
    }))
}

/// A statistic of each row over time: the map of layers and steps.
#[utoipa::path(get, path = "/runs/{run}/matrices/{name}/rows", operation_id = "getMatrixRows", tag = "runs",
    params(("run" = String, Path), ("name" = String, Path), RowsQuery),
    responses((status = 200, body = MatrixRows)))]
pub(super) async fn rows(
    State(api): State<Api>,
    Path((run, name)): Path<(String, String)>,
    Query(query): Query<RowsQuery>,
) -> Result<Json<MatrixRows>, Problem> {
    let points = count(&api, "points", query.points, DEFAULT_POINTS)?;
    let reduce = query
        .reduce
        .as_deref()
        .filter(|reduce| !reduce.is_empty())
        .unwrap_or("maxViolation");
    let statistic = match reduce {
        "maxViolation" => RowStatistic::MaxViolation,
        "mean" => RowStatistic::Mean,
        "max" => RowStatistic::Max,
        "min" => RowStatistic::Min,
        _ => return Err(Problem::query("reduce", "expected maxViolation, mean, max or min")),
    };
    let (row, series) = both(&api, &run, &name).await?;
    let (from, to) = range(&row, query.from, query.to)?;
    let found = api
        .timed("matrix_rows", api.store.matrix_rows(row.id, &series, statistic, from, to, points))
        .await?;
    Ok(Json(MatrixRows {
        step: found.steps,
        rows: found.rows,
        columns: usize::try_from(series.matrix_columns.unwrap_or(0)).unwrap_or(0),
        reduce: reduce.to_owned(),
        values: packed(&found.values),
    }))
}

async fn both(api: &Api, run: &str, name: &str) -> Result<(RunRow, SeriesRow), Problem> {
    let row = find(api, run).await?;
    let series = api.timed("series_by_name", api.store.series_by_name(row.id, name)).await?;
    if series.kind == "matrix" {
        Ok((row, series))
    } else {
        Err(Problem::not_found("matrix", name))
    }
}

fn range(run: &RunRow, from: Option<u64>, to: Option<u64>) -> Result<(u64, u64), Problem> {
    let (from, to) = (step("from", from)?, step("to", to)?);
    let (from, to) = (from.unwrap_or(0), to.unwrap_or_else(|| run.last_step.unwrap_or(0).unsigned_abs()));
    if from > to {
        return Err(Problem::query("from", "expected a step that is not after `to`"));
    }
    Ok((from, to))
}

fn count(api: &Api, name: &str, asked: Option<u32>, default: u32) -> Result<u32, Problem> {
    let most = u32::try_from(api.config.limits.series_points).unwrap_or(u32::MAX);
    match asked {
        None => Ok(default.min(most)),
        Some(count) if (1..=most).contains(&count) => Ok(count),
        Some(_) => Err(Problem::query(name, format!("expected 1 to {most}"))),
    }
}
