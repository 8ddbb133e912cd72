//! Tables `log_lines` and `log_offsets`: what workers printed.

use crate::error::to_i64;
use crate::{Error, Page, Result, Store};

/// Lines that a request may send.
pub const MAX_LINES: usize = 10_000;
/// Longest line that is kept, in bytes; the rest of it is left out, and the line says so.
pub const MAX_LINE_BYTES: usize = 16 << 10;

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRow {
    /// Position in the run's merged log.
    pub id: i64,
    /// Name of the run.
    pub run: String,
    /// Number of the attempt.
    pub attempt: i32,
    /// Rank of the worker.
    pub rank: i32,
    /// When it was seen, in seconds since the Unix epoch.
    pub time: f64,
    /// `error`, `warn`, `info` or `debug`.
    pub level: String,
    /// The text.
    pub text: String,
}

/// A line to store.
#[derive(Clone, Debug)]
pub struct NewLine<'a> {
    /// Byte of the log at which it begins.
    pub position: u64,
    /// When it was seen, in seconds since the Unix epoch.
    pub time: f64,
    /// `error`, `warn`, `info` or `debug`.
    pub level: &'a str,
    /// The text.
    pub text: &'a str,
}

/// Which lines.
#[derive(Clone, Debug, Default)]
pub struct LogFilter<'a> {
    /// Of this attempt only.
    pub attempt: Option<i32>,
    /// Of this rank only.
    pub rank: Option<i32>,
    /// Of this level only.
    pub level: Option<&'a str>,
    /// With this text in it.
    pub contains: Option<&'a str>,
}

impl Store {
    /// Stores lines of one worker's log that lie before the byte `end`; those that are there already are skipped. Returns up to which byte
    /// the log is durable.
    ///
    /// # Errors
    /// [`Error::Invalid`] beyond a limit, [`Error::Gap`] if bytes before these are missing, [`Error::Database`].
    pub async fn add_lines(&self, run: i64, attempt: i32, rank: i32, begin: u64, lines: &[NewLine<'_>], end: u64) -> Result<u64> {
        if lines.len() > MAX_LINES {
            return Err(Error::Invalid(format!("a request may hold {MAX_LINES} lines, not {}", lines.len())));
        }
        let mut transaction = self.pool.begin().await?;
        let next = sqlx::query_scalar!(
            "INSERT INTO log_offsets (run_id, attempt, rank, next_position) VALUES ($1, $2, $3, 0)
             ON CONFLICT ON CONSTRAINT log_offsets_pkey DO UPDATE SET next_position = log_offsets.next_position RETURNING next_position",
            run,
            attempt,
            rank
        );
        let next = next.fetch_one(&mut *transaction).await?.unsigned_abs();
        if begin > next {
            return Err(Error::Gap { expected: next });
        }
        let new: Vec<&NewLine<'_>> = lines.iter().filter(|line| line.position >= next).collect();
        let positions = new
            .iter()
            .map(|line| to_i64("position", line.position))
            .collect::<Result<Vec<_>>>()?;
        let times: Vec<f64> = new.iter().map(|line| line.time).collect();
        let levels: Vec<String> = new.iter().map(|line| line.level.to_owned()).collect();
        let texts: Vec<String> = new.iter().map(|line| shortened(line.text)).collect();
        sqlx::query!(
            "INSERT INTO log_lines (run_id, attempt, rank, position, time, level, text)
             SELECT $1, $2, $3, position, time, level, text
             FROM unnest($4::bigint[], $5::double precision[], $6::text[], $7::text[]) AS new (position, time, level, text)
             ON CONFLICT ON CONSTRAINT log_lines_run_id_attempt_rank_position_key DO NOTHING",
            run,
            attempt,
            rank,
            &positions,
            &times,
            &levels,
            &texts
        )
        .execute(&mut *transaction)
        .await?;
        let end = end.max(next);
        sqlx::query!(
            "UPDATE log_offsets SET next_position = $4 WHERE run_id = $1 AND attempt = $2 AND rank = $3",
            run,
            attempt,
            rank,
            to_i64("position", end)?
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(end)
    }

    /// Up to which byte a worker's log is durable.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn log_offset(&self, run: i64, attempt: i32, rank: i32) -> Result<u64> {
        let next = sqlx::query_scalar!(
            "SELECT next_position FROM log_offsets WHERE run_id = $1 AND attempt = $2 AND rank = $3",
            run,
            attempt,
            rank
        );
        Ok(next.fetch_optional(&self.pool).await?.unwrap_or(0).unsigned_abs())
    }

    /// Lines of runs, newest first, before the id `before`.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn lines_before(&self, runs: &[i64], filter: &LogFilter<'_>, before: Option<i64>, limit: u32) -> Result<Page<LogRow, i64>> {
        let rows = sqlx::query_as!(
            LogRow,
            "SELECT l.id, r.name AS run, attempt, rank, time, level, text FROM log_lines l JOIN runs r ON r.id = l.run_id
             WHERE run_id = ANY($1) AND ($2::bigint IS NULL OR l.id < $2) AND ($3::int IS NULL OR attempt = $3) AND ($4::int IS NULL OR rank = $4)
               AND ($5::text IS NULL OR level = $5) AND ($6::text IS NULL OR strpos(lower(text), lower($6)) > 0)
             ORDER BY l.id DESC LIMIT $7",
            runs,
            before,
            filter.attempt,
            filter.rank,
            filter.level,
            filter.contains,
            i64::from(limit) + 1
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(Page::new(rows, limit, |row| row.id))
    }

    /// Lines of runs after the id `after`, oldest first.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn lines_after(&self, runs: &[i64], filter: &LogFilter<'_>, after: i64, limit: u32) -> Result<Page<LogRow, i64>> {
        let rows = sqlx::query_as!(
            LogRow,
            "SELECT l.id, r.name AS run, attempt, rank, time, level, text FROM log_lines l JOIN runs r ON r.id = l.run_id
             WHERE run_id = ANY($1) AND l.id > $2 AND ($3::int IS NULL OR attempt = $3) AND ($4::int IS NULL OR rank = $4)
               AND ($5::text IS NULL OR level = $5) AND ($6::text IS NULL OR strpos(lower(text), lower($6)) > 0)
             ORDER BY l.id LIMIT $7",
            runs,
            after,
            filter.attempt,
            filter.rank,
            filter.level,
            filter.contains,
            i64::from(limit) + 1
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(Page::new(rows, limit, |row| row.id))
    }
}

/// The line without NUL characters, which Postgres cannot hold, cut at the limit.
fn shortened(text: &str) -> String {
    let clean = text.replace('\0', "\u{fffd}");
    if clean.len() <= MAX_LINE_BYTES {
        return clean;
    }
    let end = clean.floor_char_boundary(MAX_LINE_BYTES);
    format!("{} [{} bytes left out]", &clean[..end], clean.len() - end)
}
