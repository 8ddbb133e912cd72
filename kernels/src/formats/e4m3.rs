//! E4M3, the `fn` variant: sign, 4 exponent bits (bias 7), 3 mantissa bits. No infinity; one NaN per sign, `S.1111.111`. Normal values from
//! 2^-6 to 448, subnormal ones in steps of 2^-9.

/// Largest finite value.
pub const LARGEST: f32 = 448.0;
/// Code of [`LARGEST`].
pub const LARGEST_CODE: u8 = 0x7e;
/// Code of NaN, and the bits that are not the sign.
pub const NAN_CODE: u8 = 0x7f;
/// Smallest normal value.
const NORMAL: f32 = 1.0 / 64.0;

/// The value of every code.
pub const DECODE: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = widen(code as u8);
        code += 1;
    }
    table
};

/// The value of every code in BF16, which holds each of them exactly.
pub const DECODE_BF16: [u16; 256] = {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = (DECODE[code].to_bits() >> 16) as u16;
        code += 1;
    }
    table
};

/// The value of a code, without a table: branch-free, so loops over it vectorise.
#[inline(always)]
pub(crate) const fn widen(code: u8) -> f32 {
    let magnitude = (code & NAN_CODE) as u32;
    let normal = (magnitude << 20) + (120 << 23);
    let subnormal = (magnitude as f32 * (1.0 / 512.0)).to_bits();
    let finite = if magnitude < 8 { subnormal } else { normal };
    let bits = if magnitude == NAN_CODE as u32 { 0x7ff0_0000 } else { finite };
    f32::from_bits(bits | (((code & 0x80) as u32) << 24))
}

/// The value of a code.
#[inline]
#[must_use]
pub const fn decode(code: u8) -> f32 {
    DECODE[code as usize]
}

/// The code of the nearest value; beyond [`LARGEST`], infinity included, the code of [`LARGEST`]. NaN stays NaN. The sign is kept, that of
/// zero too.
#[inline]
#[must_use]
pub fn encode(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = value.abs();
    if magnitude.is_nan() {
        return sign | NAN_CODE;
    }
    if magnitude < NORMAL {
        // Scaling by a power of two is exact. 8 is the code of the smallest normal value.
        return sign | (magnitude * 512.0).round_ties_even() as u8;
    }
    let bits = magnitude.min(LARGEST).to_bits();
    let rounded = (bits + 0x7_ffff + ((bits >> 20) & 1)) >> 20;
    sign | (rounded - (120 << 3)) as u8
}
