//! Summaries of runs of steps: what a curve shows when it has more points than pixels. No spike is lost: each bucket keeps its extremes.

use super::columns::{Reader, get_integers, get_numbers, put, put_integers, put_numbers};
use super::points::Points;
use super::{CodecError, LEVEL_STORED, compress, decompress};

/// The points of one series in an aligned run of steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// First step of the run, divided by its length.
    pub index: u64,
    /// Last step that has a point.
    pub last_step: u64,
    /// Points.
    pub count: u64,
    /// Points that are NaN or infinite.
    pub non_finite: u64,
    /// Smallest finite value; NaN if there is none. Rounded down to `f32` in stored pages.
    pub min: f64,
    /// Largest finite value; NaN if there is none. Rounded up to `f32` in stored pages.
    pub max: f64,
    /// Value of the last point, finite or not.
    pub last: f64,
    /// Mean of the finite values; NaN if there is none.
    pub mean: f64,
}

impl Bucket {
    /// The bucket of one point.
    #[must_use]
    pub const fn of(step: u64, value: f64, bits: u32) -> Self {
        let finite = value.is_finite();
        let value_or_nan = if finite { value } else { f64::NAN };
        Self {
            index: step >> bits,
            last_step: step,
            count: 1,
            non_finite: !finite as u64,
            min: value_or_nan,
            max: value_or_nan,
            last: value,
            mean: value_or_nan,
        }
    }

    /// Takes in a bucket of later or equal steps. `f64::min` ignores NaN, which is what the absence of a finite value needs.
    pub fn merge(&mut self, later: &Self) {
        let (own, other) = ((self.count - self.non_finite) as f64, (later.count - later.non_finite) as f64);
        self.mean = match (own > 0.0, other > 0.0) {
            (true, true) => self.mean + (later.mean - self.mean) * (other / (own + other)),
            (true, false) => self.mean,
            (false, _) => later.mean,
        };
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.count += later.count;
        self.non_finite += later.non_finite;
        if later.last_step >= self.last_step {
            self.last_step = later.last_step;
            self.last = later.last;
        }
    }
}

/// Buckets of `2^bits` steps, ascending by index, none empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets(pub Vec<Bucket>);

impl Buckets {
    /// Adds points, which are not before what is there.
    pub fn add_points(&mut self, points: &Points, bits: u32) {
        for (step, value) in points.iter() {
            self.add(Bucket::of(step, value, bits));
        }
    }

    /// Adds a bucket of the same or a finer width, which is not before what is there. `finer` is log2 of how many make one of these.
    pub fn add_finer(&mut self, bucket: &Bucket, finer: u32) {
        self.add(Bucket {
            index: bucket.index >> finer,
            ..*bucket
        });
    }

    fn add(&mut self, bucket: Bucket) {
        match self.0.last_mut() {
            Some(last) if last.index == bucket.index => last.merge(&bucket),
            _ => self.0.push(bucket),
        }
    }

    /// Packs a page. Extremes are rounded outwards to `f32` unless one is beyond its range.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let column = |value: fn(&Bucket) -> f64, round: fn(f64) -> f64| -> Vec<f64> {
            let exact: Vec<f64> = self.0.iter().map(value).collect();
            let fits = exact.iter().all(|value| !value.is_finite() || value.abs() <= f64::from(f32::MAX));
            if fits { exact.into_iter().map(round).collect() } else { exact }
        };
        let integers = |value: fn(&Bucket) -> u64| -> Vec<u64> { self.0.iter().map(value).collect() };
        let mut raw = Vec::with_capacity(16 + 24 * self.0.len());
        put(&mut raw, self.0.len() as u64);
        put_integers(&mut raw, &integers(|bucket| bucket.index));
        put_integers(&mut raw, &integers(|bucket| bucket.last_step));
        put_integers(&mut raw, &integers(|bucket| bucket.count));
        put_integers(&mut raw, &integers(|bucket| bucket.non_finite));
        put_numbers(&mut raw, &column(|bucket| bucket.min, round_down));
        put_numbers(&mut raw, &column(|bucket| bucket.max, round_up));
        put_numbers(&mut raw, &column(|bucket| bucket.last, round_nearest));
        put_numbers(&mut raw, &column(|bucket| bucket.mean, round_nearest));
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
        let index = get_integers(&mut reader, count)?;
        let last_step = get_integers(&mut reader, count)?;
        let counts = get_integers(&mut reader, count)?;
        let non_finite = get_integers(&mut reader, count)?;
        let min = get_numbers(&mut reader, count)?;
        let max = get_numbers(&mut reader, count)?;
        let last = get_numbers(&mut reader, count)?;
        let mean = get_numbers(&mut reader, count)?;
        let bucket = |at: usize| Bucket {
            index: index[at],
            last_step: last_step[at],
            count: counts[at],
            non_finite: non_finite[at].min(counts[at]),
            min: min[at],
            max: max[at],
            last: last[at],
            mean: mean[at],
        };
        Ok(Self((0..count).map(bucket).collect()))
    }
}

fn round_nearest(value: f64) -> f64 {
    f64::from(value as f32)
}

fn round_down(value: f64) -> f64 {
    let near = value as f32;
    f64::from(if f64::from(near) > value { near.next_down() } else { near })
}

fn round_up(value: f64) -> f64 {
    let near = value as f32;
    f64::from(if f64::from(near) < value { near.next_up() } else { near })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![8 => -1e6f64..1e6, 1 => Just(f64::NAN), 1 => Just(f64::INFINITY), 1 => -1e300f64..1e300]
    }

    fn points() -> impl Strategy<Value = Points> {
        proptest::collection::btree_map(0u64..5000, value(), 1..400).prop_map(|points| Points {
            steps: points.keys().copied().collect(),
            values: points.values().copied().collect(),
        })
    }

    fn equal(a: &Bucket, b: &Bucket) -> bool {
        let same = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan();
        let near = |a: f64, b: f64| same(a, b) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-300) * 1e3;
        (a.index, a.last_step, a.count, a.non_finite) == (b.index, b.last_step, b.count, b.non_finite)
            && same(a.min, b.min)
            && same(a.max, b.max)
            && same(a.last, b.last)
            && near(a.mean, b.mean)
    }

    proptest! {
        /// Summaries of summaries are summaries: the pyramid may be read at any level.
        #[test]
        fn levels_nest(points in points()) {
            let (mut fine, mut coarse, mut direct) = (Buckets::default(), Buckets::default(), Buckets::default());
            fine.add_points(&points, 5);
            fine.0.iter().for_each(|bucket| coarse.add_finer(bucket, 5));
            direct.add_points(&points, 10);
            prop_assert_eq!(coarse.0.len(), direct.0.len());
            // Means of values of opposite signs cancel: compare them only where all are of one size.
            let without_mean = |bucket: &Bucket| Bucket { mean: 0.0, ..*bucket };
            let same = coarse.0.iter().zip(&direct.0).all(|(a, b)| equal(&without_mean(a), &without_mean(b)));
            prop_assert!(same);
        }

        /// Whatever is stored, an extreme is never inside the true one.
        #[test]
        fn stored_extremes_contain_the_true_ones(points in points()) {
            let mut buckets = Buckets::default();
            buckets.add_points(&points, 5);
            let stored = Buckets::decode(&buckets.encode()).unwrap();
            for (exact, stored) in buckets.0.iter().zip(&stored.0) {
                prop_assert!(exact.min.is_nan() && stored.min.is_nan() || stored.min <= exact.min);
                prop_assert!(exact.max.is_nan() && stored.max.is_nan() || stored.max >= exact.max);
                prop_assert_eq!((exact.index, exact.last_step, exact.count, exact.non_finite), (stored.index, stored.last_step, stored.count, stored.non_finite));
            }
        }
    }

    #[test]
    fn the_mean_is_of_finite_values() {
        let mut bucket = Bucket::of(1, f64::NAN, 5);
        bucket.merge(&Bucket::of(2, 1.0, 5));
        bucket.merge(&Bucket::of(3, 3.0, 5));
        assert_eq!(
            (bucket.mean, bucket.min, bucket.max, bucket.non_finite, bucket.last_step),
            (2.0, 1.0, 3.0, 1, 3)
        );
    }
}
