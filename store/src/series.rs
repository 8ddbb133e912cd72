//! Table `series`: names of what a run measures.

use crate::{Error, Result, Store};
use sqlx::PgConnection;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

/// Names that a run may use; beyond it a matrix is meant.
pub const MAX_SERIES: i64 = 10_000;
/// Tokens seen after each step, in the same blocks as what was measured.
pub const TOKENS: &str = "$tokens";
/// Time of each step, in seconds since the Unix epoch.
pub const TIME: &str = "$time";

/// What a run measures.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesRow {
    /// Database id.
    pub id: i64,
    /// Name.
    pub name: String,
    /// `scalar` or `matrix`.
    pub kind: String,
    /// Rows of a matrix.
    pub matrix_rows: Option<i32>,
    /// Columns of a matrix.
    pub matrix_columns: Option<i32>,
    /// Step of its first point.
    pub first_step: i64,
}

/// Shape of what a name stands for: a scalar, or a matrix of rows x columns.
pub type Shape = Option<(i32, i32)>;

/// Id and shape by name.
type Names = HashMap<String, (i64, Shape)>;

/// Ids by run and name. A run's names hardly change, and a cached one is never wrong: rows are deleted with their job only.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    ids: Mutex<HashMap<i64, Names>>,
}

/// Runs whose names are kept.
const CACHED_RUNS: usize = 256;

impl Cache {
    fn get(&self, run: i64, name: &str) -> Option<(i64, Shape)> {
        self.ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&run)?
            .get(name)
            .copied()
    }

    /// Remembers names that are committed.
    pub(crate) fn put(&self, run: i64, names: impl IntoIterator<Item = (String, (i64, Shape))>) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.len() >= CACHED_RUNS && !ids.contains_key(&run) {
            ids.clear();
        }
        ids.entry(run).or_default().extend(names);
    }

    pub(crate) fn clear(&self) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Store {
    /// What a run measures, by name, without the axes.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn catalogue(&self, run: i64) -> Result<Vec<SeriesRow>> {
        let rows = sqlx::query_as!(
            SeriesRow,
            "SELECT id, name, kind, matrix_rows, matrix_columns, first_step FROM series WHERE run_id = $1 AND name NOT LIKE '$%' ORDER BY name",
            run
        );
        Ok(rows.fetch_all(&self.pool).await?)
    }

    /// A series by name.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Database`].
    pub async fn series_by_name(&self, run: i64, name: &str) -> Result<SeriesRow> {
        sqlx::query_as!(
            SeriesRow,
            "SELECT id, name, kind, matrix_rows, matrix_columns, first_step FROM series WHERE run_id = $1 AND name = $2",
            run,
            name
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or_else(|| Error::NotFound {
            what: "metric",
            name: name.to_owned(),
        })
    }

    /// Ids of names, creating those that are new. `fresh` gets what to remember once the transaction is committed.
    pub(crate) async fn series_ids(
        &self,
        connection: &mut PgConnection,
        run: i64,
        wanted: &BTreeMap<&str, (Shape, i64)>,
        fresh: &mut Vec<(String, (i64, Shape))>,
    ) -> Result<BTreeMap<String, i64>> {
        let mut ids = BTreeMap::new();
        let mut missing = Vec::new();
        for (&name, &(shape, first_step)) in wanted {
            match self.shared.series.get(run, name) {
                Some((id, known)) => {
                    check_shape(name, known, shape)?;
                    ids.insert(name.to_owned(), id);
                }
                None => missing.push((name, shape, first_step)),
            }
        }
        if missing.is_empty() {
            return Ok(ids);
        }
        let names: Vec<String> = missing.iter().map(|(name, ..)| (*name).to_owned()).collect();
        let rows: Vec<Option<i32>> = missing.iter().map(|(_, shape, _)| shape.map(|(rows, _)| rows)).collect();
        let columns: Vec<Option<i32>> = missing.iter().map(|(_, shape, _)| shape.map(|(_, columns)| columns)).collect();
        let first_steps: Vec<i64> = missing.iter().map(|&(_, _, first_step)| first_step).collect();
        sqlx::query!(
            "INSERT INTO series (run_id, name, kind, matrix_rows, matrix_columns, first_step)
             SELECT $1, name, CASE WHEN matrix_rows IS NULL THEN 'scalar' ELSE 'matrix' END, matrix_rows, matrix_columns, first_step
             FROM unnest($2::text[], $3::int[], $4::int[], $5::bigint[]) AS new (name, matrix_rows, matrix_columns, first_step)
             ON CONFLICT ON CONSTRAINT series_run_id_name_key DO NOTHING",
            run,
            &names,
            &rows as &[Option<i32>],
            &columns as &[Option<i32>],
            &first_steps
        )
        .execute(&mut *connection)
        .await?;
        let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM series WHERE run_id = $1"#, run);
        if count.fetch_one(&mut *connection).await? > MAX_SERIES {
            return Err(Error::Invalid(format!(
                "a run may have {MAX_SERIES} metrics; report many values of one kind as a matrix"
            )));
        }
        let known = sqlx::query!(
            "SELECT id, name, matrix_rows, matrix_columns FROM series WHERE run_id = $1 AND name = ANY($2)",
            run,
            &names
        );
        for row in known.fetch_all(&mut *connection).await? {
            let shape = row.matrix_rows.zip(row.matrix_columns);
            if let Some((_, wanted, _)) = missing.iter().find(|(name, ..)| *name == row.name) {
                check_shape(&row.name, shape, *wanted)?;
            }
            fresh.push((row.name.clone(), (row.id, shape)));
            ids.insert(row.name, row.id);
        }
        Ok(ids)
    }
}

fn check_shape(name: &str, known: Shape, reported: Shape) -> Result<()> {
    let words = |shape: Shape| shape.map_or("a scalar".to_owned(), |(rows, columns)| format!("a matrix of {rows} x {columns}"));
    if known == reported {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "metric `{name}` is {}, but {} was reported",
        words(known),
        words(reported)
    )))
}
