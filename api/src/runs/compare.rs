//! `GET /compare`: runs side by side.

use super::describe::describe;
use super::find;
use super::get::{totals, view};
use crate::Api;
use crate::extract::Pairs;
use crate::number::Number;
use crate::problem::Problem;
use crate::view::{AnyJson, ComparedField, ComparedMetric, Comparison, MetricBetter};
use axum::Json;
use axum::extract::State;
use fathom_store::codec::buckets::Bucket;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::IntoParams;

/// Runs of one comparison.
const MOST_RUNS: usize = 10;

/// Parameters of a comparison; they document what [`Pairs`] reads.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(
    dead_code,
    reason = "describes a parameter that may be repeated, which the extractor of structs cannot read"
)]
pub(crate) struct CompareQuery {
    /// Ids of runs, 2 to 10; repeated.
    #[param(style = Form, explode = true, min_items = 2, max_items = 10)]
    run: Vec<String>,
}

/// Runs side by side: fields of their manifests that differ, newest and best values.
#[utoipa::path(get, path = "/compare", operation_id = "compareRuns", tag = "runs", params(CompareQuery),
    responses((status = 200, body = Comparison), (status = 404)))]
pub(super) async fn compare(State(api): State<Api>, pairs: Pairs) -> Result<Json<Comparison>, Problem> {
    let names = pairs.all("run");
    if !(2..=MOST_RUNS).contains(&names.len()) {
        return Err(Problem::query("run", format!("expected 2 to {MOST_RUNS} runs")));
    }
    let mut comparison = Comparison {
        runs: Vec::new(),
        manifest: Vec::new(),
        metrics: Vec::new(),
    };
    let (mut manifests, mut columns) = (Vec::new(), Vec::new());
    for name in &names {
        let row = find(&api, name).await?;
        let generation = api.timed("generation", api.store.generation(row.job_id, None)).await?;
        let tree: Value = serde_saphyr::from_str(&generation.effective).unwrap_or(Value::Null);
        manifests.push(flat(&tree));
        let catalogue = api.timed("catalogue", api.store.catalogue(row.id)).await?;
        let attempts = api.timed("attempts", api.store.attempts(row.id)).await?;
        let scalars: BTreeMap<i64, String> = catalogue
            .into_iter()
            .filter(|series| series.kind == "scalar")
            .map(|series| (series.id, series.name))
            .collect();
        let ids: Vec<i64> = scalars.keys().copied().collect();
        let totals = totals(&api, &attempts, &ids).await?;
        let named = totals
            .into_iter()
            .filter_map(|(id, bucket)| Some((scalars.get(&id)?.clone(), bucket)));
        columns.push(named.collect::<BTreeMap<String, Bucket>>());
        comparison.runs.push(view(&api, row).await?);
    }
    comparison.manifest = differences(&manifests);
    comparison.metrics = metrics(&columns);
    Ok(Json(comparison))
}

/// The leaves of a tree by path.
fn flat(tree: &Value) -> BTreeMap<String, Value> {
    fn walk(tree: &Value, path: String, leaves: &mut BTreeMap<String, Value>) {
        let join = |name: &str| {
            if path.is_empty() {
                name.to_owned()
            } else {
                format!("{path}.{name}")
            }
        };
        match tree {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, value) in fields {
                    walk(value, join(name), leaves);
                }
            }
            Value::Array(elements) if !elements.is_empty() => {
                for (index, value) in elements.iter().enumerate() {
                    // Phases are known by name, not by place: one more at the start changes nothing of the others.
                    let name = value.get("name").and_then(Value::as_str);
                    let place = name.map_or_else(|| index.to_string(), str::to_owned);
                    walk(value, format!("{path}[{place}]"), leaves);
                }
            }
            leaf => {
                leaves.insert(path, leaf.clone());
            }
        }
    }
    let mut leaves = BTreeMap::new();
    walk(tree, String::new(), &mut leaves);
    leaves
}

fn differences(manifests: &[BTreeMap<String, Value>]) -> Vec<ComparedField> {
    let mut paths: Vec<&String> = manifests.iter().flat_map(BTreeMap::keys).collect();
    paths.sort();
    paths.dedup();
    let field = |path: &String| ComparedField {
        path: path.clone(),
        values: manifests
            .iter()
            .map(|manifest| AnyJson(manifest.get(path).cloned().unwrap_or(Value::Null)))
            .collect(),
    };
    let differs = |field: &ComparedField| field.values.windows(2).any(|pair| pair[0] != pair[1]);
    paths.into_iter().map(field).filter(differs).collect()
}

fn metrics(columns: &[BTreeMap<String, Bucket>]) -> Vec<ComparedMetric> {
    let mut names: Vec<&String> = columns.iter().flat_map(BTreeMap::keys).collect();
    names.sort();
    names.dedup();
    let best = |name: &str, bucket: &Bucket| match describe(name).better {
        Some(MetricBetter::Lower) => Some(Number(bucket.min)),
        Some(MetricBetter::Higher) => Some(Number(bucket.max)),
        None => None,
    };
    let metric = |name: &String| ComparedMetric {
        last: columns
            .iter()
            .map(|column| column.get(name).map(|bucket| Number(bucket.last)))
            .collect(),
        best: columns.iter().map(|column| best(name, column.get(name)?)).collect(),
        name: name.clone(),
    };
    names.into_iter().map(metric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_shown() {
        let left = flat(&json!({"seed": 1, "phases": [{"name": "pretrain", "tokens": 5}], "a": {"b": 1}}));
        let right = flat(&json!({"seed": 2, "phases": [{"name": "x"}, {"name": "pretrain", "tokens": 5}], "a": {"b": 1}}));
        let shown = differences(&[left, right]);
        assert_eq!(
            shown,
            [
                ComparedField {
                    path: "phases[x].name".into(),
                    values: vec![AnyJson(Value::Null), AnyJson(json!("x"))]
                },
                ComparedField {
                    path: "seed".into(),
                    values: vec![AnyJson(json!(1)), AnyJson(json!(2))]
                },
            ]
        );
    }

    #[test]
    fn the_best_value_depends_on_the_direction() {
        let mut loss = Bucket::of(1, 3.0, 4);
        loss.merge(&Bucket::of(2, 5.0, 4));
        let column = BTreeMap::from([("loss.main".to_owned(), loss), ("seed".to_owned(), loss)]);
        let shown = metrics(&[column, BTreeMap::new()]);
        assert_eq!(
            (shown[0].last[0], shown[0].best[0], shown[0].last[1]),
            (Some(Number(5.0)), Some(Number(3.0)), None)
        );
        assert_eq!(shown[1].best[0], None);
    }
}
