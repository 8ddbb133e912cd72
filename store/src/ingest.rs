//! Taking in a worker's records: all or nothing, each once.

use crate::codec::chunk::Chunk;
use crate::codec::matrix;
use crate::error::to_i64;
use crate::events::{EventRow, NewEvent};
use crate::series::{Shape, TIME, TOKENS};
use crate::{Error, Result, Store};
use fathom_spec::record::{Body, EventKind, LifecycleEvent, Matrix, MetricBatch, Progress, Record};
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// Scalars and matrices of one request together.
pub const MAX_POINTS: usize = 100_000;
/// Elements of a matrix.
const MAX_ELEMENTS: usize = 1 << 20;
/// Prefix of scalars that are kept as evaluations too.
const VALIDATION: &str = "validation.";

/// Records of one writer.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// `<run>/<attempt>/<rank>`.
    pub writer: &'a str,
    /// Sequence number of the record that the sender has before the first of these, if it has one: what the store must have already.
    pub previous: Option<u64>,
    /// The records, ascending by sequence number.
    pub records: &'a [Record],
}

/// What became of a batch.
#[derive(Clone, Debug, Default)]
pub struct Ingested {
    /// All records of the writer up to this one are durable.
    pub durable_sequence: Option<u64>,
    /// Records that were there already.
    pub duplicates: usize,
    /// Scalars and matrices that are new.
    pub points: usize,
    /// Events that are new.
    pub events: Vec<EventRow>,
    /// Index of the first record that was new.
    pub first_new: usize,
}

/// Where records of a batch go.
#[derive(Default)]
struct Sorted<'a> {
    /// Attempts that begin, with the metrics that follow them; the first entry continues the attempt that the writer had.
    parts: Vec<Part<'a>>,
    progress: Option<&'a Progress>,
}

#[derive(Default)]
struct Part<'a> {
    /// Step that the attempt resumed after, and when; nothing for the attempt that was under way.
    start: Option<(u64, f64)>,
    metrics: Vec<(&'a MetricBatch, f64)>,
    events: Vec<(&'a LifecycleEvent, &'a Record)>,
    last_time: f64,
}

impl<'a> Part<'a> {
    /// How the attempt ended, and the event that says so.
    fn end(&self) -> Option<(&'static str, &'a LifecycleEvent, &'a Record)> {
        self.events.iter().rev().find_map(|&(event, record)| match event.kind {
            EventKind::AttemptStopped => Some(("stopped", event, record)),
            EventKind::PhaseCompleted => Some(("completed", event, record)),
            EventKind::AttemptFailed => Some(("failed", event, record)),
            EventKind::AttemptStarted
            | EventKind::CheckpointCommitted
            | EventKind::CheckpointRejected
            | EventKind::NonFinite
            | EventKind::RecordsDropped
            | EventKind::DataWarning => None,
        })
    }
}

impl Store {
    /// Takes in records of a run.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the limit or the field, [`Error::Gap`] if records before these are missing, [`Error::Database`]. Nothing is
    /// stored then.
    pub async fn ingest(&self, run: &crate::runs::RunRow, batch: &Batch<'_>) -> Result<Ingested> {
        let (attempt, _rank) = parse_writer(&run.name, batch.writer)?;
        check(batch)?;
        let mut transaction = self.pool.begin().await?;
        // Two requests of one writer wait for each other here.
        let writer = sqlx::query!(
            "INSERT INTO writers (run_id, writer, next_sequence) VALUES ($1, $2, 0)
             ON CONFLICT ON CONSTRAINT writers_pkey DO UPDATE SET next_sequence = writers.next_sequence
             RETURNING next_sequence, attempt_id",
            run.id,
            batch.writer
        )
        .fetch_one(&mut *transaction)
        .await?;
        let next = writer.next_sequence.unsigned_abs();
        if batch.previous.is_some_and(|previous| previous >= next) {
            return Err(Error::Gap { expected: next });
        }
        let first_new = batch.records.partition_point(|record| record.sequence < next);
        let new = &batch.records[first_new..];
        let Some(last) = new.last() else {
            return Ok(Ingested {
                durable_sequence: next.checked_sub(1),
                duplicates: first_new,
                first_new,
                ..Ingested::default()
            });
        };
        let sorted = sort(new, writer.attempt_id.is_none());
        let mut fresh = Vec::new();
        let mut attempt_id = writer.attempt_id;
        let mut ended = Vec::new();
        let mut ingested = Ingested {
            durable_sequence: Some(last.sequence),
            duplicates: first_new,
            first_new,
            ..Ingested::default()
        };
        for part in &sorted.parts {
            let id = match (part.start, attempt_id) {
                (Some((from_step, time)), _) => start_attempt(&mut transaction, run.id, attempt, from_step, time).await?,
                (None, Some(id)) => id,
                // `sort` gives the first part a start if the writer has no attempt.
                (None, None) => continue,
            };
            if let Some(earlier) = attempt_id.replace(id).filter(|earlier| *earlier != id) {
                ended.push(earlier);
            }
            if part.end().is_some() {
                ended.push(id);
            }
            self.store_part(&mut transaction, run, id, part, &mut fresh, &mut ingested).await?;
        }
        sqlx::query!(
            "UPDATE writers SET next_sequence = $3, attempt_id = $4 WHERE run_id = $1 AND writer = $2",
            run.id,
            batch.writer,
            to_i64("sequence", last.sequence)? + 1,
            attempt_id
        )
        .execute(&mut *transaction)
        .await?;
        update_run(&mut transaction, run.id, &sorted).await?;
        transaction.commit().await?;
        self.shared.series.put(run.id, fresh);
        if let Some(id) = attempt_id {
            self.note_chunk(id, new.len());
        }
        if sorted.parts.iter().any(|part| part.start.is_some()) {
            // Those before it ended, if only because they were killed.
            ended.extend(self.unfolded(run.id, Some(attempt)).await?);
        }
        for id in ended {
            self.note_end(id);
        }
        Ok(ingested)
    }

    async fn store_part(
        &self,
        connection: &mut PgConnection,
        run: &crate::runs::RunRow,
        attempt: i64,
        part: &Part<'_>,
        fresh: &mut Vec<(String, (i64, Shape))>,
        ingested: &mut Ingested,
    ) -> Result<()> {
        let wanted = names(part)?;
        let ids = self.series_ids(connection, run.id, &wanted, fresh).await?;
        let mut chunk = Chunk::default();
        let mut matrices = Vec::new();
        let mut evaluations = Vec::new();
        for &(batch, time) in &part.metrics {
            chunk.push(ids[TOKENS], batch.step, batch.tokens as f64);
            chunk.push(ids[TIME], batch.step, time);
            for (name, &value) in &batch.scalars {
                chunk.push(ids[name], batch.step, value);
                if name.starts_with(VALIDATION) {
                    evaluations.push((batch.step, name.as_str(), value));
                }
            }
            matrices.extend(batch.matrices.iter().map(|(name, matrix)| (ids[name], batch.step, matrix)));
            ingested.points += batch.scalars.len() + batch.matrices.len();
        }
        chunk.normalise();
        insert_chunk(connection, attempt, &chunk).await?;
        insert_matrices(connection, attempt, &matrices).await?;
        insert_evaluations(connection, run.id, attempt, &evaluations).await?;
        let events: Vec<NewEvent> = part
            .events
            .iter()
            .map(|(event, record)| new_event(run, attempt, event, record))
            .collect();
        ingested.events.extend(crate::events::insert(connection, &events).await?);
        end_attempt(connection, attempt, part, chunk.steps().map(|(_, last)| last)).await
    }
}

/// Attempt and rank of a writer of `run`.
fn parse_writer(run: &str, writer: &str) -> Result<(i32, i32)> {
    let parse = || {
        let (attempt, rank) = writer.strip_prefix(run)?.strip_prefix('/')?.split_once('/')?;
        Some((
            attempt.parse::<i32>().ok().filter(|&attempt| attempt > 0)?,
            rank.parse::<i32>().ok().filter(|&rank| rank >= 0)?,
        ))
    };
    parse().ok_or_else(|| Error::Invalid(format!("the writer of a record must be `{run}/<attempt>/<rank>`, not `{writer}`")))
}

/// Checks limits and order before anything is stored.
fn check(batch: &Batch<'_>) -> Result<()> {
    let mut points = 0usize;
    let mut last = None;
    for record in batch.records {
        if record.writer != batch.writer {
            return Err(Error::Invalid(format!(
                "a request holds records of one writer; `{}` is not `{}`",
                record.writer, batch.writer
            )));
        }
        if last.is_some_and(|last| record.sequence <= last) {
            return Err(Error::Invalid(format!(
                "sequence numbers must ascend; {} does not",
                record.sequence
            )));
        }
        last = Some(record.sequence);
        if !record.time.is_finite() {
            return Err(Error::Invalid(format!("the time of record {} is not a number", record.sequence)));
        }
        if let Body::Metrics(metrics) = &record.body {
            points += metrics.scalars.len() + metrics.matrices.len();
            to_i64("step", metrics.step)?;
            to_i64("tokens", metrics.tokens)?;
            for (name, matrix) in &metrics.matrices {
                check_matrix(name, matrix)?;
            }
            if let Some(name) = metrics
                .scalars
                .keys()
                .chain(metrics.matrices.keys())
                .find(|name| name.starts_with('$'))
            {
                return Err(Error::Invalid(format!("metric `{name}`: names that begin with `$` are reserved")));
            }
            if let Some(name) = metrics.scalars.keys().find(|&name| metrics.matrices.contains_key(name)) {
                return Err(Error::Invalid(format!(
                    "metric `{name}` is a scalar and a matrix: give one of them another name"
                )));
            }
        }
    }
    if points > MAX_POINTS {
        return Err(Error::Invalid(format!(
            "a request may hold {MAX_POINTS} points; this one holds {points}: send it in parts"
        )));
    }
    Ok(())
}

fn check_matrix(name: &str, matrix: &Matrix) -> Result<()> {
    let Matrix { rows, columns, values } = matrix;
    let elements = rows
        .checked_mul(*columns)
        .filter(|&elements| elements > 0 && elements <= MAX_ELEMENTS);
    match elements {
        Some(elements) if elements == values.len() => Ok(()),
        Some(elements) => Err(Error::Invalid(format!(
            "matrix `{name}` of {rows} x {columns} needs {elements} values, not {}",
            values.len()
        ))),
        None => Err(Error::Invalid(format!(
            "matrix `{name}` of {rows} x {columns}: a matrix has 1 to {MAX_ELEMENTS} elements"
        ))),
    }
}

/// Splits records where attempts begin. Metrics that come before any beginning (their first record was damaged) begin an attempt themselves.
fn sort(records: &[Record], no_attempt: bool) -> Sorted<'_> {
    let mut sorted = Sorted::default();
    let mut part = Part::default();
    for record in records {
        match &record.body {
            Body::Progress(progress) => sorted.progress = Some(progress),
            Body::Metrics(batch) => {
                if no_attempt && sorted.parts.is_empty() && part.start.is_none() {
                    part.start = Some((batch.step.saturating_sub(1), record.time));
                }
                part.metrics.push((batch, record.time));
            }
            Body::Event(event) => {
                if event.kind == EventKind::AttemptStarted {
                    sorted.parts.push(std::mem::take(&mut part));
                    part.start = Some((event.step.unwrap_or(0), record.time));
                } else if no_attempt && sorted.parts.is_empty() && part.start.is_none() {
                    part.start = Some((event.step.unwrap_or(0), record.time));
                }
                part.events.push((event, record));
            }
        }
        part.last_time = record.time;
    }
    sorted.parts.push(part);
    sorted.parts.retain(|part| part.start.is_some() || part.last_time > 0.0);
    sorted
}

/// The names that a part uses, with the shape of what they stand for and the step of their first point.
fn names<'a>(part: &Part<'a>) -> Result<BTreeMap<&'a str, (Shape, i64)>> {
    let mut names = BTreeMap::new();
    for (batch, _) in &part.metrics {
        let step = to_i64("step", batch.step)?;
        for name in [TOKENS, TIME] {
            names.entry(name).or_insert((None, step));
        }
        for name in batch.scalars.keys() {
            names.entry(name.as_str()).or_insert((None, step));
        }
        for (name, matrix) in &batch.matrices {
            // `check_matrix` bounds both.
            let shape = Some((matrix.rows as i32, matrix.columns as i32));
            names.entry(name.as_str()).or_insert((shape, step));
        }
    }
    Ok(names)
}

async fn start_attempt(connection: &mut PgConnection, run: i64, attempt: i32, from_step: u64, time: f64) -> Result<i64> {
    let id = sqlx::query_scalar!(
        "INSERT INTO attempts (run_id, attempt, execution, from_step, started_at, last_time)
         SELECT $1, $2, COALESCE(max(execution), 0) + 1, $3, $4, $4 FROM attempts WHERE run_id = $1 AND attempt = $2 RETURNING id",
        run,
        attempt,
        to_i64("step", from_step)?,
        time
    );
    Ok(id.fetch_one(connection).await?)
}

async fn end_attempt(connection: &mut PgConnection, attempt: i64, part: &Part<'_>, last_step: Option<u64>) -> Result<()> {
    let end = part.end();
    let (outcome, message, ended_at) = end.map_or((None, None, None), |(outcome, event, record)| {
        (Some(outcome), Some(event.message.as_str()), Some(record.time))
    });
    sqlx::query!(
        "UPDATE attempts SET last_step = GREATEST(last_step, $2), last_time = GREATEST(last_time, $3), outcome = COALESCE($4, outcome),
            message = COALESCE($5, message), ended_at = COALESCE($6, ended_at)
         WHERE id = $1",
        attempt,
        last_step.map(|step| to_i64("step", step)).transpose()?,
        part.last_time,
        outcome,
        message,
        ended_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn update_run(connection: &mut PgConnection, run: i64, sorted: &Sorted<'_>) -> Result<()> {
    let newest = sorted.parts.iter().flat_map(|part| &part.metrics).next_back();
    let progress = sorted.progress.map(serde_json::to_value).transpose();
    let progress = progress.map_err(|error| Error::Invalid(error.to_string()))?;
    sqlx::query!(
        "UPDATE runs SET last_step = COALESCE($2, last_step), last_tokens = COALESCE($3, last_tokens), last_time = COALESCE($4, last_time),
            progress = COALESCE($5, progress)
         WHERE id = $1",
        run,
        newest.map(|(batch, _)| to_i64("step", batch.step)).transpose()?,
        newest.map(|(batch, _)| to_i64("tokens", batch.tokens)).transpose()?,
        newest.map(|&(_, time)| time),
        progress
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn insert_chunk(connection: &mut PgConnection, attempt: i64, chunk: &Chunk) -> Result<()> {
    let Some((first, last)) = chunk.steps() else { return Ok(()) };
    sqlx::query!(
        "INSERT INTO metric_chunks (attempt_id, first_step, last_step, points, payload) VALUES ($1, $2, $3, $4, $5)",
        attempt,
        to_i64("step", first)?,
        to_i64("step", last)?,
        i32::try_from(chunk.points()).unwrap_or(i32::MAX),
        chunk.encode()
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_matrices(connection: &mut PgConnection, attempt: i64, matrices: &[(i64, u64, &Matrix)]) -> Result<()> {
    if matrices.is_empty() {
        return Ok(());
    }
    let series: Vec<i64> = matrices.iter().map(|&(series, ..)| series).collect();
    let steps = matrices
        .iter()
        .map(|&(_, step, _)| to_i64("step", step))
        .collect::<Result<Vec<_>>>()?;
    let statistics: Vec<Vec<u8>> = matrices.iter().map(|(.., matrix)| matrix::row_statistics(matrix)).collect();
    let payloads: Vec<Vec<u8>> = matrices.iter().map(|(.., matrix)| matrix::encode(&matrix.values)).collect();
    sqlx::query!(
        "INSERT INTO matrices (series_id, attempt_id, step, first_step, row_statistics, payload)
         SELECT series_id, $1, step, step, row_statistics, payload
         FROM unnest($2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[]) AS new (series_id, step, row_statistics, payload)
         ON CONFLICT ON CONSTRAINT matrices_pkey DO UPDATE SET row_statistics = EXCLUDED.row_statistics, payload = EXCLUDED.payload",
        attempt,
        &series,
        &steps,
        &statistics,
        &payloads
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_evaluations(connection: &mut PgConnection, run: i64, attempt: i64, evaluations: &[(u64, &str, f64)]) -> Result<()> {
    for &(step, name, value) in evaluations {
        sqlx::query!(
            "INSERT INTO evaluations (run_id, attempt_id, step, name, value) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT ON CONSTRAINT evaluations_pkey DO UPDATE SET value = EXCLUDED.value",
            run,
            attempt,
            to_i64("step", step)?,
            name,
            value
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

fn new_event(run: &crate::runs::RunRow, attempt: i64, event: &LifecycleEvent, record: &Record) -> NewEvent {
    let severity = match event.kind {
        EventKind::AttemptStarted | EventKind::CheckpointCommitted | EventKind::PhaseCompleted | EventKind::AttemptStopped => "info",
        EventKind::CheckpointRejected | EventKind::RecordsDropped | EventKind::DataWarning => "warning",
        EventKind::NonFinite | EventKind::AttemptFailed => "error",
    };
    NewEvent {
        job: run.job_id,
        run: Some(run.id),
        attempt: Some(attempt),
        key: format!("{}#{}", record.writer, record.sequence),
        time: record.time,
        kind: format!("{:?}", event.kind),
        severity,
        step: event.step,
        message: event.message.clone(),
    }
}
