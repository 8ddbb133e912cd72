//! Folding chunks into pages, in the background. A crash at any moment leaves every point in exactly one place.

use crate::codec::buckets::Buckets;
use crate::codec::chunk::Chunk;
use crate::codec::points::Points;
use crate::codec::{LEVEL_BITS, MAX_LEVEL, bucket_bits, page_of, page_start};
use crate::error::to_i64;
use crate::ingest::insert_chunk;
use crate::{Error, Result, Store};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

/// Chunks of an attempt that are left alone: a read decodes them all.
const MAX_CHUNKS: u32 = 64;
/// Steps that count as a chunk.
const CHUNK_STEPS: usize = 128;
/// Chunks that are folded at a time.
const FOLDED_CHUNKS: i64 = 512;

/// Chunks per attempt since it was last folded, and which attempts are being folded.
#[derive(Debug, Default)]
pub(crate) struct Sealing {
    pending: Mutex<HashMap<i64, Pending>>,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    chunks: u32,
    busy: bool,
    /// Whether nothing more will come: all is folded.
    ended: bool,
}

impl Store {
    /// Counts a chunk of an attempt and starts folding when there are enough. An attempt that this process has not seen yet may have many.
    /// A writer that catches up sends thousands of steps in a chunk: they count as many.
    pub(crate) fn note_chunk(&self, attempt: i64, steps: usize) {
        let chunks = u32::try_from(steps / CHUNK_STEPS).unwrap_or(MAX_CHUNKS).saturating_add(1);
        self.note(attempt, chunks, false);
    }

    /// Folds everything that an attempt that has ended left.
    pub(crate) fn note_end(&self, attempt: i64) {
        self.note(attempt, 0, true);
    }

    fn note(&self, attempt: i64, chunks: u32, ended: bool) {
        let start = {
            let mut pending = self.shared.sealing.pending.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = pending.entry(attempt).or_insert(Pending {
                chunks: MAX_CHUNKS - 1,
                busy: false,
                ended: false,
            });
            entry.chunks = entry.chunks.saturating_add(chunks);
            entry.ended |= ended;
            let start = (entry.ended || entry.chunks >= MAX_CHUNKS) && !entry.busy;
            entry.busy |= start;
            start
        };
        if start {
            tokio::spawn(self.clone().fold_in_background(attempt));
        }
    }

    async fn fold_in_background(self, attempt: i64) {
        let pending = || self.shared.sealing.pending.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let all = pending().get_mut(&attempt).is_some_and(|entry| std::mem::take(&mut entry.ended));
            let folded = if all {
                self.seal_all(attempt).await
            } else {
                self.seal(attempt).await
            };
            if let Err(error) = &folded {
                tracing::warn!(
                    attempt,
                    error = error as &dyn std::error::Error,
                    "metrics were not folded; they will be with the next ones"
                );
            }
            let mut pending = pending();
            if pending.get(&attempt).is_some_and(|entry| entry.ended) {
                continue;
            }
            if all {
                pending.remove(&attempt);
            } else {
                // What is kept is one chunk; more may have come meanwhile and are counted with the next.
                let kept = Pending {
                    chunks: 1,
                    busy: false,
                    ended: false,
                };
                pending.insert(attempt, kept);
            }
            return;
        }
    }

    /// The attempts of a run that have chunks; with `before`, those of a lower number only.
    pub(crate) async fn unfolded(&self, run: i64, before: Option<i32>) -> Result<Vec<i64>> {
        let ids = sqlx::query_scalar!(
            "SELECT a.id FROM attempts a WHERE a.run_id = $1 AND ($2::int IS NULL OR a.attempt < $2)
                AND EXISTS (SELECT FROM metric_chunks c WHERE c.attempt_id = a.id)",
            run,
            before
        );
        Ok(ids.fetch_all(&self.pool).await?)
    }

    /// Folds the chunks of an attempt: complete pages are written, the rest becomes one chunk.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Damaged`]; nothing has changed then.
    pub async fn seal(&self, attempt: i64) -> Result<()> {
        self.fold(attempt, false).await?;
        self.thin(attempt).await
    }

    /// Folds all chunks of an attempt that has ended: its last page is complete as it is. What comes late all the same is added to it.
    ///
    /// # Errors
    /// As [`Store::seal`].
    pub async fn seal_all(&self, attempt: i64) -> Result<()> {
        while self.fold(attempt, true).await? {}
        self.thin(attempt).await
    }

    /// Folds some chunks, the last page too if `all` is set and they are the last. Returns whether there may be more.
    async fn fold(&self, attempt: i64, all: bool) -> Result<bool> {
        let mut transaction = self.pool.begin().await?;
        // Other processes that fold the same attempt wait; those that add to it do not.
        sqlx::query!("SELECT pg_advisory_xact_lock($1)", attempt)
            .fetch_one(&mut *transaction)
            .await?;
        let rows = sqlx::query!(
            "SELECT id, payload FROM metric_chunks WHERE attempt_id = $1 ORDER BY id LIMIT $2",
            attempt,
            FOLDED_CHUNKS
        );
        let rows = rows.fetch_all(&mut *transaction).await?;
        let more = rows.len() as i64 == FOLDED_CHUNKS;
        let mut chunk = Chunk::default();
        for row in &rows {
            chunk.extend(&Chunk::decode(&row.payload, None)?);
        }
        chunk.normalise();
        let Some((_, last)) = chunk.steps() else { return Ok(false) };
        let before = sqlx::query_scalar!("SELECT sealed_steps FROM attempts WHERE id = $1", attempt);
        let before = before.fetch_one(&mut *transaction).await?.unsigned_abs();
        let page = page_of(last, 0) + u64::from(all && !more);
        let sealed = page_start(page, 0).max(before);
        let rest = chunk.split_off(sealed);
        if rows.len() > 1 || !chunk.0.is_empty() {
            let changed = write_points(&mut transaction, attempt, &chunk).await?;
            write_levels(&mut transaction, attempt, changed, sealed).await?;
            let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
            sqlx::query!("DELETE FROM metric_chunks WHERE id = ANY($1)", &ids)
                .execute(&mut *transaction)
                .await?;
            insert_chunk(&mut transaction, attempt, &rest).await?;
            sqlx::query!(
                "UPDATE attempts SET sealed_steps = GREATEST(sealed_steps, $2) WHERE id = $1",
                attempt,
                to_i64("step", sealed)?
            )
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(more)
    }
}

/// Pages by series.
type Changed = BTreeSet<(i64, u64)>;

/// Writes level 0 pages. Points that come late for a page that was written are added to it.
async fn write_points(connection: &mut PgConnection, attempt: i64, chunk: &Chunk) -> Result<Changed> {
    let mut pages: BTreeMap<(i64, u64), Points> = BTreeMap::new();
    for (&series, points) in &chunk.0 {
        for (step, value) in points.iter() {
            pages.entry((series, page_of(step, 0))).or_default().push(step, value);
        }
    }
    let keys: Vec<(i64, u64)> = pages.keys().copied().collect();
    for (key, payload) in fetch(connection, attempt, 0, &keys).await? {
        if let Some(late) = pages.get_mut(&key) {
            let mut merged = Points::decode(&payload)?;
            merged.extend(late);
            merged.normalise();
            *late = merged;
        }
    }
    let encoded = pages.iter().map(|(&key, points)| (key, points.len() as u64, points.encode()));
    store(connection, attempt, 0, encoded.collect()).await?;
    Ok(pages.into_keys().collect())
}

/// Writes the pages above those that changed, as far as they are complete.
async fn write_levels(connection: &mut PgConnection, attempt: i64, mut changed: Changed, sealed: u64) -> Result<()> {
    for level in 1..=MAX_LEVEL {
        let complete = page_of(sealed, level);
        changed = changed.into_iter().map(|(series, page)| (series, page >> LEVEL_BITS)).collect();
        // A page that is not complete is not written: reads go to the level below.
        changed.retain(|&(_, page)| page < complete);
        // The page below `sealed` may have become complete without a point of this series in this chunk.
        changed.extend(newly_complete(connection, attempt, level, complete).await?);
        if changed.is_empty() {
            return Ok(());
        }
        let below: Vec<(i64, u64)> = changed
            .iter()
            .flat_map(|&(series, page)| (0..1 << LEVEL_BITS).map(move |finer| (series, (page << LEVEL_BITS) + finer)))
            .collect();
        let mut pages: BTreeMap<(i64, u64), Buckets> = BTreeMap::new();
        for ((series, page), payload) in fetch(connection, attempt, level - 1, &below).await? {
            let buckets = pages.entry((series, page >> LEVEL_BITS)).or_default();
            if level == 1 {
                buckets.add_points(&Points::decode(&payload)?, bucket_bits(1));
            } else {
                Buckets::decode(&payload)?
                    .0
                    .iter()
                    .for_each(|bucket| buckets.add_finer(bucket, LEVEL_BITS));
            }
        }
        let encoded = pages
            .iter()
            .map(|(&key, buckets)| (key, buckets.0.iter().map(|bucket| bucket.count).sum(), buckets.encode()));
        store(connection, attempt, level, encoded.collect()).await?;
    }
    Ok(())
}

/// Pages of a level that are complete, have pages below and were not written.
async fn newly_complete(connection: &mut PgConnection, attempt: i64, level: u8, complete: u64) -> Result<Changed> {
    if complete == 0 {
        return Ok(Changed::new());
    }
    let rows = sqlx::query!(
        r#"SELECT DISTINCT b.series_id AS "series!", b.page >> $3 AS "page!" FROM metric_pages b
           WHERE b.attempt_id = $1 AND b.level = $2::smallint - 1 AND b.page >= ($4::bigint - 1) << $3 AND b.page < $4::bigint << $3
             AND NOT EXISTS (SELECT FROM metric_pages a
                WHERE a.series_id = b.series_id AND a.attempt_id = $1 AND a.level = $2 AND a.page = b.page >> $3)"#,
        attempt,
        i16::from(level),
        LEVEL_BITS as i32,
        to_i64("page", complete)?
    );
    let rows = rows.fetch_all(connection).await?;
    Ok(rows.into_iter().map(|row| (row.series, row.page.unsigned_abs())).collect())
}

async fn fetch(connection: &mut PgConnection, attempt: i64, level: u8, keys: &[(i64, u64)]) -> Result<Vec<((i64, u64), Vec<u8>)>> {
    let series: Vec<i64> = keys.iter().map(|&(series, _)| series).collect();
    let pages = keys.iter().map(|&(_, page)| to_i64("page", page)).collect::<Result<Vec<_>>>()?;
    let rows = sqlx::query!(
        "SELECT p.series_id, p.page, p.payload FROM unnest($3::bigint[], $4::bigint[]) AS k (series_id, page)
         JOIN metric_pages p ON p.series_id = k.series_id AND p.level = $2 AND p.attempt_id = $1 AND p.page = k.page
         ORDER BY p.series_id, p.page",
        attempt,
        i16::from(level),
        &series,
        &pages
    );
    let rows = rows.fetch_all(connection).await?;
    Ok(rows
        .into_iter()
        .map(|row| ((row.series_id, row.page.unsigned_abs()), row.payload))
        .collect())
}

async fn store(connection: &mut PgConnection, attempt: i64, level: u8, pages: Vec<((i64, u64), u64, Vec<u8>)>) -> Result<()> {
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for ((series, page), points, payload) in pages {
        columns.0.push(series);
        columns.1.push(to_i64("page", page)?);
        columns.2.push(to_i64("points", points)?);
        columns.3.push(payload);
    }
    let written = sqlx::query!(
        "INSERT INTO metric_pages (series_id, attempt_id, level, page, points, payload)
         SELECT series_id, $1, $2, page, points, payload
         FROM unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[]) AS new (series_id, page, points, payload)
         ON CONFLICT ON CONSTRAINT metric_pages_pkey DO UPDATE SET points = EXCLUDED.points, payload = EXCLUDED.payload",
        attempt,
        i16::from(level),
        &columns.0,
        &columns.1,
        &columns.2,
        &columns.3
    );
    let written = written.execute(connection).await?.rows_affected();
    if written != columns.0.len() as u64 {
        return Err(Error::Conflict(format!("{written} of {} pages were written", columns.0.len())));
    }
    Ok(())
}
