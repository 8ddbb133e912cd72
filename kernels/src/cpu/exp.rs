//! Branch-free `exp` and `sigmoid`, which the compiler vectorises inside a [`super::simd::Job`].

/// `e^x` within 2 units in the last place for results in the normal range; 0 below `x = -87.33` (subnormal results flush) and infinity
/// above 88.72; NaN for NaN.
///
/// Cody-Waite reduction `x = n ln 2 + r`, `|r| <= ln 2 / 2`, and a polynomial of degree 6 for `e^r`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const HIGHEST: f32 = 88.722_83;
    let clamped = if x < LOWEST { LOWEST } else { x };
    let clamped = if clamped > HIGHEST { HIGHEST } else { clamped };
    let (p, n) = reduced(clamped);
    // 2^n in two factors, since n may be 128.
    let half = n >> 1;
    let y = p * power(half) * power(n.wrapping_sub(half));
    let y = if x < LOWEST { 0.0 } else { y };
    let y = if x > HIGHEST { f32::INFINITY } else { y };
    if x.is_nan() { x } else { y }
}

/// The same bits as [`exp`] for `x <= 0`, with less to distinguish; NaN for NaN.
#[inline(always)]
pub fn exp_nonpositive(x: f32) -> f32 {
    let (p, n) = reduced(if x < LOWEST { LOWEST } else { x });
    let y = p * power(n);
    if x < LOWEST { 0.0 } else { y }
}

/// Below it, `e^x` is subnormal.
const LOWEST: f32 = -87.336_54;

/// `2^n` for normal results. Wrapping: an overflow check would keep the loop scalar.
#[inline(always)]
fn power(n: i32) -> f32 {
    f32::from_bits(n.wrapping_add(127).cast_unsigned() << 23)
}

/// `e^r` and `n`.
#[inline(always)]
fn reduced(x: f32) -> (f32, i32) {
    /// Adding it leaves the nearest integer in the low bits of the sum (1.5 x 2^23).
    const SHIFT: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 355.0 / 512.0; // so few bits that its product with `n` is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4_f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    (p, shifted.to_bits().wrapping_sub(SHIFT.to_bits()).cast_signed())
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut x = -87.3f32;
        while x < 88.7 {
            let (got, exact) = (exp(x), f64::from(x).exp());
            let unit = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
            assert!((f64::from(got) - exact).abs() <= 2.0 * unit, "exp({x}) = {got}, not {exact}");
            x += 0.001_37;
        }
    }

    #[test]
    fn exp_nonpositive_is_exp() {
        for bits in ((-0.0_f32).to_bits()..=f32::NEG_INFINITY.to_bits())
            .step_by(997)
            .chain([0, f32::NEG_INFINITY.to_bits()])
        {
            let x = f32::from_bits(bits);
            assert_eq!(exp_nonpositive(x).to_bits(), exp(x).to_bits(), "{x:e}");
        }
        assert!(exp_nonpositive(f32::NAN).is_nan());
    }

    #[test]
    fn exp_of_special_values() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(1e30), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert!((sigmoid(100.0), sigmoid(-100.0)) == (1.0, 0.0));
    }
}
