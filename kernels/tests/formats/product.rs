//! The product with promotion against FP64, between its layouts, and in the order it documents.

use crate::draw::Draw;
use crate::{Backend, floats};
use fathom_kernels::formats::{Along, Grouping, Operand, QuantizeDims, Scaling, Source, e4m3};
use fathom_kernels::{Reference, Write};

/// Codes and scales with their sizes.
struct Matrix {
    codes: Vec<u8>,
    scales: Vec<f32>,
    dims: QuantizeDims,
}

impl Matrix {
    fn new(x: &[f32], rows: usize, columns: usize, grouping: Grouping, scaling: Scaling, transposed: bool) -> Self {
        let dims = QuantizeDims {
            rows,
            columns,
            grouping,
            scaling,
            transposed,
        };
        let (codes, scales, _) = Backend::Reference.quantize(Source::F32(x), dims);
        Self {
            codes,
            scales: floats(&scales),
            dims,
        }
    }

    fn operand(&self, along: Along) -> Operand<'_> {
        let QuantizeDims {
            rows,
            columns,
            grouping,
            transposed,
            ..
        } = self.dims;
        let (rows, columns, grouping) = if transposed {
            (columns, rows, grouping.transposed())
        } else {
            (rows, columns, grouping)
        };
        Operand {
            codes: &self.codes,
            scales: &self.scales,
            rows,
            columns,
            grouping,
            along,
        }
    }
}

fn product(a: Operand<'_>, b: Operand<'_>) -> Vec<f32> {
    let mut y = vec![f32::NAN; a.vectors() * b.vectors()];
    Reference::PAIRS.quantized_product(&mut y, a, b, Write::Overwrite);
    y
}

/// Compares with FP64 on the dequantised operands. A sum of n rounded terms errs by at most n half-ulps of the sum of magnitudes.
fn check(a: Operand<'_>, b: Operand<'_>) {
    let y = product(a, b);
    let value =
        |operand: &Operand<'_>, vector, term| f64::from(operand.code_value(vector, term)) * f64::from(operand.scale(vector, term / 128));
    for m in 0..a.vectors() {
        for n in 0..b.vectors() {
            let terms = (0..a.terms()).map(|term| value(&a, m, term) * value(&b, n, term));
            let (sum, magnitude) = terms.fold((0.0, 0.0), |(sum, magnitude), term| (sum + term, magnitude + term.abs()));
            let roundings = (a.terms().min(128) + a.terms().div_ceil(128) + 4) as f64;
            let bound = roundings * f64::from(f32::EPSILON) / 2.0 * magnitude;
            let error = (f64::from(y[m * b.vectors() + n]) - sum).abs();
            assert!(error <= bound, "({m}, {n}): off by {error:e}, at most {bound:e}");
        }
    }
}

#[test]
fn products_of_a_linear_layer() {
    for scaling in [Scaling::Plain, Scaling::PowerOfTwo] {
        for (t, k, n) in [(1, 1, 1), (3, 129, 5), (130, 131, 133), (5, 300, 257), (260, 7, 9)] {
            let mut draw = Draw::new(5);
            let (x, w, dy) = (draw.normal(t * k), draw.normal(n * k), draw.normal(t * n));
            let (row, column, block) = (Grouping::Row, Grouping::Column, Grouping::Block);
            let w_plain = Matrix::new(&w, n, k, block, scaling, false);
            let w_turned = Matrix::new(&w, n, k, block, scaling, true);

            let x_row = Matrix::new(&x, t, k, row, scaling, false);
            check(x_row.operand(Along::Columns), w_plain.operand(Along::Columns));

            let dy_row = Matrix::new(&dy, t, n, row, scaling, false);
            let (dy_operand, w_operand) = (dy_row.operand(Along::Columns), w_plain.operand(Along::Rows));
            check(dy_operand, w_operand);
            assert_eq!(
                product(dy_operand, w_operand),
                product(dy_operand, w_turned.operand(Along::Columns))
            );

            let matrices = |transposed| {
                let dy = Matrix::new(&dy, t, n, column, scaling, transposed);
                (dy, Matrix::new(&x, t, k, column, scaling, transposed))
            };
            let ((dy_straight, x_straight), (dy_turned, x_turned)) = (matrices(false), matrices(true));
            let (a, b) = (dy_straight.operand(Along::Rows), x_straight.operand(Along::Rows));
            check(a, b);
            assert_eq!(
                product(a, b),
                product(dy_turned.operand(Along::Columns), x_turned.operand(Along::Columns))
            );
        }
    }
}

/// Codes in a single row with a scale per 128 terms.
fn row<'a>(codes: &'a [u8], scales: &'a [f32]) -> Operand<'a> {
    Operand {
        codes,
        scales,
        rows: 1,
        columns: codes.len(),
        grouping: Grouping::Row,
        along: Along::Columns,
    }
}

#[test]
fn terms_are_added_in_the_documented_order() {
    let code = e4m3::encode;
    let (big, tiny) = (code(448.0), 0x01);
    // 448^2 and 2^-18 do not fit in one FP32 value. Of the second pair, the odd term cancels the first before the tiny one is added.
    let a = [big, 0, tiny, code(-448.0)];
    let b = [big, 0, tiny, big];
    assert_eq!(product(row(&a, &[1.0]), row(&b, &[1.0])), [2.0_f32.powi(-18)]);
    // The other way round the tiny one is lost.
    let (a, b) = ([big, 0, code(-448.0), tiny], [big, 0, big, tiny]);
    assert_eq!(product(row(&a, &[1.0]), row(&b, &[1.0])), [0.0]);
}

#[test]
fn blocks_are_promoted_with_their_own_scales() {
    let mut codes = vec![e4m3::encode(1.0); 300];
    codes[299] = e4m3::encode(2.0);
    let ones = vec![e4m3::encode(1.0); 300];
    let (a, b) = ([1.0, 0.5, 4.0], [2.0, 0.25, 8.0]);
    let expected = 128.0 * 2.0 + 128.0 * 0.125 + 45.0 * 32.0;
    assert_eq!(product(row(&codes, &a), row(&ones, &b)), [expected]);
    let mut y = [10.0];
    Reference::PAIRS.quantized_product(&mut y, row(&codes, &a), row(&ones, &b), Write::Accumulate);
    assert_eq!(y, [expected + 10.0]);
    // Within a block 448^2 swallows 2^-18 terms; a block of their own keeps them.
    let (mut a, mut b) = (vec![0x01; 256], vec![0x01; 256]);
    (a[1], b[1]) = (e4m3::encode(448.0), e4m3::encode(448.0));
    let small = 128.0 * 2.0_f32.powi(-18);
    let y = product(row(&a, &[0.0, 1.0]), row(&b, &[1.0, 1.0]));
    assert_eq!(y, [small]);
    // The two scales are multiplied and rounded first, then the product with the sum, then the addition: whatever was fused would leave
    // what these roundings lose.
    for (value, scales) in [(1.125, [1.0 + f32::EPSILON, 1.0]), (1.375, [1.0 + f32::EPSILON; 2])] {
        let (code, one, [a, b]) = ([e4m3::encode(value)], [e4m3::encode(1.0)], scales);
        let mut y = [-(value * (a * b))];
        Reference::PAIRS.quantized_product(&mut y, row(&code, &[a]), row(&one, &[b]), Write::Accumulate);
        assert_eq!(y, [0.0], "{value}");
        assert_ne!(
            f64::from(value) * f64::from(a) * f64::from(b),
            f64::from(value * (a * b)),
            "something is lost"
        );
    }
}

#[test]
fn empty_products_and_nan() {
    assert_eq!(product(row(&[], &[]), row(&[], &[])), [0.0]);
    let y = product(row(&[0x38, 0x7f], &[1.0]), row(&[0x38, 0x38], &[1.0]));
    assert!(y[0].is_nan());
}

#[test]
#[should_panic(expected = "summed along its Columns has a scale per Column")]
fn scales_that_change_within_a_block_are_refused() {
    let mut operand = row(&[0], &[1.0]);
    operand.grouping = Grouping::Column;
    product(operand, operand);
}
