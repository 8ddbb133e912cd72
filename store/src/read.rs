//! Reading series: the coarsest blocks that the picture allows, and finer ones where those do not reach.

use crate::attempts::{AttemptRow, Segment, segments};
use crate::codec::buckets::{Bucket, Buckets};
use crate::codec::chunk::Chunk;
use crate::codec::points::Points;
use crate::codec::{LEVEL_BITS, MAX_LEVEL, bucket_bits, page_of, page_start};
use crate::error::to_i64;
use crate::{Error, Result, Store};
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// Buckets that a request may ask for.
pub const MAX_BUCKETS: u32 = 4_000;
/// Series that a request may ask for.
pub const MAX_NAMES: usize = 100;

/// Which steps, and how many buckets at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First step.
    pub from: u64,
    /// Last step.
    pub to: u64,
    /// Buckets at most; boundaries are multiples of a power of two, so that neighbouring requests see the same buckets.
    pub buckets: u32,
}

/// Whose steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Each step once, as the last attempt that made it saw it.
    Resolved,
    /// Everything that one attempt (database id) measured, superseded or not.
    Attempt(i64),
}

/// Several series over one range.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// First step.
    pub from: u64,
    /// Last step.
    pub to: u64,
    /// log2 of the steps per bucket.
    pub bucket_bits: u32,
    /// Buckets by series (database id), ascending; a series without points is empty.
    pub series: BTreeMap<i64, Vec<Bucket>>,
}

/// What is read of one run.
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    /// Its attempts, in order of execution.
    pub attempts: &'a [AttemptRow],
    /// Series (database ids).
    pub series: &'a [i64],
    /// Which steps.
    pub range: Range,
    /// Whose steps.
    pub view: View,
}

/// A read under way.
struct Plan<'a> {
    series: &'a [i64],
    range: Range,
    segments: Vec<Segment>,
    window: Window,
}

/// Blocks to read: pages of one level (or chunks), and which steps of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    attempt: i64,
    level: u8,
    first: u64,
    /// One past the last.
    end: u64,
}

impl Store {
    /// Reads series of a run.
    ///
    /// # Errors
    /// [`Error::Invalid`] beyond a limit, [`Error::Database`], [`Error::Damaged`].
    pub async fn window(&self, run: i64, series: &[i64], range: Range, view: View) -> Result<Window> {
        let attempts = self.attempts(run).await?;
        self.window_of(&attempts, series, range, view).await
    }

    /// Reads series of a run whose attempts are known.
    ///
    /// # Errors
    /// As [`Store::window`].
    pub async fn window_of(&self, attempts: &[AttemptRow], series: &[i64], range: Range, view: View) -> Result<Window> {
        let read = Read {
            attempts,
            series,
            range,
            view,
        };
        let mut windows = self.windows(&[read]).await?;
        windows
            .pop()
            .ok_or_else(|| Error::Invalid("a request must name what it reads".into()))
    }

    /// Reads series of several runs with as many queries as for one. The answers are in the order of `reads`.
    ///
    /// # Errors
    /// As [`Store::window`].
    pub async fn windows(&self, reads: &[Read<'_>]) -> Result<Vec<Window>> {
        let mut plans = Vec::with_capacity(reads.len());
        for read in reads {
            let Range { from, to, buckets } = read.range;
            if buckets == 0 || buckets > MAX_BUCKETS {
                return Err(Error::Invalid(format!("the number of points must be from 1 to {MAX_BUCKETS}")));
            }
            if read.series.len() > MAX_NAMES {
                return Err(Error::Invalid(format!(
                    "a request may name {MAX_NAMES} series, not {}",
                    read.series.len()
                )));
            }
            plans.push(Plan {
                series: read.series,
                range: read.range,
                segments: match read.view {
                    View::Resolved => segments(read.attempts),
                    View::Attempt(id) => read.attempts.iter().filter(|row| row.id == id).map(whole).collect(),
                },
                window: Window {
                    from,
                    to,
                    bucket_bits: width(read.range),
                    series: read.series.iter().map(|&id| (id, Vec::new())).collect(),
                },
            });
        }
        // One moment for all of it: folding moves points from chunks to pages, and a read between would miss them or count them twice.
        let mut moment = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        refresh(&mut moment, &mut plans).await?;
        read_pages(&mut moment, &mut plans).await?;
        read_chunks(&mut moment, &mut plans).await?;
        moment.commit().await?;
        plans.iter_mut().flat_map(|plan| plan.window.series.values_mut()).for_each(finish);
        Ok(plans.into_iter().map(|plan| plan.window).collect())
    }
}

/// What is folded now: the attempts that a read brings may have been read before.
async fn refresh(connection: &mut PgConnection, plans: &mut [Plan<'_>]) -> Result<()> {
    let attempts: Vec<i64> = plans
        .iter()
        .flat_map(|plan| &plan.segments)
        .map(|segment| segment.attempt)
        .collect();
    let rows = sqlx::query!("SELECT id, sealed_steps FROM attempts WHERE id = ANY($1)", &attempts);
    let sealed: BTreeMap<i64, u64> = rows
        .fetch_all(connection)
        .await?
        .into_iter()
        .map(|row| (row.id, row.sealed_steps.unsigned_abs()))
        .collect();
    for segment in plans.iter_mut().flat_map(|plan| &mut plan.segments) {
        segment.sealed = sealed.get(&segment.attempt).copied().unwrap_or(0);
    }
    Ok(())
}

async fn read_pages(connection: &mut PgConnection, plans: &mut [Plan<'_>]) -> Result<()> {
    let mut found: Vec<(usize, Piece)> = Vec::new();
    let (mut series, mut owners) = (Vec::new(), Vec::new());
    for (index, plan) in plans.iter().enumerate() {
        let level = (plan.window.bucket_bits / LEVEL_BITS).min(u32::from(MAX_LEVEL)) as u8;
        found.extend(pieces(&plan.segments, plan.range, level).into_iter().map(|piece| (index, piece)));
        series.extend_from_slice(plan.series);
        owners.extend(std::iter::repeat_n(index as i64, plan.series.len()));
    }
    if found.is_empty() || series.is_empty() {
        return Ok(());
    }
    let column = |value: &dyn Fn(&Piece) -> u64| {
        let values = found.iter().map(|(_, piece)| to_i64("page", value(piece)));
        values.collect::<Result<Vec<_>>>()
    };
    let reads: Vec<i64> = found.iter().map(|&(index, _)| index as i64).collect();
    let attempts: Vec<i64> = found.iter().map(|(_, piece)| piece.attempt).collect();
    let levels: Vec<i16> = found.iter().map(|(_, piece)| i16::from(piece.level)).collect();
    let first = column(&|piece| page_of(piece.first, piece.level))?;
    let last = column(&|piece| page_of(piece.end - 1, piece.level))?;
    let rows = sqlx::query!(
        r#"SELECT k.piece AS "piece!", p.series_id, p.payload
               FROM unnest($3::bigint[], $4::bigint[], $5::smallint[], $6::bigint[], $7::bigint[])
                    WITH ORDINALITY AS k (read, attempt_id, level, first, last, piece)
               JOIN unnest($1::bigint[], $2::bigint[]) AS s (id, read) ON s.read = k.read
               JOIN metric_pages p ON p.series_id = s.id AND p.level = k.level AND p.attempt_id = k.attempt_id AND p.page BETWEEN k.first AND k.last"#,
        &series,
        &owners,
        &reads,
        &attempts,
        &levels,
        &first,
        &last
    );
    for row in rows.fetch_all(&mut *connection).await? {
        let (index, piece) = found[row.piece as usize - 1];
        let window = &mut plans[index].window;
        let bits = window.bucket_bits;
        let list = window.series.entry(row.series_id).or_default();
        if piece.level == 0 {
            let points = Points::decode(&row.payload)?;
            let inside = points.iter().filter(|(step, _)| (piece.first..piece.end).contains(step));
            inside.for_each(|(step, value)| add(list, Bucket::of(step, value, bits)));
        } else {
            let width = bucket_bits(piece.level);
            let inside = piece.first >> width..piece.end >> width;
            let stored = Buckets::decode(&row.payload)?.0.into_iter();
            for bucket in stored.filter(|bucket| inside.contains(&bucket.index)) {
                let index = bucket.index >> (bits - width);
                add(list, Bucket { index, ..bucket });
            }
        }
    }
    Ok(())
}

async fn read_chunks(connection: &mut PgConnection, plans: &mut [Plan<'_>]) -> Result<()> {
    let (mut places, mut attempts, mut first, mut last) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (index, plan) in plans.iter().enumerate() {
        for segment in &plan.segments {
            places.push((index, *segment));
            attempts.push(segment.attempt);
            first.push(to_i64("step", plan.range.from)?);
            last.push(to_i64("step", plan.range.to)?);
        }
    }
    if places.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query!(
        r#"SELECT k.place AS "place!", c.payload
               FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS k (attempt_id, first, last, place)
               JOIN metric_chunks c ON c.attempt_id = k.attempt_id AND c.last_step >= k.first AND c.first_step <= k.last ORDER BY c.id"#,
        &attempts,
        &first,
        &last
    );
    let mut chunks: BTreeMap<usize, Chunk> = BTreeMap::new();
    for row in rows.fetch_all(&mut *connection).await? {
        let place = row.place as usize - 1;
        let chunk = Chunk::decode(&row.payload, Some(plans[places[place].0].series))?;
        chunks.entry(place).or_default().extend(&chunk);
    }
    for (place, mut chunk) in chunks {
        let (index, segment) = places[place];
        let Plan { range, window, .. } = &mut plans[index];
        chunk.normalise();
        let inside = segment.first.max(range.from)..=segment.last.min(range.to);
        for (&id, points) in &chunk.0 {
            let list = window.series.entry(id).or_default();
            let points = points.iter().filter(|(step, _)| inside.contains(step));
            points.for_each(|(step, value)| add(list, Bucket::of(step, value, window.bucket_bits)));
        }
    }
    Ok(())
}

/// Adds a bucket, into the last one where it belongs there: pages of a finer level have many times the buckets that are wanted.
fn add(list: &mut Vec<Bucket>, bucket: Bucket) {
    match list.last_mut() {
        Some(last) if last.index == bucket.index && last.last_step <= bucket.last_step => last.merge(&bucket),
        Some(_) | None => list.push(bucket),
    }
}

/// Each bucket once, ascending: blocks come in any order.
fn finish(list: &mut Vec<Bucket>) {
    list.sort_by_key(|bucket| (bucket.index, bucket.last_step));
    list.dedup_by(|later, kept| {
        let same = later.index == kept.index;
        if same {
            kept.merge(later);
        }
        same
    });
}

/// log2 of the smallest bucket width with which the range has few enough buckets.
fn width(range: Range) -> u32 {
    (0..63)
        .find(|&bits| (range.to >> bits) - (range.from >> bits) < u64::from(range.buckets))
        .unwrap_or(63)
}

fn whole(row: &AttemptRow) -> Segment {
    Segment {
        attempt: row.id,
        first: 0,
        last: u64::MAX,
        sealed: row.sealed_steps.unsigned_abs(),
    }
}

/// The pages to read: for each segment the coarsest that are complete and lie inside, then finer ones on both sides.
fn pieces(segments: &[Segment], range: Range, level: u8) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for segment in segments {
        let first = segment.first.max(range.from);
        let end = segment.last.min(range.to).saturating_add(1).min(segment.sealed);
        split(segment, level, first, end, &mut pieces);
    }
    pieces
}

fn split(segment: &Segment, level: u8, first: u64, end: u64, pieces: &mut Vec<Piece>) {
    if first >= end {
        return;
    }
    let attempt = segment.attempt;
    if level == 0 {
        pieces.push(Piece {
            attempt,
            level,
            first,
            end,
        });
        return;
    }
    let bits = bucket_bits(level);
    let inner_first = first.div_ceil(1 << bits) << bits;
    // Only complete pages exist.
    let inner_end = ((end >> bits) << bits).min(page_start(page_of(segment.sealed, level), level));
    if inner_first >= inner_end {
        return split(segment, level - 1, first, end, pieces);
    }
    split(segment, level - 1, first, inner_first, pieces);
    pieces.push(Piece {
        attempt,
        level,
        first: inner_first,
        end: inner_end,
    });
    split(segment, level - 1, inner_end, end, pieces);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the range, the pieces cover the sealed steps of it once, in order, and use only complete pages.
        #[test]
        fn pieces_tile_the_range(from in 0u64..200_000, length in 0u64..200_000, pages in 0u64..200, buckets in 1u32..2000) {
            let range = Range { from, to: from + length, buckets };
            let sealed = pages * 1024;
            let segment = Segment { attempt: 1, first: 0, last: u64::MAX, sealed };
            let level = (width(range) / LEVEL_BITS).min(u32::from(MAX_LEVEL)) as u8;
            let mut at = from;
            for piece in pieces(&[segment], range, level) {
                prop_assert_eq!(piece.first, at);
                prop_assert!(piece.first < piece.end);
                let bits = bucket_bits(piece.level);
                prop_assert!(piece.level == 0 || piece.first % (1 << bits) == 0 && piece.end % (1 << bits) == 0);
                prop_assert!(page_start(page_of(piece.end - 1, piece.level) + 1, piece.level) <= sealed);
                at = piece.end;
            }
            prop_assert_eq!(at, (from + length + 1).min(sealed).max(from));
        }

        #[test]
        fn buckets_are_as_many_as_asked_and_not_far_fewer(from in 0u64..1_000_000, length in 0u64..10_000_000, buckets in 1u32..4000) {
            let range = Range { from, to: from + length, buckets };
            let bits = width(range);
            let count = (range.to >> bits) - (range.from >> bits) + 1;
            prop_assert!(count <= u64::from(buckets));
            prop_assert!(bits == 0 || 2 * count + 2 > u64::from(buckets));
        }
    }
}
