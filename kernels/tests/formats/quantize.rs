//! Every instruction set against the reference, and the reference against its promises.

use crate::draw::Draw;
use crate::{Backend, Quantised, bf16, floats};
use fathom_kernels::formats::{E5m6Dims, Grouping, NonFinite, QuantizeDims, Scaling, Source, e4m3, e5m6};
use proptest::prelude::*;

const GROUPINGS: [Grouping; 3] = [Grouping::Row, Grouping::Column, Grouping::Block];
const SCALINGS: [Scaling; 2] = [Scaling::Plain, Scaling::PowerOfTwo];

/// Values of very different sizes: whole groups of zeros, tiny and huge ones, and, if `broken`, NaN and infinity.
fn matrix(rows: usize, columns: usize, seed: u64, broken: bool) -> Vec<f32> {
    let mut draw = Draw::new(seed);
    let mut x = draw.normal(rows * columns);
    let sizes = [1.0, 1.0, 1.0, 0.0, 1e-6, 1e-41, 1e38, 1e4];
    let (mut of_row, mut of_column) = (1.0, Vec::new());
    of_column.resize_with(columns, || sizes[draw.below(3)]);
    for (index, value) in x.iter_mut().enumerate() {
        if index % columns == 0 {
            of_row = sizes[draw.below(sizes.len())];
        }
        *value *= of_row * of_column[index % columns];
        *value *= if draw.below(50) == 0 { sizes[draw.below(sizes.len())] } else { 1.0 };
        if !value.is_finite() {
            *value = f32::MAX.copysign(*value);
        }
        if broken && draw.below(200) == 0 {
            *value = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY][draw.below(4)];
        }
    }
    x
}

fn all_dims(rows: usize, columns: usize) -> impl Iterator<Item = QuantizeDims> {
    let rules = GROUPINGS
        .into_iter()
        .flat_map(|grouping| SCALINGS.map(|scaling| (grouping, scaling)));
    rules
        .flat_map(|(grouping, scaling)| [(grouping, scaling, false), (grouping, scaling, true)])
        .map(move |(grouping, scaling, transposed)| QuantizeDims {
            rows,
            columns,
            grouping,
            scaling,
            transposed,
        })
}

fn same(actual: &Quantised, expected: &Quantised, place: &str) {
    let wrong = actual.0.iter().zip(&expected.0).position(|(a, b)| a != b);
    assert_eq!(
        wrong.map(|index| (index, actual.0[index], expected.0[index])),
        None,
        "code of {place}"
    );
    assert!(actual == expected, "{place}: {:?} instead of {:?}", actual.2, expected.2);
}

/// NaN equals NaN here; everything else by bits.
fn bits(values: &[f32]) -> Vec<u32> {
    values
        .iter()
        .map(|value| if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() })
        .collect()
}

fn check(backends: &[Backend], rows: usize, columns: usize, seed: u64) {
    let (reference, cpus) = backends.split_first().unwrap();
    for broken in [false, true] {
        let x = matrix(rows, columns, seed, broken);
        let half = bf16(&x);
        // Sources with codes: of the clean matrix, whose every third code is then overwritten by NaN if `broken`.
        let row = QuantizeDims {
            rows,
            columns,
            grouping: Grouping::Row,
            scaling: Scaling::PowerOfTwo,
            transposed: false,
        };
        let mut coded: Vec<(Grouping, Quantised)> = GROUPINGS
            .into_iter()
            .map(|grouping| (grouping, reference.quantize(Source::F32(&x), QuantizeDims { grouping, ..row })))
            .collect();
        if broken {
            coded
                .iter_mut()
                .for_each(|(_, (codes, ..))| codes.iter_mut().step_by(101).for_each(|code| *code |= 0x7f));
        }
        let (packed, packed_scales, _) = reference.quantize_e5m6(Source::F32(&x), E5m6Dims { rows, columns });
        let packed_scales = floats(&packed_scales);
        let coded: Vec<_> = coded
            .iter()
            .map(|(grouping, (codes, scales, _))| (*grouping, codes, floats(scales)))
            .collect();
        let mut sources = vec![("f32", Source::F32(&x)), ("bf16", Source::Bf16(&half))];
        sources.extend(coded.iter().map(|(grouping, codes, scales)| {
            let source = Source::E4m3 {
                codes,
                scales,
                grouping: *grouping,
            };
            ("e4m3", source)
        }));
        let scales = &packed_scales;
        sources.push(("e5m6", Source::E5m6 { packed: &packed, scales }));
        for (name, source) in sources {
            let dequantised = bits(&reference.dequantize(source, rows, columns));
            let narrow = reference.quantize_e5m6(source, E5m6Dims { rows, columns });
            for cpu in cpus {
                let place = format!("{rows} x {columns} of {name}, broken: {broken}, {}", cpu.name());
                assert!(bits(&cpu.dequantize(source, rows, columns)) == dequantised, "dequantising {place}");
                same(&cpu.quantize_e5m6(source, E5m6Dims { rows, columns }), &narrow, &place);
            }
            for dims in all_dims(rows, columns) {
                let expected = reference.quantize(source, dims);
                for cpu in cpus {
                    let place = format!("{dims:?} of {name}, broken: {broken}, {}", cpu.name());
                    same(&cpu.quantize(source, dims), &expected, &place);
                }
            }
        }
    }
}

#[test]
fn instruction_sets_equal_the_reference() {
    let backends = Backend::all();
    for (rows, columns) in [
        (0, 0),
        (0, 5),
        (5, 0),
        (1, 1),
        (1, 128),
        (128, 1),
        (1, 300),
        (300, 1),
        (16, 127),
        (17, 129),
        (127, 64),
        (128, 128),
        (129, 257),
        (257, 131),
    ] {
        check(&backends, rows, columns, 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn instruction_sets_equal_the_reference_in_any_shape(rows in 1_usize..300, columns in 1_usize..300, seed: u64) {
        check(&Backend::all(), rows, columns, seed);
    }
}

#[test]
fn transposed_outputs_are_those_of_the_transposed_groups() {
    let (rows, columns) = (131, 270);
    let x = matrix(rows, columns, 2, true);
    for backend in Backend::all() {
        for dims in all_dims(rows, columns).filter(|dims| !dims.transposed) {
            let (codes, scales, statistics) = backend.quantize(Source::F32(&x), dims);
            let transposed = backend.quantize(Source::F32(&x), QuantizeDims { transposed: true, ..dims });
            assert_eq!(transposed.2, statistics);
            assert!(
                transposed.0 == backend.transpose(&codes, rows, columns),
                "{dims:?}, {}",
                backend.name()
            );
            let (scale_rows, scale_columns) = dims.scales();
            for i in 0..scale_rows {
                for j in 0..scale_columns {
                    assert_eq!(transposed.1[j * scale_rows + i], scales[i * scale_columns + j], "{dims:?}");
                }
            }
            // Quantising x^T by the transposed groups is the same thing.
            let x_transposed: Vec<f32> = (0..rows * columns).map(|at| x[at % rows * columns + at / rows]).collect();
            let turned = QuantizeDims {
                rows: columns,
                columns: rows,
                grouping: dims.grouping.transposed(),
                ..dims
            };
            same(&backend.quantize(Source::F32(&x_transposed), turned), &transposed, &backend.name());
        }
    }
}

#[test]
fn codes_transpose_in_any_shape() {
    for backend in Backend::all() {
        for (rows, columns) in [(0, 3), (3, 0), (1, 1), (7, 9), (8, 8), (129, 130), (260, 127)] {
            let x: Vec<u8> = (0..rows * columns).map(|index| (index * 37 % 251) as u8).collect();
            let y = backend.transpose(&x, rows, columns);
            let right = (0..x.len()).all(|at| y[at % columns * rows + at / columns] == x[at]);
            assert!(right, "{rows} x {columns}, {}", backend.name());
        }
    }
}

/// Largest magnitudes where the scale changes, with their neighbours, and all exponents.
fn magnitudes(largest: f32) -> Vec<f32> {
    let steps = (-149..128).map(|exponent| 2.0_f64.powi(exponent) as f32);
    let edges = (-120..112).map(|exponent| largest * 2.0_f64.powi(exponent) as f32);
    steps
        .chain(edges)
        .chain([f32::MAX, 1e-4])
        .flat_map(|x| [x, x.next_up(), x.next_down()])
        .filter(|x| x.is_finite() && *x > 0.0)
        .collect()
}

#[test]
fn scales_follow_from_the_largest_magnitude() {
    for (largest, grouping) in [448.0, 65024.0]
        .into_iter()
        .flat_map(|largest| GROUPINGS.map(|grouping| (largest, grouping)))
    {
        for amax in magnitudes(largest) {
            let floored = if grouping == Grouping::Block { amax } else { amax.max(1e-4) };
            let plain = Scaling::Plain.scale(amax, grouping, largest);
            assert_eq!(plain, (floored / largest).max(f32::MIN_POSITIVE));
            let power = Scaling::PowerOfTwo.scale(amax, grouping, largest);
            assert_eq!(power.to_bits() & 0x807f_ffff, 0, "{power:e} is a normal power of two");
            let (power, floored) = (f64::from(power), f64::from(floored));
            assert!(floored <= f64::from(largest) * power, "{amax:e} fits");
            let least = power == f64::from(f32::MIN_POSITIVE);
            assert!(
                least || floored > f64::from(largest) * power / 2.0,
                "{power:e} is the least for {amax:e}"
            );
        }
        let zero = Scaling::PowerOfTwo.scale(0.0, grouping, largest);
        let expected = if grouping == Grouping::Block {
            1.0
        } else {
            Scaling::PowerOfTwo.scale(1e-4, grouping, largest)
        };
        assert_eq!(zero, expected);
    }
}

#[test]
fn dequantised_values_are_near_whatever_their_size() {
    for exponent in [-149, -140, -126, -120, -40, 0, 60, 120, 127] {
        let unit = 2.0_f64.powi(exponent) as f32;
        let x: Vec<f32> = (0..130)
            .map(|index| unit * (index as f32 / 130.0) * if index % 2 == 0 { 1.9 } else { -1.9 })
            .collect();
        for backend in Backend::all() {
            for dims in all_dims(1, 130).filter(|dims| !dims.transposed) {
                let (codes, scales, statistics) = backend.quantize(Source::F32(&x), dims);
                let scales = floats(&scales);
                let grouping = dims.grouping;
                let y = backend.dequantize(
                    Source::E4m3 {
                        codes: &codes,
                        scales: &scales,
                        grouping,
                    },
                    1,
                    130,
                );
                for (j, (&x, y)) in x.iter().zip(y).enumerate() {
                    let scale = scales[j / grouping.size().1];
                    // Half a step: 2^-4 of a normal value, 2^-10 of the scale of a subnormal one; and the roundings of scale and product.
                    let bound = f64::from(x.abs() * 0.0626).max(f64::from(scale) * 0.000_978) + f64::from(f32::from_bits(1));
                    assert!(
                        (f64::from(x) - f64::from(y)).abs() <= bound,
                        "{x:e} became {y:e}, {dims:?}, {}",
                        backend.name()
                    );
                }
                assert_eq!((statistics.elements, statistics.non_finite), (130, 0));
            }
        }
    }
}

/// A matrix whose every count is known.
#[test]
fn statistics_of_a_known_matrix() {
    let mut x = vec![1.0; 2 * 256];
    x[0] = 448.0; // scale 1 for the first tile: one element at the limit
    x[1] = -440.0; // rounds to 448
    x[2] = 431.0; // rounds to 416
    (x[3], x[4]) = (0.000_97, 0.000_98); // below and above half of 2^-9
    x[5] = 0.0;
    (x[6], x[7], x[8]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    x[128..256].fill(0.0);
    x[256..384].fill(224.0 + 1.0); // half of the range: headroom 448/225
    x[384..512].fill(1e-7); // below the floor
    for backend in Backend::all() {
        let dims = QuantizeDims {
            rows: 2,
            columns: 256,
            grouping: Grouping::Row,
            scaling: Scaling::PowerOfTwo,
            transposed: false,
        };
        let (codes, _, statistics) = backend.quantize(Source::F32(&x), dims);
        assert_eq!(
            codes[..9],
            [0x7e, 0xfe, 0x7d, 0x00, 0x01, 0x00, 0x7f, 0x7e, 0xfe],
            "{}",
            backend.name()
        );
        assert_eq!((statistics.elements, statistics.groups), (512, 3));
        assert_eq!((statistics.saturated, statistics.underflowed, statistics.non_finite), (2, 1, 3));
        assert_eq!(statistics.amax, 448.0);
        let fill = (1.0 + 225.0 / 448.0 + 1e-7 / (448.0 * 2.0_f64.powi(-22))) / 3.0;
        assert!((statistics.headroom() * fill - 1.0).abs() < 1e-6, "{}", statistics.headroom());
        let error = statistics.finite().unwrap_err();
        assert_eq!(error, NonFinite { count: 3, elements: 512 });
        assert_eq!(error.to_string(), "3 of 512 elements to quantise are NaN or infinite");

        let (packed, _, statistics) = backend.quantize_e5m6(Source::F32(&x), E5m6Dims { rows: 2, columns: 256 });
        let code = |column| e5m6::unpack(&packed, column);
        assert_eq!((code(7), code(8)), (0x7c0, 0xfc0), "infinity stays");
        assert!(e5m6::decode(code(6)).is_nan());
        assert_eq!(statistics.non_finite, 3);
    }
}

/// What is not finite does not touch the rest of its group.
#[test]
fn non_finite_elements_leave_the_others_alone() {
    let (rows, columns) = (140, 200);
    let broken = matrix(rows, columns, 3, true);
    let count = broken.iter().filter(|value| !value.is_finite()).count();
    assert!(count > 50);
    let clean: Vec<f32> = broken.iter().map(|&value| if value.is_finite() { value } else { 0.0 }).collect();
    for backend in Backend::all() {
        for dims in all_dims(rows, columns).filter(|dims| !dims.transposed) {
            let (codes, scales, statistics) = backend.quantize(Source::F32(&broken), dims);
            let (expected, expected_scales, clean_statistics) = backend.quantize(Source::F32(&clean), dims);
            assert_eq!(scales, expected_scales);
            assert_eq!(statistics.non_finite, count as u64);
            assert!(clean_statistics.finite().is_ok());
            for ((code, expected), value) in codes.iter().zip(expected).zip(&broken) {
                let sign = if value.is_sign_negative() { 0x80 } else { 0 };
                let expected = if value.is_finite() {
                    expected
                } else {
                    sign | if value.is_nan() { 0x7f } else { 0x7e }
                };
                assert_eq!(*code, expected, "{value}");
            }
        }
    }
}

/// The cached input of a linear layer, 1x128, becomes the operand of the weight gradient, 128x1, without a second rounding: with scales
/// that are powers of two, whatever is a normal number under the new scale stays what it was.
#[test]
fn retiling_by_powers_of_two_is_exact() {
    let (rows, columns) = (256, 256);
    let mut x = Draw::new(4).normal(rows * columns);
    x.iter_mut().skip(5).step_by(columns).for_each(|outlier| *outlier *= 1000.0);
    for (backend, scaling) in Backend::all().iter().flat_map(|backend| SCALINGS.map(|scaling| (backend, scaling))) {
        let dims = QuantizeDims {
            rows,
            columns,
            grouping: Grouping::Row,
            scaling,
            transposed: false,
        };
        let (codes, scales, _) = backend.quantize(Source::F32(&x), dims);
        let (scales, grouping) = (floats(&scales), dims.grouping);
        let cached = Source::E4m3 {
            codes: &codes,
            scales: &scales,
            grouping,
        };
        let grouping = Grouping::Column;
        let (retiled, new_scales, _) = backend.quantize(cached, QuantizeDims { grouping, ..dims });
        let new_scales = floats(&new_scales);
        let source = Source::E4m3 {
            codes: &retiled,
            scales: &new_scales,
            grouping,
        };
        let (before, after) = (backend.dequantize(cached, rows, columns), backend.dequantize(source, rows, columns));
        let normal = (0..x.len()).filter(|&at| before[at].abs() >= new_scales[at / columns / 128 * columns + at % columns] / 64.0);
        let changed = normal.filter(|&at| before[at] != after[at]).count();
        match scaling {
            Scaling::PowerOfTwo => assert_eq!(changed, 0, "{}", backend.name()),
            Scaling::Plain => assert!(changed > x.len() / 2, "{changed} of {} changed", x.len()),
        }
    }
}

#[test]
#[should_panic(expected = "scales has 1 elements, the dimensions need 2")]
fn wrong_sizes_are_refused() {
    let dims = QuantizeDims {
        rows: 2,
        columns: 3,
        grouping: Grouping::Row,
        scaling: Scaling::Plain,
        transposed: false,
    };
    let _ = fathom_kernels::Reference::PAIRS.quantize_source(&mut [0; 6], &mut [0.0; 1], Source::F32(&[0.0; 6]), dims);
}

#[test]
fn constants_are_codes_of_their_values() {
    assert_eq!(e4m3::decode(e4m3::LARGEST_CODE), e4m3::LARGEST);
    assert_eq!(e5m6::decode(e5m6::LARGEST_CODE), e5m6::LARGEST);
}
