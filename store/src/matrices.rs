//! Table `matrices`: one row per step, thinned with age.

use crate::attempts::{AttemptRow, Segment, segments};
use crate::codec::matrix::{self, ROW_STATISTICS, RowStatistic};
use crate::error::to_i64;
use crate::series::SeriesRow;
use crate::{Error, Result, Store};
use fathom_spec::record::Matrix;
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// First and last step, the matrix and its row statistics.
type Member = (u64, u64, Matrix, Vec<u8>);

/// Steps that are kept exactly, counted back from the newest.
const EXACT_STEPS: u64 = 1_024;
/// Steps on both sides of an event that are kept exactly whatever their age.
const NEIGHBOURHOOD: u64 = 16;
/// Beyond an age (steps), the mean of so many steps is kept.
const WINDOWS: [(u64, u64); 3] = [(EXACT_STEPS, 16), (16_384, 128), (262_144, 1_024)];
/// Rows that are looked at for thinning at a time.
const THINNED_ROWS: i64 = 4_096;
/// Windows that are made at a time.
const THINNED_WINDOWS: usize = 32;

/// A matrix of a step, or the mean of some steps.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixValue {
    /// Last step.
    pub step: u64,
    /// First step; equal to the last for an exact matrix.
    pub first_step: u64,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Row-major values.
    pub values: Vec<f32>,
}

/// A statistic of each row over time.
#[derive(Clone, Debug, PartialEq)]
pub struct RowSeries {
    /// Last step of each bucket.
    pub steps: Vec<u64>,
    /// Rows of the matrix.
    pub rows: usize,
    /// One value per bucket and row, bucket-major: the extreme of the bucket, or the mean of means.
    pub values: Vec<f32>,
}

impl Store {
    /// The matrix that covers `step`, or the newest.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Database`], [`Error::Damaged`].
    pub async fn matrix(&self, run: i64, series: &SeriesRow, step: Option<u64>) -> Result<MatrixValue> {
        let (rows, columns) = shape(series)?;
        let attempts = self.attempts(run).await?;
        // Newest segment first: the one that holds the step, or the last that has any.
        for segment in segments(&attempts).into_iter().rev() {
            let step = step.unwrap_or(segment.last);
            if step < segment.first || step > segment.last {
                continue;
            }
            let exact_or_window = sqlx::query!(
                "SELECT step, first_step, payload FROM matrices
                 WHERE series_id = $1 AND attempt_id = $2 AND step >= $3 AND step <= $4 ORDER BY step LIMIT 1",
                series.id,
                segment.attempt,
                limited(step),
                limited(segment.last)
            );
            let found = exact_or_window
                .fetch_optional(&self.pool)
                .await?
                .map(|row| (row.step, row.first_step, row.payload));
            // Without a row that covers it: the last one before.
            let found = match found.filter(|&(_, first, _)| first <= limited(step)) {
                Some(found) => Some(found),
                None => sqlx::query!(
                    "SELECT step, first_step, payload FROM matrices
                     WHERE series_id = $1 AND attempt_id = $2 AND step <= $3 AND step >= $4 ORDER BY step DESC LIMIT 1",
                    series.id,
                    segment.attempt,
                    limited(step),
                    limited(segment.first)
                )
                .fetch_optional(&self.pool)
                .await?
                .map(|row| (row.step, row.first_step, row.payload)),
            };
            if let Some((step, first_step, payload)) = found {
                return Ok(MatrixValue {
                    step: step.unsigned_abs(),
                    first_step: first_step.unsigned_abs(),
                    rows,
                    columns,
                    values: matrix::decode(&payload, rows * columns)?,
                });
            }
        }
        Err(Error::NotFound {
            what: "matrix of that step",
            name: series.name.clone(),
        })
    }

    /// Steps that have a matrix, as (first, last), ascending, in a range; at most `limit`, spread evenly if there are more.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn matrix_steps(&self, run: i64, series: &SeriesRow, from: u64, to: u64, limit: u32) -> Result<(Vec<(u64, u64)>, u64)> {
        let attempts = self.attempts(run).await?;
        let segments = segments(&attempts);
        let (ids, firsts, lasts) = columns_of(&segments, from, to);
        let total = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS s (attempt_id, first, last)
               JOIN matrices m ON m.series_id = $1 AND m.attempt_id = s.attempt_id AND m.step BETWEEN s.first AND s.last"#,
            series.id,
            &ids,
            &firsts,
            &lasts
        );
        let total = total.fetch_one(&self.pool).await?;
        let stride = (total.unsigned_abs()).div_ceil(u64::from(limit.max(1))).max(1);
        let rows = sqlx::query!(
            r#"SELECT step AS "step!", first_step AS "first_step!" FROM (
                 SELECT m.step, m.first_step, row_number() OVER (ORDER BY m.step DESC) AS place
                 FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS s (attempt_id, first, last)
                 JOIN matrices m ON m.series_id = $1 AND m.attempt_id = s.attempt_id AND m.step BETWEEN s.first AND s.last) t
               WHERE (place - 1) % $5 = 0 ORDER BY step"#,
            series.id,
            &ids,
            &firsts,
            &lasts,
            to_i64("stride", stride)?
        );
        let rows = rows.fetch_all(&self.pool).await?;
        let steps = rows.into_iter().map(|row| (row.first_step.unsigned_abs(), row.step.unsigned_abs()));
        Ok((steps.collect(), total.unsigned_abs()))
    }

    /// A statistic of each row over a range of steps, in at most `buckets` buckets.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Damaged`].
    pub async fn matrix_rows(
        &self,
        run: i64,
        series: &SeriesRow,
        statistic: RowStatistic,
        from: u64,
        to: u64,
        buckets: u32,
    ) -> Result<RowSeries> {
        let (rows, _) = shape(series)?;
        let attempts = self.attempts(run).await?;
        let segments = segments(&attempts);
        let to = to.min(last_step(&attempts));
        let from = from.min(to);
        let (ids, firsts, lasts) = columns_of(&segments, from, to);
        let found = sqlx::query!(
            r#"SELECT m.step, substring(m.row_statistics FROM $5 FOR $6) AS "statistics!"
               FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS s (attempt_id, first, last)
               JOIN matrices m ON m.series_id = $1 AND m.attempt_id = s.attempt_id AND m.step BETWEEN s.first AND s.last ORDER BY m.step"#,
            series.id,
            &ids,
            &firsts,
            &lasts,
            (statistic as usize * rows * 4 + 1) as i32,
            (rows * 4) as i32
        );
        let found = found.fetch_all(&self.pool).await?;
        let bits = (0..63)
            .find(|&bits| (to >> bits) - (from >> bits) < u64::from(buckets.max(1)))
            .unwrap_or(63);
        let mut grouped: BTreeMap<u64, (u64, usize, Vec<f32>)> = BTreeMap::new();
        for row in found {
            let values = matrix::floats(&row.statistics);
            let step = row.step.unsigned_abs();
            let entry = grouped.entry(step >> bits).or_insert_with(|| (step, 0, Vec::new()));
            combine(&mut entry.2, &values, statistic, entry.1);
            (entry.0, entry.1) = (step, entry.1 + 1);
        }
        let mut result = RowSeries {
            steps: Vec::with_capacity(grouped.len()),
            rows,
            values: Vec::with_capacity(grouped.len() * rows),
        };
        for (step, _, values) in grouped.into_values() {
            result.steps.push(step);
            result.values.extend(values);
        }
        Ok(result)
    }

    /// Thins the matrices of an attempt: old steps become means of windows, except around events.
    pub(crate) async fn thin(&self, attempt: i64) -> Result<()> {
        while self.thin_some(attempt).await? {}
        Ok(())
    }

    /// Thins some windows: others get their turn at the database in between. Returns whether there are more.
    async fn thin_some(&self, attempt: i64) -> Result<bool> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query!("SELECT pg_advisory_xact_lock($1)", attempt)
            .fetch_one(&mut *transaction)
            .await?;
        let Some(newest) = sqlx::query_scalar!("SELECT last_step FROM attempts WHERE id = $1", attempt)
            .fetch_optional(&mut *transaction)
            .await?
            .flatten()
        else {
            return Ok(false);
        };
        let newest = newest.unsigned_abs();
        let events = sqlx::query_scalar!(
            r#"SELECT e.step AS "step!" FROM events e JOIN attempts a ON a.run_id = e.run_id
               WHERE a.id = $1 AND e.step IS NOT NULL AND e.kind IN ('NonFinite', 'CheckpointCommitted', 'Detected')"#,
            attempt
        );
        let events: Vec<u64> = events
            .fetch_all(&mut *transaction)
            .await?
            .into_iter()
            .map(i64::unsigned_abs)
            .collect();
        // Without their values: those around events are looked at each time and stay as they are.
        let rows = sqlx::query!(
            "SELECT series_id, step, first_step FROM matrices
             WHERE attempt_id = $1 AND step < $2 AND step - first_step + 1 < CASE WHEN step < $3 THEN 1024 WHEN step < $4 THEN 128 ELSE 16 END
             ORDER BY series_id, step DESC LIMIT $5",
            attempt,
            limited(newest.saturating_sub(EXACT_STEPS)),
            limited(newest.saturating_sub(WINDOWS[2].0)),
            limited(newest.saturating_sub(WINDOWS[1].0)),
            THINNED_ROWS
        );
        let mut windows: BTreeMap<(i64, u64, u64), Vec<i64>> = BTreeMap::new();
        for row in rows.fetch_all(&mut *transaction).await? {
            if let Some((index, length)) = window(row.first_step.unsigned_abs(), row.step.unsigned_abs(), newest, &events) {
                windows.entry((row.series_id, index, length)).or_default().push(row.step);
            }
        }
        windows.retain(|_, steps| steps.len() > 1);
        let more = windows.len() > THINNED_WINDOWS;
        for ((series, ..), steps) in windows.into_iter().take(THINNED_WINDOWS) {
            let members = members(&mut transaction, attempt, series, &steps).await?;
            let [(first, ..), .., (_, last, ..)] = members.as_slice() else {
                continue;
            };
            let (first, last) = (limited(*first), limited(*last));
            let (mean, statistics) = mean(&members);
            sqlx::query!(
                "DELETE FROM matrices WHERE series_id = $1 AND attempt_id = $2 AND step = ANY($3)",
                series,
                attempt,
                &steps
            )
            .execute(&mut *transaction)
            .await?;
            sqlx::query!(
                "INSERT INTO matrices (series_id, attempt_id, step, first_step, row_statistics, payload) VALUES ($1, $2, $3, $4, $5, $6)",
                series,
                attempt,
                last,
                first,
                statistics,
                matrix::encode(&mean)
            )
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(more)
    }
}

/// The matrices that become one, ascending.
async fn members(connection: &mut PgConnection, attempt: i64, series: i64, steps: &[i64]) -> Result<Vec<Member>> {
    let rows = sqlx::query!(
        r#"SELECT m.step, m.first_step, m.row_statistics, m.payload, s.matrix_rows AS "rows!", s.matrix_columns AS "columns!"
           FROM matrices m JOIN series s ON s.id = m.series_id WHERE m.series_id = $1 AND m.attempt_id = $2 AND m.step = ANY($3) ORDER BY m.step"#,
        series,
        attempt,
        steps
    );
    let mut members = Vec::with_capacity(steps.len());
    for row in rows.fetch_all(connection).await? {
        let (rows, columns) = (row.rows.unsigned_abs() as usize, row.columns.unsigned_abs() as usize);
        let values = matrix::decode(&row.payload, rows * columns)?;
        let matrix = Matrix { rows, columns, values };
        members.push((row.first_step.unsigned_abs(), row.step.unsigned_abs(), matrix, row.row_statistics));
    }
    Ok(members)
}

/// The window that the matrix of the steps `first..=last` belongs to, if it is old enough and nothing happened near it.
fn window(first: u64, last: u64, newest: u64, events: &[u64]) -> Option<(u64, u64)> {
    let age = newest.saturating_sub(last);
    let length = WINDOWS.iter().rev().find(|&&(oldest, _)| age > oldest).map(|&(_, length)| length)?;
    let window = (last / length, length);
    // A window is made when all of it is old enough.
    let end = (window.0 + 1) * length - 1;
    if newest.saturating_sub(end) <= EXACT_STEPS || last - first + 1 >= length {
        return None;
    }
    let near = events
        .iter()
        .any(|&event| last + NEIGHBOURHOOD >= event && first <= event + NEIGHBOURHOOD);
    (!near).then_some(window)
}

/// The mean of matrices, weighted by steps, and the extremes of their row statistics.
fn mean(members: &[Member]) -> (Vec<f32>, Vec<u8>) {
    let mut sum = vec![0.0f64; members[0].2.values.len()];
    let mut steps = 0.0;
    let rows = members[0].2.rows;
    let mut statistics: Vec<f32> = Vec::new();
    for (index, (first, last, matrix, own)) in members.iter().enumerate() {
        let weight = (last - first + 1) as f64;
        steps += weight;
        sum.iter_mut()
            .zip(&matrix.values)
            .for_each(|(sum, &value)| *sum += weight * f64::from(value));
        let own = matrix::floats(own);
        if index == 0 {
            statistics = own;
            continue;
        }
        for kind in [RowStatistic::MaxViolation, RowStatistic::Mean, RowStatistic::Max, RowStatistic::Min] {
            let part = kind as usize * rows..(kind as usize + 1) * rows;
            let mut kept = statistics[part.clone()].to_vec();
            combine(&mut kept, &own[part.clone()], kind, index);
            statistics[part].copy_from_slice(&kept);
        }
    }
    debug_assert_eq!(statistics.len(), rows * ROW_STATISTICS);
    let values = sum.into_iter().map(|sum| (sum / steps) as f32).collect();
    (values, statistics.into_iter().flat_map(f32::to_le_bytes).collect())
}

/// Adds the values of one more matrix to those of `count` others.
fn combine(kept: &mut Vec<f32>, values: &[f32], statistic: RowStatistic, count: usize) {
    if count == 0 {
        kept.clear();
        kept.extend_from_slice(values);
        return;
    }
    for (kept, &value) in kept.iter_mut().zip(values) {
        *kept = match statistic {
            RowStatistic::MaxViolation | RowStatistic::Max => kept.max(value),
            RowStatistic::Min => kept.min(value),
            RowStatistic::Mean => *kept + (value - *kept) / (count + 1) as f32,
        };
    }
}

fn shape(series: &SeriesRow) -> Result<(usize, usize)> {
    let shape = series.matrix_rows.zip(series.matrix_columns);
    let (rows, columns) = shape.ok_or_else(|| Error::Invalid(format!("metric `{}` is a scalar", series.name)))?;
    Ok((rows.unsigned_abs() as usize, columns.unsigned_abs() as usize))
}

fn limited(step: u64) -> i64 {
    i64::try_from(step).unwrap_or(i64::MAX)
}

fn last_step(attempts: &[AttemptRow]) -> u64 {
    attempts.iter().filter_map(|row| row.last_step).max().unwrap_or(0).unsigned_abs()
}

/// The parts of segments that lie in a range, as columns.
fn columns_of(segments: &[Segment], from: u64, to: u64) -> (Vec<i64>, Vec<i64>, Vec<i64>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for segment in segments {
        columns.0.push(segment.attempt);
        columns.1.push(limited(segment.first.max(from)));
        columns.2.push(limited(segment.last.min(to)));
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_steps_join_windows_except_around_events() {
        assert_eq!(window(100, 100, 1_000, &[]), None, "too young");
        assert_eq!(window(100, 100, 5_000, &[]), Some((6, 16)));
        assert_eq!(window(96, 111, 5_000, &[]), None, "already the whole window");
        assert_eq!(window(96, 111, 50_000, &[]), Some((0, 128)));
        assert_eq!(window(100, 100, 5_000, &[116]), None);
        assert_eq!(window(100, 100, 5_000, &[84]), None);
        assert_eq!(window(100, 100, 5_000, &[117, 83]), Some((6, 16)));
        assert_eq!(window(3_975, 3_975, 5_000, &[]), None, "the window's end is too young");
    }

    #[test]
    fn a_window_is_the_mean_and_keeps_the_extremes() {
        let member = |step: u64, values: [f32; 2]| {
            let matrix = Matrix {
                rows: 1,
                columns: 2,
                values: values.to_vec(),
            };
            let statistics = matrix::row_statistics(&matrix);
            (step, step, matrix, statistics)
        };
        let (values, statistics) = mean(&[member(1, [1.0, 3.0]), member(2, [4.0, 0.0])]);
        assert_eq!(values, [2.5, 1.5]);
        assert_eq!(matrix::floats(&statistics), [1.0, 2.0, 4.0, 0.0]);
    }
}
