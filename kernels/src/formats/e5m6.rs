//! E5M6: an FP16 value with its four low mantissa bits rounded away, in one rounding. Sign, 5 exponent bits (bias 15), 6 mantissa bits:
//! 12 bits. Normal values from 2^-14 to 65024, subnormal ones in steps of 2^-20, infinity and NaN as in FP16.
//!
//! Packing: two codes `a`, `b` in three bytes, `a | b << 12` in little-endian order. A row of an odd number of values ends in a zero code,
//! so every row starts at a byte.

/// Largest finite value.
pub const LARGEST: f32 = 65024.0;
/// Code of [`LARGEST`].
pub const LARGEST_CODE: u16 = 0x7bf;
/// Code of infinity.
pub const INFINITY_CODE: u16 = 0x7c0;
/// Code of NaN.
pub const NAN_CODE: u16 = 0x7e0;
/// The bits of a code that are not the sign.
pub const MAGNITUDE: u16 = 0x7ff;
/// The sign.
const SIGN: u16 = 0x800;
/// Smallest normal value.
const NORMAL: f32 = 1.0 / 16384.0;

/// The value of a code. The bits above the twelfth are ignored.
#[inline(always)]
#[must_use]
pub const fn decode(code: u16) -> f32 {
    let magnitude = (code & MAGNITUDE) as u32;
    let normal = (magnitude << 17) + (112 << 23);
    let subnormal = (magnitude as f32 * (1.0 / 1_048_576.0)).to_bits();
    // The exponent of infinity and NaN is all ones in both formats.
    let special = (magnitude << 17) | super::INFINITY;
    let finite = if magnitude < 64 { subnormal } else { normal };
    let bits = if magnitude < INFINITY_CODE as u32 { finite } else { special };
    f32::from_bits(bits | (((code & SIGN) as u32) << 20))
}

/// The code of the nearest value; beyond [`LARGEST`], the code of [`LARGEST`], except that infinity and NaN stay what they are. The sign is
/// kept, that of zero too.
#[inline]
#[must_use]
pub fn encode(value: f32) -> u16 {
    let sign = if value.is_sign_negative() { SIGN } else { 0 };
    let magnitude = value.abs();
    if magnitude.is_nan() {
        return sign | NAN_CODE;
    }
    if magnitude.is_infinite() {
        return sign | INFINITY_CODE;
    }
    if magnitude < NORMAL {
        return sign | (magnitude * 1_048_576.0).round_ties_even() as u16;
    }
    let bits = magnitude.min(LARGEST).to_bits();
    let rounded = (bits + 0xffff + ((bits >> 17) & 1)) >> 17;
    sign | (rounded - (112 << 6)) as u16
}

/// Bytes of `columns` packed values.
#[must_use]
pub const fn packed_len(columns: usize) -> usize {
    columns.div_ceil(2) * 3
}

/// Packs one row of codes.
///
/// # Panics
/// If `packed` is not of [`packed_len`].
pub fn pack(packed: &mut [u8], codes: &[u16]) {
    assert_eq!(packed.len(), packed_len(codes.len()), "bytes of {} packed E5M6 codes", codes.len());
    for (bytes, pair) in packed.chunks_exact_mut(3).zip(codes.chunks(2)) {
        let both = u32::from(pair[0] & 0xfff) | u32::from(pair.get(1).copied().unwrap_or(0) & 0xfff) << 12;
        bytes.copy_from_slice(&both.to_le_bytes()[..3]);
    }
}

/// The code of value `index` of a packed row.
#[inline]
#[must_use]
pub fn unpack(packed: &[u8], index: usize) -> u16 {
    let bytes = &packed[index / 2 * 3..][..3];
    let both = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
    (both >> (12 * (index % 2))) as u16 & 0xfff
}
