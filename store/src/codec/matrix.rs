//! Matrices: 16 bits an element, and statistics of each row.

use super::{CodecError, LEVEL_STORED, compress, decompress};
use fathom_spec::record::Matrix;

/// Codes above this one are not numbers on the scale.
const LARGEST: u16 = 65_532;
const MINUS_INFINITY: u16 = 65_533;
const INFINITY: u16 = 65_534;
const NAN: u16 = 65_535;
/// Bytes before the codes: minimum and step of the scale, f64.
const HEADER: usize = 16;

/// Statistics kept per row, in the order in which they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowStatistic {
    /// `(maximum - mean) / mean`, 0 where the mean is 0 (MaxVio, paper section 4.5.2).
    MaxViolation,
    /// Mean.
    Mean,
    /// Largest element.
    Max,
    /// Smallest element.
    Min,
}

/// Number of statistics per row.
pub const ROW_STATISTICS: usize = 4;

/// Packs values on a linear scale between the smallest and the largest: the error is at most 1/131,064 of their distance, and none for
/// integers whose distance is at most 65,532 (token counts).
#[must_use]
pub fn encode(values: &[f32]) -> Vec<u8> {
    let finite = || values.iter().copied().filter(|value| value.is_finite()).map(f64::from);
    let min = finite().fold(f64::INFINITY, f64::min);
    let max = finite().fold(f64::NEG_INFINITY, f64::max);
    let (min, max) = if min <= max { (min, max) } else { (0.0, 0.0) };
    let integers = max - min <= f64::from(LARGEST) && finite().all(|value| value.fract() == 0.0);
    let step = if integers { 1.0 } else { (max - min) / f64::from(LARGEST) };
    let code = |value: f32| {
        if value.is_nan() {
            NAN
        } else if value == f32::INFINITY {
            INFINITY
        } else if value == f32::NEG_INFINITY {
            MINUS_INFINITY
        } else if step == 0.0 {
            0
        } else {
            ((f64::from(value) - min) / step).round().min(f64::from(LARGEST)) as u16
        }
    };
    let codes: Vec<u16> = values.iter().map(|&value| code(value)).collect();
    let mut raw = Vec::with_capacity(HEADER + 2 * codes.len());
    raw.extend_from_slice(&min.to_le_bytes());
    raw.extend_from_slice(&step.to_le_bytes());
    raw.extend(codes.iter().map(|code| *code as u8));
    raw.extend(codes.iter().map(|code| (code >> 8) as u8));
    compress(&raw, LEVEL_STORED)
}

/// Unpacks `count` values.
///
/// # Errors
/// [`CodecError`] if the bytes are not a matrix of that many elements.
pub fn decode(bytes: &[u8], count: usize) -> Result<Vec<f32>, CodecError> {
    let raw = decompress(bytes)?;
    if raw.len() != HEADER + 2 * count {
        return Err(CodecError("a matrix of another size"));
    }
    let number = |at: usize| f64::from_le_bytes(std::array::from_fn(|byte| raw[at + byte]));
    let (min, step) = (number(0), number(8));
    let (low, high) = raw[HEADER..].split_at(count);
    let value = |(&low, &high): (&u8, &u8)| match u16::from_le_bytes([low, high]) {
        NAN => f32::NAN,
        INFINITY => f32::INFINITY,
        MINUS_INFINITY => f32::NEG_INFINITY,
        code => (min + step * f64::from(code)) as f32,
    };
    Ok(low.iter().zip(high).map(value).collect())
}

/// Statistics of the rows, one after the other in the order of [`RowStatistic`], f32 little-endian.
#[must_use]
pub fn row_statistics(matrix: &Matrix) -> Vec<u8> {
    let mut columns = [const { Vec::new() }; ROW_STATISTICS];
    for row in matrix.values.chunks(matrix.columns.max(1)) {
        let mean = row.iter().copied().map(f64::from).sum::<f64>() / row.len() as f64;
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let min = row.iter().copied().fold(f32::INFINITY, f32::min);
        let violation = if mean == 0.0 { 0.0 } else { (f64::from(max) - mean) / mean };
        columns[RowStatistic::MaxViolation as usize].push(violation as f32);
        columns[RowStatistic::Mean as usize].push(mean as f32);
        columns[RowStatistic::Max as usize].push(max);
        columns[RowStatistic::Min as usize].push(min);
    }
    columns.into_iter().flatten().flat_map(f32::to_le_bytes).collect()
}

/// Little-endian f32 values.
#[must_use]
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    let four = |chunk: &[u8]| f32::from_le_bytes(std::array::from_fn(|byte| chunk[byte]));
    bytes.chunks_exact(4).map(four).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_come_back_within_the_scale(values in proptest::collection::vec(-1e6f32..1e6, 1..200)) {
            let back = decode(&encode(&values), values.len()).unwrap();
            let min = values.iter().copied().fold(f32::INFINITY, f32::min);
            let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            // Half a step of the scale and the rounding of the result to f32.
            let bound = f64::from(max - min) / 131_064.0 + 1e6 * f64::from(f32::EPSILON);
            for (value, back) in values.iter().zip(back) {
                prop_assert!((f64::from(*value) - f64::from(back)).abs() <= bound, "{value} {back}");
            }
        }

        #[test]
        fn counts_are_exact(values in proptest::collection::vec(0u16..65_000, 1..200)) {
            let values: Vec<f32> = values.into_iter().map(f32::from).collect();
            prop_assert_eq!(decode(&encode(&values), values.len()).unwrap(), values);
        }
    }

    #[test]
    fn values_that_are_not_numbers_stay_what_they_are() {
        let values = [1.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -2.5];
        let back = decode(&encode(&values), 5).unwrap();
        assert!(back[1].is_nan());
        assert_eq!((back[0], back[2], back[3], back[4]), (1.5, f32::INFINITY, f32::NEG_INFINITY, -2.5));
        assert!(decode(&encode(&[f32::NAN]), 1).unwrap()[0].is_nan());
        assert!(decode(&encode(&values), 4).is_err());
    }

    #[test]
    fn statistics_of_rows() {
        let matrix = Matrix {
            rows: 2,
            columns: 4,
            values: vec![1.0, 1.0, 1.0, 5.0, 0.0, 0.0, 0.0, 0.0],
        };
        assert_eq!(floats(&row_statistics(&matrix)), [1.5, 0.0, 2.0, 0.0, 5.0, 0.0, 1.0, 0.0]);
    }
}
