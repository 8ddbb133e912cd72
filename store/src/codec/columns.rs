//! Columns of integers and floating-point numbers.

use super::CodecError;

/// Appends an unsigned LEB128 integer.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads what the functions here wrote.
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let (head, tail) = self.bytes.split_at_checked(length).ok_or(CodecError("cut off"))?;
        self.bytes = tail;
        Ok(head)
    }

    pub fn byte(&mut self) -> Result<u8, CodecError> {
        Ok(self.take(1)?[0])
    }

    pub fn get(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            value |= bits
                .checked_shl(shift)
                .filter(|shifted| shifted >> shift == bits)
                .ok_or(CodecError("integer too long"))?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError("integer too long"))
    }

    /// A count of things that take at least one bit each in what is left: a damaged count cannot ask for much memory.
    pub fn count(&mut self) -> Result<usize, CodecError> {
        let count = usize::try_from(self.get()?).map_err(|_| CodecError("count too large"))?;
        if count > self.bytes.len().saturating_mul(8) {
            return Err(CodecError("count too large"));
        }
        Ok(count)
    }
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Appends integers as differences of differences: equal strides take a byte each and compress to nothing.
pub fn put_integers(out: &mut Vec<u8>, values: &[u64]) {
    let (mut last, mut stride) = (0u64, 0i64);
    for &value in values {
        let difference = value.wrapping_sub(last) as i64;
        put(out, zigzag(difference.wrapping_sub(stride)));
        (last, stride) = (value, difference);
    }
}

pub fn get_integers(reader: &mut Reader<'_>, count: usize) -> Result<Vec<u64>, CodecError> {
    let (mut last, mut stride) = (0u64, 0i64);
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        stride = stride.wrapping_add(unzigzag(reader.get()?));
        last = last.wrapping_add(stride as u64);
        values.push(last);
    }
    Ok(values)
}

const AS_F32: u8 = 4;
const AS_F64: u8 = 8;

/// Appends numbers exactly, NaN payloads aside.
pub fn put_numbers(out: &mut Vec<u8>, values: &[f64]) {
    let narrow = values.iter().all(|&value| f64::from(value as f32) == value || value.is_nan());
    if narrow {
        out.push(AS_F32);
        put_bytes(out, values.iter().map(|&value| (value as f32).to_le_bytes()));
    } else {
        out.push(AS_F64);
        put_bytes(out, values.iter().map(|value| value.to_le_bytes()));
    }
}

fn put_bytes<const N: usize>(out: &mut Vec<u8>, values: impl ExactSizeIterator<Item = [u8; N]>) {
    let count = values.len();
    let start = out.len();
    out.resize(start + count * N, 0);
    for (index, bytes) in values.enumerate() {
        for (plane, byte) in bytes.into_iter().enumerate() {
            out[start + plane * count + index] = byte;
        }
    }
}

pub fn get_numbers(reader: &mut Reader<'_>, count: usize) -> Result<Vec<f64>, CodecError> {
    match reader.byte()? {
        AS_F32 => Ok(get_bytes::<4>(reader, count)?
            .map(|bytes| f64::from(f32::from_le_bytes(bytes)))
            .collect()),
        AS_F64 => Ok(get_bytes::<8>(reader, count)?.map(f64::from_le_bytes).collect()),
        _ => Err(CodecError("unknown kind of column")),
    }
}

fn get_bytes<'a, const N: usize>(reader: &mut Reader<'a>, count: usize) -> Result<impl Iterator<Item = [u8; N]> + 'a, CodecError> {
    let planes = reader.take(count.checked_mul(N).ok_or(CodecError("count too large"))?)?;
    Ok((0..count).map(move |index| std::array::from_fn(|plane| planes[plane * count + index])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn same(a: f64, b: f64) -> bool {
        a == b || a.is_nan() && b.is_nan()
    }

    proptest! {
        #[test]
        fn integers_survive(values in proptest::collection::vec(any::<u64>(), 0..200)) {
            let mut out = Vec::new();
            put_integers(&mut out, &values);
            prop_assert_eq!(get_integers(&mut Reader::new(&out), values.len()).unwrap(), values);
        }

        #[test]
        fn numbers_survive(values in proptest::collection::vec(any::<f64>(), 0..200), narrow in any::<bool>()) {
            let values: Vec<f64> = values.into_iter().map(|value| if narrow { f64::from(value as f32) } else { value }).collect();
            let mut out = Vec::new();
            put_numbers(&mut out, &values);
            let back = get_numbers(&mut Reader::new(&out), values.len()).unwrap();
            prop_assert!(back.iter().zip(&values).all(|(&a, &b)| same(a, b)));
            if narrow {
                prop_assert_eq!(out.len(), 1 + 4 * values.len());
            }
        }

        #[test]
        fn damage_is_an_error_or_other_values_but_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), count in 0usize..1000) {
            let _ = get_integers(&mut Reader::new(&bytes), count);
            let _ = get_numbers(&mut Reader::new(&bytes), count);
            let _ = Reader::new(&bytes).count();
        }
    }
}
