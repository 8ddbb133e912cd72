//! BF16: the upper half of an `f32`.

/// A BF16 value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl Bf16 {
    /// The nearest value. As in IEEE arithmetic, magnitudes from `(2 - 2^-8) 2^127` on become infinite; NaN stays NaN.
    #[inline(always)]
    #[must_use]
    pub const fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // A payload in the lower half alone would be lost, and with it the NaN.
        let quiet = (bits >> 16) | 0x40;
        Self(if bits & super::MAGNITUDE > super::INFINITY {
            quiet
        } else {
            rounded
        } as u16)
    }

    /// The value, exactly.
    #[inline(always)]
    #[must_use]
    pub const fn to_f32(self) -> f32 {
        f32::from_bits((self.0 as u32) << 16)
    }

    /// Whether it is neither NaN nor infinite.
    #[inline(always)]
    #[must_use]
    pub const fn is_finite(self) -> bool {
        self.0 & 0x7f80 != 0x7f80
    }
}

/// The nearest BF16 value, as an `f32`.
#[inline(always)]
#[must_use]
pub const fn round(value: f32) -> f32 {
    Bf16::from_f32(value).to_f32()
}
