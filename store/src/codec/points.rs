//! The points of one series: a level 0 page, or what of a series is in a chunk.

use super::columns::{Reader, get_integers, get_numbers, put, put_integers, put_numbers};
use super::{CodecError, LEVEL_STORED, compress, decompress};

/// Values by step. Steps ascend strictly once [`Points::normalise`] has run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Points {
    /// Optimizer steps.
    pub steps: Vec<u64>,
    /// The value at each step. Non-finite values are kept.
    pub values: Vec<f64>,
}

impl Points {
    /// Number of points.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is no point.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Appends a point.
    pub fn push(&mut self, step: u64, value: f64) {
        self.steps.push(step);
        self.values.push(value);
    }

    /// The points in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, f64)> + '_ {
        self.steps.iter().copied().zip(self.values.iter().copied())
    }

    /// Appends other points, which are newer: at a step that both have, theirs is kept by [`Points::normalise`].
    pub fn extend(&mut self, other: &Self) {
        self.steps.extend_from_slice(&other.steps);
        self.values.extend_from_slice(&other.values);
    }

    /// Sorts by step and keeps the newest value of each.
    pub fn normalise(&mut self) {
        if self.steps.windows(2).all(|pair| pair[0] < pair[1]) {
            return;
        }
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|&index| self.steps[index]);
        let mut sorted = Self::default();
        for index in order {
            if sorted.steps.last() == Some(&self.steps[index]) {
                sorted.steps.pop();
                sorted.values.pop();
            }
            sorted.push(self.steps[index], self.values[index]);
        }
        *self = sorted;
    }

    /// Splits off the points from `step` on. The points must be normalised.
    #[must_use]
    pub fn split_off(&mut self, step: u64) -> Self {
        let at = self.steps.partition_point(|&own| own < step);
        Self {
            steps: self.steps.split_off(at),
            values: self.values.split_off(at),
        }
    }

    /// Packs a page.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(16 + 9 * self.len());
        put(&mut raw, self.len() as u64);
        put_integers(&mut raw, &self.steps);
        put_numbers(&mut raw, &self.values);
        compress(&raw, LEVEL_STORED)
    }

    /// Unpacks a page.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are not a page.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let raw = decompress(bytes)?;
        let mut reader = Reader::new(&raw);
        let count = reader.count()?;
        let steps = get_integers(&mut reader, count)?;
        let values = get_numbers(&mut reader, count)?;
        Ok(Self { steps, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_page_survives(points in proptest::collection::btree_map(any::<u64>(), -1e300f64..1e300, 0..300)) {
            let points = Points { steps: points.keys().copied().collect(), values: points.values().copied().collect() };
            prop_assert_eq!(Points::decode(&points.encode()).unwrap(), points);
        }

        #[test]
        fn normalising_keeps_the_newest_of_a_step(pairs in proptest::collection::vec((0u64..20, any::<u32>()), 0..60)) {
            let mut points = Points::default();
            let mut expected = std::collections::BTreeMap::new();
            for (step, value) in pairs {
                points.push(step, f64::from(value));
                expected.insert(step, f64::from(value));
            }
            points.normalise();
            prop_assert_eq!(points.iter().collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_smooth_curve_takes_less_than_eight_bytes_a_point() {
        let points = Points {
            steps: (0..1024).collect(),
            values: (0..1024).map(|step| 10.0 - f64::from(step).sqrt() * 0.123_456_789).collect(),
        };
        assert!(points.encode().len() < 8 * 1024, "{} bytes", points.encode().len());
    }
}
