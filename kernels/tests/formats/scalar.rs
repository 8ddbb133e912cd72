//! Conversions of single values against a search for the nearest one among all.

use crate::Backend;
use fathom_kernels::cpu::simd::Isa;
use fathom_kernels::formats::{Bf16, E5m6Dims, Grouping, QuantizeDims, Scaling, Source, e4m3, e5m6};
use fathom_kernels::{Cpu, Kernels};

/// A small format by its definition: the values of codes 0, 1, ..., all finite magnitudes.
struct Format {
    magnitudes: Vec<f64>,
    sign: u16,
}

impl Format {
    fn new(exponent_bits: u32, mantissa_bits: u32, finite: usize) -> Self {
        let bias = (1 << (exponent_bits - 1)) - 1;
        let unit = |exponent: i32| 2.0_f64.powi(exponent - mantissa_bits as i32);
        let value = |code: i32| match (code >> mantissa_bits, code & ((1 << mantissa_bits) - 1)) {
            (0, mantissa) => f64::from(mantissa) * unit(1 - bias),
            (exponent, mantissa) => f64::from(mantissa + (1 << mantissa_bits)) * unit(exponent - bias),
        };
        Self {
            magnitudes: (0..finite as i32).map(value).collect(),
            sign: 1 << (exponent_bits + mantissa_bits),
        }
    }

    fn e4m3() -> Self {
        Self::new(4, 3, 0x7f)
    }

    fn e5m6() -> Self {
        Self::new(5, 6, 0x7c0)
    }

    /// The nearest finite value's code; of two, the even one. Beyond the largest that is the largest.
    fn nearest(&self, value: f32) -> u16 {
        let magnitude = f64::from(value.abs()).min(self.magnitudes[self.magnitudes.len() - 1]);
        let distance = |code: usize| (self.magnitudes[code] - magnitude).abs();
        let mut best = 0;
        for code in 1..self.magnitudes.len() {
            let (new, old) = (distance(code), distance(best));
            if new < old || (new == old && code % 2 == 0) {
                best = code;
            }
        }
        best as u16 | if value.is_sign_negative() { self.sign } else { 0 }
    }

    /// Values, and the middles between them with their neighbours: wherever a rounding can go wrong. Both signs.
    fn edges(&self) -> Vec<f32> {
        let middles = self.magnitudes.windows(2).map(|pair| f64::midpoint(pair[0], pair[1]));
        let all = self.magnitudes.iter().copied().chain(middles);
        all.flat_map(|value| {
            assert_eq!(f64::from(value as f32), value, "an edge is an f32");
            [value as f32, (value as f32).next_up(), (value as f32).next_down()]
        })
        .flat_map(|value| [value, -value])
        .collect()
    }
}

fn all_bf16() -> impl Iterator<Item = f32> {
    (0..=u16::MAX).map(|bits| Bf16(bits).to_f32())
}

#[test]
fn definitions_span_the_documented_ranges() {
    let (e4m3, e5m6) = (Format::e4m3(), Format::e5m6());
    assert_eq!(
        (e4m3.magnitudes[1], e4m3.magnitudes[8], e4m3.magnitudes[0x7e]),
        (0.001_953_125, 0.015_625, 448.0)
    );
    assert_eq!((e5m6.magnitudes[64], e5m6.magnitudes[0x7bf]), (2.0_f64.powi(-14), 65024.0));
}

#[test]
fn decoding_follows_the_definition() {
    let (small, large) = (Format::e4m3(), Format::e5m6());
    for (code, &value) in small.magnitudes.iter().enumerate() {
        assert_eq!(f64::from(e4m3::decode(code as u8)), value);
        assert_eq!(f64::from(-e4m3::decode(code as u8 | 0x80)), value);
        assert_eq!(f64::from(Bf16(e4m3::DECODE_BF16[code]).to_f32()), value);
    }
    assert!(e4m3::decode(0x7f).is_nan() && e4m3::decode(0xff).is_nan() && Bf16(e4m3::DECODE_BF16[0xff]).to_f32().is_nan());
    for (code, &value) in large.magnitudes.iter().enumerate() {
        assert_eq!(f64::from(e5m6::decode(code as u16)), value);
        assert_eq!(f64::from(-e5m6::decode(code as u16 | 0x800)), value);
    }
    assert_eq!((e5m6::decode(0x7c0), e5m6::decode(0xfc0)), (f32::INFINITY, f32::NEG_INFINITY));
    assert!((0x7c1..0x800).all(|code| e5m6::decode(code).is_nan() && e5m6::decode(code | 0x800).is_nan()));
}

#[test]
fn e4m3_of_every_bf16_and_around_every_edge() {
    let format = Format::e4m3();
    for value in all_bf16().chain(format.edges()) {
        let sign = if value.is_sign_negative() { 0x80 } else { 0 };
        let expected = if value.is_nan() { 0x7f | sign } else { format.nearest(value) };
        assert_eq!(u16::from(e4m3::encode(value)), expected, "{value:e}");
    }
}

#[test]
fn e5m6_of_every_bf16_and_around_every_edge() {
    let format = Format::e5m6();
    for value in all_bf16().chain(format.edges()) {
        let sign = if value.is_sign_negative() { 0x800 } else { 0 };
        let expected = match value.abs() {
            magnitude if magnitude.is_nan() => 0x7e0 | sign,
            f32::INFINITY => 0x7c0 | sign,
            _ => format.nearest(value),
        };
        assert_eq!(e5m6::encode(value), expected, "{value:e}");
    }
}

/// The vectorised encoders, by groups of scale 1: each row starts with the largest value of the format.
#[test]
fn vectorised_encoders_around_every_edge() {
    let rows_of = |largest: f32, edges: Vec<f32>| -> Vec<f32> {
        let values: Vec<f32> = all_bf16().chain(edges).filter(|value| value.abs() <= largest).collect();
        assert!(values.len() > 30_000);
        let rows = values
            .chunks(127)
            .map(|row| [&[largest], row, &vec![0.0; 127 - row.len()]].concat());
        rows.flatten().collect()
    };
    let (small, large) = (Format::e4m3(), Format::e5m6());
    let (x, y) = (rows_of(448.0, small.edges()), rows_of(65024.0, large.edges()));
    let expected: Vec<u8> = x
        .iter()
        .map(|&value| small.nearest(value))
        .map(|code| code as u8 | (code >> 8 << 7) as u8)
        .collect();
    let wide: Vec<u16> = y.iter().map(|&value| large.nearest(value)).collect();
    for backend in Backend::all() {
        for scaling in [Scaling::Plain, Scaling::PowerOfTwo] {
            let dims = QuantizeDims {
                rows: x.len() / 128,
                columns: 128,
                grouping: Grouping::Row,
                scaling,
                transposed: false,
            };
            let (codes, scales, _) = backend.quantize(Source::F32(&x), dims);
            assert!(scales.iter().all(|&scale| scale == 1.0_f32.to_bits()), "{}", backend.name());
            let wrong = codes.iter().zip(&expected).position(|(code, expected)| code != expected);
            assert_eq!(wrong.map(|index| x[index]), None, "{scaling:?}, {}", backend.name());
        }
        let rows = y.len() / 128;
        let (packed, scales, _) = backend.quantize_e5m6(Source::F32(&y), E5m6Dims { rows, columns: 128 });
        assert!(scales.iter().all(|&scale| scale == 1.0_f32.to_bits()), "{}", backend.name());
        let wrong = (0..y.len()).find(|&index| e5m6::unpack(&packed[index / 128 * 192..], index % 128) != wide[index]);
        assert_eq!(wrong.map(|index| y[index]), None, "E5M6, {}", backend.name());
    }
}

#[test]
fn bf16_rounds_to_the_nearest() {
    let cpus: Vec<Cpu> = Isa::available().into_iter().map(|isa| Cpu::with_isa(2, isa)).collect();
    let lows = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
    let input: Vec<f32> = (0..=u32::from(u16::MAX))
        .flat_map(|high| lows.map(|low| f32::from_bits(high << 16 | low)))
        .collect();
    // The value next to the largest finite one is 2^128 for rounding.
    let value = |bits: u32| {
        if bits == 0x7f80_0000 {
            2.0_f64.powi(128)
        } else {
            f64::from(f32::from_bits(bits))
        }
    };
    let expected = |input: f32| {
        let (below, sign) = (input.abs().to_bits() & 0xffff_0000, input.to_bits() & 0x8000_0000);
        let (down, up) = (
            f64::from(input.abs()) - value(below),
            value(below + 0x1_0000) - f64::from(input.abs()),
        );
        let nearest = if down < up || (down == up && below & 0x1_0000 == 0) {
            below
        } else {
            below + 0x1_0000
        };
        ((nearest | sign) >> 16) as u16
    };
    let mut codes = Vec::new();
    for &value in &input {
        let rounded = Bf16::from_f32(value);
        if value.is_finite() {
            assert_eq!(rounded.0, expected(value), "{value:e}");
        } else {
            assert!(rounded.to_f32().is_nan() == value.is_nan() && rounded.to_f32().is_infinite() == value.is_infinite());
            assert_eq!(rounded.to_f32().is_sign_negative(), value.is_sign_negative());
        }
        codes.push(rounded);
    }
    for cpu in &cpus {
        let mut y = vec![Bf16(0xaaaa); input.len()];
        cpu.cast(&mut y, &input);
        assert!(y == codes, "{}", cpu.isa().name());
    }
}

#[test]
fn packing_is_little_endian_and_reversible() {
    let mut packed = [0xff; 6];
    e5m6::pack(&mut packed, &[0x123, 0x456, 0x789]);
    assert_eq!(packed, [0x23, 0x61, 0x45, 0x89, 0x07, 0x00]);
    let codes: Vec<u16> = (0..0x1000).collect();
    let mut packed = vec![0; e5m6::packed_len(codes.len())];
    assert_eq!(packed.len(), 3 * 0x800);
    e5m6::pack(&mut packed, &codes);
    assert!(codes.iter().all(|&code| e5m6::unpack(&packed, usize::from(code)) == code));
}
