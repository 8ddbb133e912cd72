//! `GET /runs/{run}/series` and `POST /series:query`: curves, in no more buckets than the picture has pixels.

use super::{find, step};
use crate::Api;
use crate::etag::none_match;
use crate::extract::{Json as Body, Pairs};
use crate::number::Number;
use crate::page::Items;
use crate::problem::{Code, Problem};
use crate::view::{Axis, Series, SeriesColumns, SeriesOfRun};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fathom_store::codec::buckets::Bucket;
use fathom_store::read::{MAX_NAMES, Range, View};
use fathom_store::runs::RunRow;
use fathom_store::series::{TIME, TOKENS};
use serde::Deserialize;
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};

/// Buckets without `points`.
const DEFAULT_POINTS: u32 = 1000;
/// Runs of one query.
const MOST_RUNS: usize = 20;

/// Parameters of a series; they document what [`Pairs`] reads.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(
    dead_code,
    reason = "describes the parameters for the document; `metric` may be repeated, which the extractor of structs cannot read"
)]
pub(crate) struct SeriesQuery {
    /// Names of metrics; may be repeated.
    #[param(style = Form, explode = true, min_items = 1, max_items = 98)]
    metric: Vec<String>,
    /// The axis.
    #[param(inline, required = false)]
    x: Option<Axis>,
    /// First step.
    #[param(maximum = 9_007_199_254_740_992_u64)]
    from: Option<u64>,
    /// Last step.
    #[param(maximum = 9_007_199_254_740_992_u64)]
    to: Option<u64>,
    /// Buckets at most, 1 to 4,000.
    #[param(minimum = 1, maximum = 4000)]
    points: Option<u32>,
    /// Everything that one attempt measured, superseded or not.
    attempt: Option<i32>,
}

/// The body of a query over several runs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SeriesRequest {
    /// Ids of runs.
    #[schema(min_items = 1, max_items = 20)]
    runs: Vec<String>,
    /// Names of metrics.
    #[schema(min_items = 1, max_items = 98)]
    metrics: Vec<String>,
    /// The axis.
    #[serde(default)]
    x: Axis,
    /// First step.
    #[schema(maximum = 9_007_199_254_740_992_u64)]
    from: Option<u64>,
    /// Last step.
    #[schema(maximum = 9_007_199_254_740_992_u64)]
    to: Option<u64>,
    /// Buckets at most, 1 to 4,000.
    #[schema(minimum = 1, maximum = 4000)]
    points: Option<u32>,
}

/// What is asked of a run.
struct Wanted {
    metrics: Vec<String>,
    axis: Axis,
    from: Option<u64>,
    to: Option<u64>,
    points: u32,
    attempt: Option<i32>,
}

/// Curves of a run in buckets that keep their extremes: no spike is lost. Metrics that the run does not have are empty.
#[utoipa::path(get, path = "/runs/{run}/series", operation_id = "getSeries", tag = "runs",
    params(("run" = String, Path), SeriesQuery, ("If-None-Match" = Option<String>, Header)),
    responses((status = 200, body = Series), (status = 304, description = "The client has it.")))]
pub(super) async fn series(State(api): State<Api>, Path(run): Path<String>, pairs: Pairs, headers: HeaderMap) -> Result<Response, Problem> {
    let wanted = Wanted {
        metrics: pairs.all("metric"),
        axis: pairs.one("x")?.unwrap_or_default(),
        from: step("from", pairs.one("from")?)?,
        to: step("to", pairs.one("to")?)?,
        points: points(&api, pairs.one("points")?)?,
        attempt: pairs.one("attempt")?,
    };
    check_names(&wanted.metrics)?;
    let row = find(&api, &run).await?;
    let series = read(&api, &row, &wanted).await?;
    let complete = series.complete && wanted.to.is_some();
    cacheable(&series, complete, &headers)
}

/// Curves of several runs.
#[utoipa::path(post, path = "/series:query", operation_id = "querySeries", tag = "runs", request_body = SeriesRequest,
    responses((status = 200, body = Items<SeriesOfRun>), (status = 404),
              (status = 422)))]
pub(super) async fn query(State(api): State<Api>, Body(request): Body<SeriesRequest>) -> Result<Json<Items<SeriesOfRun>>, Problem> {
    let SeriesRequest {
        runs,
        metrics,
        x,
        from,
        to,
        points: asked,
    } = request;
    let most = api.config.limits.series_count;
    if runs.is_empty() || runs.len() > MOST_RUNS || runs.len() * metrics.len() > most {
        let detail = format!("A query has 1 to {MOST_RUNS} runs, and runs times metrics is at most {most}.");
        return Err(Problem::new(Code::INVALID, detail).at("/runs", "too many or none"));
    }
    check_names(&metrics)?;
    let wanted = Wanted {
        metrics,
        axis: x,
        from,
        to,
        points: points(&api, asked)?,
        attempt: None,
    };
    let mut items = Vec::with_capacity(runs.len());
    for run in runs {
        let row = find(&api, &run).await?;
        let series = read(&api, &row, &wanted).await?;
        items.push(SeriesOfRun { run, series });
    }
    Ok(Json(Items { items }))
}

fn points(api: &Api, asked: Option<u32>) -> Result<u32, Problem> {
    let most = u32::try_from(api.config.limits.series_points).unwrap_or(u32::MAX);
    match asked {
        None => Ok(DEFAULT_POINTS.min(most)),
        Some(points) if (1..=most).contains(&points) => Ok(points),
        Some(_) => Err(Problem::query("points", format!("expected 1 to {most}"))),
    }
}

fn check_names(metrics: &[String]) -> Result<(), Problem> {
    // Two more are read for the axis.
    let most = MAX_NAMES - 2;
    if metrics.is_empty() || metrics.len() > most {
        return Err(Problem::query("metric", format!("expected 1 to {most} metrics")));
    }
    Ok(())
}

async fn read(api: &Api, run: &RunRow, wanted: &Wanted) -> Result<Series, Problem> {
    let attempts = api.timed("attempts", api.store.attempts(run.id)).await?;
    let view = match wanted.attempt {
        None => View::Resolved,
        Some(number) => {
            let row = attempts.iter().rfind(|row| row.attempt == number);
            View::Attempt(row.ok_or_else(|| Problem::not_found("attempt", &number.to_string()))?.id)
        }
    };
    let last = attempts.iter().filter_map(|row| row.last_step).max().unwrap_or(0).unsigned_abs();
    let to = wanted.to.unwrap_or(last);
    let from = wanted.from.unwrap_or(0);
    if from > to {
        return Err(Problem::query("from", "expected a step that is not after `to`"));
    }
    let ids = ids(api, run, wanted).await?;
    let range = Range {
        from,
        to,
        buckets: wanted.points,
    };
    let all: Vec<i64> = ids.values().copied().collect();
    let window = api.timed("window", api.store.window_of(&attempts, &all, range, view)).await?;
    let buckets = |name: &str| ids.get(name).and_then(|id| window.series.get(id)).map_or(&[][..], Vec::as_slice);
    let axis = axis_values(wanted.axis, run, buckets);
    Ok(Series {
        x: wanted.axis,
        bucket_steps: 1_u64.checked_shl(window.bucket_bits).unwrap_or(u64::MAX),
        from,
        to,
        series: wanted
            .metrics
            .iter()
            .map(|name| columns(name, buckets(name), axis.as_ref(), window.bucket_bits == 0))
            .collect(),
        // Whatever else has a state may still go back to a checkpoint and make steps again.
        complete: run.state == "succeeded",
    })
}

/// Ids of the metrics that the run has, and of its axis.
async fn ids(api: &Api, run: &RunRow, wanted: &Wanted) -> Result<BTreeMap<String, i64>, Problem> {
    let axis = match wanted.axis {
        Axis::Step => None,
        Axis::Tokens | Axis::Flops => Some(TOKENS),
        Axis::Time => Some(TIME),
    };
    let mut ids = BTreeMap::new();
    for name in wanted.metrics.iter().map(String::as_str).chain(axis) {
        match api.store.series_by_name(run.id, name).await {
            Ok(row) if row.kind == "scalar" => {
                ids.insert(name.to_owned(), row.id);
            }
            Ok(_) => return Err(Problem::query("metric", format!("`{}` is a matrix", crate::problem::shorten(name)))),
            Err(fathom_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ids)
}

/// Where buckets are on the axis, by index; none for steps.
fn axis_values<'a>(axis: Axis, run: &RunRow, buckets: impl Fn(&str) -> &'a [Bucket]) -> Option<BTreeMap<u64, f64>> {
    let (name, factor) = match axis {
        Axis::Step => return None,
        Axis::Tokens => (TOKENS, 1.0),
        // Without the cost of a token there is no place on this axis.
        Axis::Flops => (TOKENS, run.flops_per_token.unwrap_or(f64::NAN)),
        Axis::Time => (TIME, 1.0),
    };
    Some(buckets(name).iter().map(|bucket| (bucket.index, bucket.last * factor)).collect())
}

fn columns(name: &str, buckets: &[Bucket], axis: Option<&BTreeMap<u64, f64>>, raw: bool) -> SeriesColumns {
    let place = |bucket: &Bucket| match axis {
        None => bucket.last_step as f64,
        Some(axis) => axis.get(&bucket.index).copied().unwrap_or(f64::NAN),
    };
    // Points are as they were measured. Summaries are kept with this many digits, and outwards so that no extreme is inside the true one.
    let kept = |value: f64, round: fn(f64) -> f64| if raw { value } else { significant(value, round) };
    let numbers = |value: &dyn Fn(&Bucket) -> f64| buckets.iter().map(|bucket| Number(value(bucket))).collect();
    SeriesColumns {
        metric: name.to_owned(),
        x: numbers(&place),
        step: buckets.iter().map(|bucket| bucket.last_step).collect(),
        min: numbers(&|bucket| kept(bucket.min, f64::floor)),
        max: numbers(&|bucket| kept(bucket.max, f64::ceil)),
        last: numbers(&|bucket| kept(bucket.last, f64::round)),
        mean: numbers(&|bucket| kept(bucket.mean, f64::round)),
        n: buckets.iter().map(|bucket| bucket.count).collect(),
        non_finite: buckets.iter().map(|bucket| bucket.non_finite).collect(),
    }
}

/// The value with seven digits, about what an `f32` holds.
fn significant(value: f64, round: fn(f64) -> f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let places = 6 - value.abs().log10().floor() as i32;
    let scale = 10f64.powi(places.abs());
    let rounded = if places < 0 {
        round(value / scale) * scale
    } else {
        round(value * scale) / scale
    };
    // Beyond the range of powers of ten nothing is gained.
    if rounded.is_finite() { rounded } else { value }
}

/// JSON that a browser may keep: for a while if it cannot change, otherwise until it asks whether it has.
fn cacheable(series: &Series, complete: bool, headers: &HeaderMap) -> Result<Response, Problem> {
    let body = serde_json::to_vec(series).map_err(|error| Problem::internal("a series cannot be written as JSON", &error))?;
    let tag = format!("\"{}\"", &blake3::hash(&body).to_hex()[..24]);
    let control = if complete { "private, max-age=60" } else { "private, no-cache" };
    let mut response = if none_match(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        body.into_response()
    };
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static(control));
    if let Ok(tag) = HeaderValue::try_from(tag) {
        fields.insert(header::ETAG, tag);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_become_columns() {
        let mut bucket = Bucket::of(4, 2.0, 1);
        bucket.merge(&Bucket::of(5, f64::NAN, 1));
        let plain = columns("loss", &[bucket], None, false);
        assert_eq!((plain.x[0].0, plain.step[0], plain.n[0], plain.non_finite[0]), (5.0, 5, 2, 1));
        assert!(plain.last[0].0.is_nan());
        let axis = BTreeMap::from([(2, 640.0)]);
        assert_eq!(columns("loss", &[bucket], Some(&axis), false).x[0].0, 640.0);
        assert!(columns("loss", &[bucket], Some(&BTreeMap::new()), false).x[0].0.is_nan());
    }

    #[test]
    fn summaries_are_short_and_contain_the_extremes() {
        let mut bucket = Bucket::of(4, f64::from(2.936_456_2_f32), 1);
        bucket.merge(&Bucket::of(5, -1.234_567_89e-5, 1));
        let short = columns("loss", &[bucket], None, false);
        assert_eq!(serde_json::to_string(&short.max).unwrap(), "[2.936457]");
        assert_eq!((short.min[0].0, short.last[0].0), (-1.234_568e-5, -1.234_568e-5));
        assert_eq!(columns("loss", &[bucket], None, true).max[0].0, bucket.max, "points are exact");
        for value in [1e300, -1e300, 1e-300, f64::MIN_POSITIVE, f64::MAX, 123_456_789.0, 0.0] {
            let near = |rounded: f64| rounded == value || (rounded / value - 1.0).abs() < 1.1e-6;
            assert!(
                near(significant(value, f64::floor)) && near(significant(value, f64::ceil)),
                "{value}"
            );
        }
        assert_eq!(significant(123_456_789.0, f64::ceil), 123_456_800.0);
        assert!(significant(f64::NAN, f64::round).is_nan());
    }

    #[test]
    fn the_same_series_is_not_sent_twice() {
        let series = Series {
            x: Axis::Step,
            bucket_steps: 1,
            from: 0,
            to: 1,
            series: Vec::new(),
            complete: true,
        };
        let first = cacheable(&series, true, &HeaderMap::new()).unwrap();
        let tag = first.headers()[header::ETAG].clone();
        let again = cacheable(&series, true, &HeaderMap::from_iter([(header::IF_NONE_MATCH, tag)])).unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    }
}
