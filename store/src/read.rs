//! Reading series: the coarsest blocks that the picture allows, and finer ones where those do not reach.

use crate::attempts::{AttemptRow, Segment, segments};
use crate::codec::buckets::{Bucket, Buckets};
use crate::codec::chunk::Chunk;
use crate::codec::points::Points;
use crate::codec::{LEVEL_BITS, MAX_LEVEL, bucket_bits, page_of, page_start};
use crate::error::to_i64;
use crate::{Error, Result, Store};
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
        if range.buckets == 0 || range.buckets > MAX_BUCKETS {
            return Err(Error::Invalid(format!("the number of points must be from 1 to {MAX_BUCKETS}")));
        }
        if series.len() > MAX_NAMES {
            return Err(Error::Invalid(format!(
                "a request may name {MAX_NAMES} series, not {}",
                series.len()
            )));
        }
        let bits = width(range);
        let wanted: Vec<Segment> = match view {
            View::Resolved => segments(attempts),
            View::Attempt(id) => attempts.iter().filter(|row| row.id == id).map(whole).collect(),
        };
        let pieces = pieces(&wanted, range, (bits / LEVEL_BITS).min(u32::from(MAX_LEVEL)) as u8);
        let mut buckets: BTreeMap<i64, Vec<Bucket>> = series.iter().map(|&id| (id, Vec::new())).collect();
        self.read_pages(series, &pieces, bits, &mut buckets).await?;
        self.read_chunks(series, &wanted, range, bits, &mut buckets).await?;
        for list in buckets.values_mut() {
            list.sort_by_key(|bucket| (bucket.index, bucket.last_step));
            list.dedup_by(|later, kept| {
                let same = later.index == kept.index;
                if same {
                    kept.merge(later);
                }
                same
            });
        }
        Ok(Window {
            from: range.from,
            to: range.to,
            bucket_bits: bits,
            series: buckets,
        })
    }

    async fn read_pages(&self, series: &[i64], pieces: &[Piece], bits: u32, buckets: &mut BTreeMap<i64, Vec<Bucket>>) -> Result<()> {
        let column = |value: &dyn Fn(&Piece) -> u64| pieces.iter().map(|piece| to_i64("page", value(piece))).collect::<Result<Vec<_>>>();
        let attempts: Vec<i64> = pieces.iter().map(|piece| piece.attempt).collect();
        let levels: Vec<i16> = pieces.iter().map(|piece| i16::from(piece.level)).collect();
        let first = column(&|piece| page_of(piece.first, piece.level))?;
        let last = column(&|piece| page_of(piece.end - 1, piece.level))?;
        let rows = sqlx::query!(
            r#"SELECT k.piece AS "piece!", p.series_id, p.payload
               FROM unnest($2::bigint[], $3::smallint[], $4::bigint[], $5::bigint[]) WITH ORDINALITY AS k (attempt_id, level, first, last, piece)
               CROSS JOIN unnest($1::bigint[]) AS s (id)
               JOIN metric_pages p ON p.series_id = s.id AND p.level = k.level AND p.attempt_id = k.attempt_id AND p.page BETWEEN k.first AND k.last"#,
            series,
            &attempts,
            &levels,
            &first,
            &last
        );
        for row in rows.fetch_all(&self.pool).await? {
            let piece = pieces[row.piece as usize - 1];
            let list = buckets.entry(row.series_id).or_default();
            if piece.level == 0 {
                let points = Points::decode(&row.payload)?;
                let inside = points.iter().filter(|(step, _)| (piece.first..piece.end).contains(step));
                list.extend(inside.map(|(step, value)| Bucket::of(step, value, bits)));
            } else {
                let width = bucket_bits(piece.level);
                let inside = piece.first >> width..piece.end >> width;
                let stored = Buckets::decode(&row.payload)?;
                list.extend(
                    stored
                        .0
                        .into_iter()
                        .filter(|bucket| inside.contains(&bucket.index))
                        .map(|bucket| Bucket {
                            index: bucket.index >> (bits - width),
                            ..bucket
                        }),
                );
            }
        }
        Ok(())
    }

    async fn read_chunks(
        &self,
        series: &[i64],
        segments: &[Segment],
        range: Range,
        bits: u32,
        buckets: &mut BTreeMap<i64, Vec<Bucket>>,
    ) -> Result<()> {
        let attempts: Vec<i64> = segments.iter().map(|segment| segment.attempt).collect();
        let rows = sqlx::query!(
            "SELECT attempt_id, payload FROM metric_chunks WHERE attempt_id = ANY($1) AND last_step >= $2 AND first_step <= $3 ORDER BY id",
            &attempts,
            to_i64("step", range.from)?,
            to_i64("step", range.to)?
        );
        let mut chunks: BTreeMap<i64, Chunk> = BTreeMap::new();
        for row in rows.fetch_all(&self.pool).await? {
            let chunk = Chunk::decode(&row.payload, Some(series))?;
            chunks.entry(row.attempt_id).or_default().extend(&chunk);
        }
        for segment in segments {
            let Some(chunk) = chunks.get_mut(&segment.attempt) else { continue };
            chunk.normalise();
            let inside = segment.first.max(range.from)..=segment.last.min(range.to);
            for (&id, points) in &chunk.0 {
                let points = points.iter().filter(|(step, _)| inside.contains(step));
                buckets
                    .entry(id)
                    .or_default()
                    .extend(points.map(|(step, value)| Bucket::of(step, value, bits)));
            }
        }
        Ok(())
    }
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
