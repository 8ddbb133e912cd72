//! Some steps of all series of an attempt: what one ingest request becomes.

use super::columns::{Reader, get_integers, get_numbers, put, put_integers, put_numbers};
use super::points::Points;
use super::{CodecError, LEVEL_TRANSIENT, compress, decompress};
use std::collections::BTreeMap;

/// Points by series (its database id).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk(pub BTreeMap<i64, Points>);

impl Chunk {
    /// Adds a point.
    pub fn push(&mut self, series: i64, step: u64, value: f64) {
        self.0.entry(series).or_default().push(step, value);
    }

    /// Appends a newer chunk.
    pub fn extend(&mut self, newer: &Self) {
        for (&series, points) in &newer.0 {
            self.0.entry(series).or_default().extend(points);
        }
    }

    /// First and last step, if there is a point. The points must be normalised.
    #[must_use]
    pub fn steps(&self) -> Option<(u64, u64)> {
        let first = self.0.values().filter_map(|points| points.steps.first()).min()?;
        let last = self.0.values().filter_map(|points| points.steps.last()).max()?;
        Some((*first, *last))
    }

    /// Number of points of all series.
    #[must_use]
    pub fn points(&self) -> usize {
        self.0.values().map(Points::len).sum()
    }

    /// Sorts each series by step and keeps the newest value of each step.
    pub fn normalise(&mut self) {
        self.0.values_mut().for_each(Points::normalise);
    }

    /// Splits off the points from `step` on; series without points are left out of both. The chunk must be normalised.
    #[must_use]
    pub fn split_off(&mut self, step: u64) -> Self {
        let mut later = Self::default();
        self.0.retain(|&series, points| {
            let rest = points.split_off(step);
            if !rest.is_empty() {
                later.0.insert(series, rest);
            }
            !points.is_empty()
        });
        later
    }

    /// Packs the chunk. Series mostly share their steps, which are stored once.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut columns: Vec<&[u64]> = Vec::new();
        let mut raw = Vec::with_capacity(64 + 12 * self.points());
        let mut body = Vec::with_capacity(64 + 10 * self.points());
        for (&series, points) in &self.0 {
            let column = columns.iter().position(|&steps| steps == points.steps).unwrap_or_else(|| {
                columns.push(&points.steps);
                columns.len() - 1
            });
            put(&mut body, series as u64);
            put(&mut body, column as u64);
            put_numbers(&mut body, &points.values);
        }
        put(&mut raw, columns.len() as u64);
        for steps in columns {
            put(&mut raw, steps.len() as u64);
            put_integers(&mut raw, steps);
        }
        raw.extend_from_slice(&body);
        compress(&raw, LEVEL_TRANSIENT)
    }

    /// Unpacks the chunk, or only the series in `wanted`.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are not a chunk.
    pub fn decode(bytes: &[u8], wanted: Option<&[i64]>) -> Result<Self, CodecError> {
        let raw = decompress(bytes)?;
        let mut reader = Reader::new(&raw);
        let mut columns = Vec::new();
        for _ in 0..reader.count()? {
            let count = reader.count()?;
            columns.push(get_integers(&mut reader, count)?);
        }
        let mut chunk = Self::default();
        while !reader.is_empty() {
            let series = reader.get()? as i64;
            let column = usize::try_from(reader.get()?).map_err(|_| CodecError("no such column of steps"))?;
            let steps = columns.get(column).ok_or(CodecError("no such column of steps"))?;
            let values = get_numbers(&mut reader, steps.len())?;
            if wanted.is_none_or(|wanted| wanted.contains(&series)) {
                let steps = steps.clone();
                chunk.0.insert(series, Points { steps, values });
            }
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunks() -> impl Strategy<Value = Chunk> {
        proptest::collection::vec((1i64..6, 0u64..100, -10i32..10), 0..200).prop_map(|points| {
            let mut chunk = Chunk::default();
            points
                .into_iter()
                .for_each(|(series, step, value)| chunk.push(series, step, f64::from(value)));
            chunk.normalise();
            chunk
        })
    }

    proptest! {
        #[test]
        fn a_chunk_survives(chunk in chunks()) {
            prop_assert_eq!(&Chunk::decode(&chunk.encode(), None).unwrap(), &chunk);
            let one = Chunk::decode(&chunk.encode(), Some(&[2])).unwrap();
            prop_assert_eq!(one.0.get(&2), chunk.0.get(&2));
            prop_assert!(one.0.len() <= 1);
        }

        #[test]
        fn splitting_loses_nothing(chunk in chunks(), at in 0u64..110) {
            let mut early = chunk.clone();
            let late = early.split_off(at);
            prop_assert!(early.steps().is_none_or(|(_, last)| last < at));
            prop_assert!(late.steps().is_none_or(|(first, _)| first >= at));
            early.extend(&late);
            prop_assert_eq!(early, chunk);
        }

        #[test]
        fn damage_is_never_a_panic(chunk in chunks(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = chunk.encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Chunk::decode(&bytes, None);
        }
    }
}
