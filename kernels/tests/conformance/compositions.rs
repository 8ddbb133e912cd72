//! Compositions that must agree on each backend: a stack and its matrices, moments rounded once, fused operations and their steps.

use crate::draw::Draw;
use crate::formats::{SCALINGS, SPARE, seen, spare, wild};
use crate::operations::{down, up};
use crate::{BACKENDS, THREADS};
use fathom_kernels::dims::{AdamW, Columns, RmsNormDims, SwigluDims};
use fathom_kernels::formats::{
    Activation, Bf16, QuantizeDims, QuantizeGroupedDims, Scaling, Statistics, column_scale_row, column_scale_rows,
};
use fathom_kernels::{Kernels, Reference};
use proptest::prelude::*;

/// Something that holds on each backend by itself.
trait Property {
    fn holds<K: Kernels>(&self, k: &K, place: &str);
}

fn check_property(property: &impl Property) {
    property.holds(&Reference::PAIRS, "the reference");
    for cpu in BACKENDS.iter().chain(THREADS.iter()) {
        property.holds(cpu, &format!("{} on {} threads", cpu.isa().name(), cpu.threads()));
    }
}

/// Rows of experts are quantised as if each expert were a matrix of its own, and what is between their scales is left alone.
struct GroupsAreMatrices {
    offsets: Vec<u32>,
    columns: usize,
}

impl Property for GroupsAreMatrices {
    fn holds<K: Kernels>(&self, k: &K, place: &str) {
        let Self { ref offsets, columns } = *self;
        let groups = offsets.len() - 1;
        let dims = QuantizeGroupedDims {
            rows: offsets[groups] as usize,
            columns,
            groups,
            scaling: Scaling::PowerOfTwo,
        };
        let x = wild::<Bf16>(&mut Draw::new(25), dims.rows * columns);
        let rows = column_scale_rows(dims.rows, groups);
        let (mut codes, mut scales) = (k.zeros(x.len()), spare(k, -1.0, rows * columns));
        let mut statistics = k.zeros(groups + 1);
        k.quantize_grouped(&mut codes, &mut scales, &mut statistics, groups, &up(k, &x), &up(k, offsets), dims);
        let (mut expected, mut expected_scales) = (Vec::new(), vec![-1.0; rows * columns + SPARE]);
        for (e, range) in offsets.windows(2).enumerate() {
            let (start, end) = (range[0] as usize, range[1] as usize);
            let alone = dims.group(end - start);
            let (codes_len, scales_len) = alone.lengths();
            let (mut codes, mut scales) = (k.zeros(codes_len), k.zeros(scales_len));
            let x = up(k, &x[start * columns..end * columns]);
            k.quantize(&mut codes, &mut scales, &mut statistics, e, &x, alone);
            expected.extend(down(k, &codes));
            expected_scales[column_scale_row(start, e) * columns..][..scales_len].copy_from_slice(&down(k, &scales));
        }
        assert!(down(k, &codes) == expected, "codes of {offsets:?} on {place}");
        assert!(down(k, &scales) == expected_scales, "scales of {offsets:?} on {place}");
        let statistics = down(k, &statistics);
        let sum = statistics[..groups]
            .iter()
            .fold(Statistics::default(), |sum, &part| sum.merge(part));
        assert_eq!(statistics[groups], sum, "{place}");
    }
}

#[test]
fn groups_are_quantised_as_matrices() {
    for offsets in [
        vec![0, 0],
        vec![0, 127, 128, 129, 129, 400],
        vec![0, 0, 256, 384],
        vec![0, 1, 2, 3, 4],
    ] {
        check_property(&GroupsAreMatrices { offsets, columns: 130 });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn groups_of_any_size_are_quantised_as_matrices(sizes in prop::collection::vec(0_u32..300, 1..12), columns in 1_usize..20) {
        let mut offsets = vec![0];
        offsets.extend(sizes.iter().scan(0, |end, size| { *end += size; Some(*end) }));
        check_property(&GroupsAreMatrices { offsets, columns });
    }

    #[test]
    fn scale_rows_of_experts_are_disjoint(sizes in prop::collection::vec(0_usize..1000, 1..40)) {
        let (mut offset, mut free) = (0, 0);
        for (group, &size) in sizes.iter().enumerate() {
            let start = column_scale_row(offset, group);
            prop_assert!(start >= free, "expert {group} starts at {start}, the one before ends at {free}");
            free = start + size.div_ceil(128);
            offset += size;
        }
        prop_assert!(free <= column_scale_rows(offset, sizes.len()));
    }
}

/// Moments in BF16 are those in FP32, rounded when stored; the parameter moves by what they were before.
struct MomentsRoundOnce;

impl Property for MomentsRoundOnce {
    fn holds<K: Kernels>(&self, k: &K, place: &str) {
        let mut draw = Draw::new(26);
        let len = 16_385;
        let (start, gradient) = (draw.normal(len), draw.normal(len));
        let squares: Vec<f32> = draw.normal(len).iter().map(|x| x * x).collect();
        let (mut p, mut p_wide) = (up(k, &start), up(k, &start));
        let (mut m, mut v) = (k.zeros::<Bf16>(len), k.zeros::<Bf16>(len));
        k.cast(&mut m, &up(k, &draw.normal(len)));
        k.cast(&mut v, &up(k, &squares));
        let (mut m_wide, mut v_wide) = (k.zeros::<f32>(len), k.zeros::<f32>(len));
        for step in [1, 2, 1000] {
            k.cast(&mut m_wide, &m);
            k.cast(&mut v_wide, &v);
            let step = AdamW {
                learning_rate: 0.02,
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                weight_decay: 0.1,
                step,
                gradient_scale: 0.5,
            };
            let (mut g, mut g_wide) = (up(k, &gradient), up(k, &gradient));
            let mut copy = k.zeros::<Bf16>(len);
            k.adamw(&mut p, Some(&mut copy), &mut m, &mut v, &mut g, step);
            k.adamw(&mut p_wide, None, &mut m_wide, &mut v_wide, &mut g_wide, step);
            let mut p_rounded = k.zeros::<Bf16>(len);
            k.cast(&mut p_rounded, &p);
            assert!(down(k, &copy) == down(k, &p_rounded), "the copy on {place}");
            assert!(
                down(k, &g).iter().chain(&down(k, &g_wide)).all(|&g| g == 0.0),
                "the gradient is cleared on {place}"
            );
            let (mut m_rounded, mut v_rounded) = (k.zeros::<Bf16>(len), k.zeros::<Bf16>(len));
            k.cast(&mut m_rounded, &m_wide);
            k.cast(&mut v_rounded, &v_wide);
            assert!(down(k, &p) == down(k, &p_wide), "parameters on {place}");
            assert!(down(k, &m) == down(k, &m_rounded), "first moments on {place}");
            assert!(down(k, &v) == down(k, &v_rounded), "second moments on {place}");
        }
        assert!(down(k, &p) != start, "the parameters move");
    }
}

#[test]
fn moments_are_rounded_once() {
    check_property(&MomentsRoundOnce);
}

/// Codes, scales and statistics of one quantisation in tiles of 1 x 128.
struct Tiles<K: Kernels> {
    codes: K::Buffer<u8>,
    scales: K::Buffer<f32>,
    statistics: K::Buffer<Statistics>,
}

impl<K: Kernels> Tiles<K> {
    fn new(k: &K, dims: QuantizeDims) -> Self {
        let (codes, scales) = dims.lengths();
        Self {
            codes: spare(k, 0xaa, codes),
            scales: spare(k, -1.0, scales),
            statistics: seen(k, 2),
        }
    }

    /// The second of two steps: of values that are rounded to BF16 first.
    fn of_rounded(k: &K, wide: &K::Buffer<f32>, dims: QuantizeDims) -> Self {
        let (mut rounded, mut tiles) = (k.zeros::<Bf16>(k.len(wide)), Self::new(k, dims));
        k.cast(&mut rounded, wide);
        k.quantize(&mut tiles.codes, &mut tiles.scales, &mut tiles.statistics, 1, &rounded, dims);
        tiles
    }

    fn same(&self, k: &K, expected: &Self, place: &str) {
        // Which of two NaN a product passes on, and so its sign, is up to the compiler.
        let unsigned_nan = |code: u8| if code & 0x7f == 0x7f { 0x7f } else { code };
        let codes = |tiles: &Self| down(k, &tiles.codes).into_iter().map(unsigned_nan).collect::<Vec<_>>();
        assert!(codes(self) == codes(expected), "codes of {place}");
        assert!(down(k, &self.scales) == down(k, &expected.scales), "scales of {place}");
        assert_eq!(down(k, &self.statistics), down(k, &expected.statistics), "statistics of {place}");
    }
}

/// RMSNorm with quantisation is the two steps, with and without `y`.
struct NormIsTwoSteps(RmsNormDims, Scaling);

impl NormIsTwoSteps {
    fn of<K: Kernels, X: Activation>(&self, k: &K, place: &str) {
        let Self(dims, scaling) = *self;
        let place = &format!("{dims:?}, {scaling:?}, {:?} on {place}", X::DATA_TYPE);
        let mut draw = Draw::new(27);
        // Row 1 is not finite. The others are of usual size, so that squares neither overflow nor vanish.
        let mut x: Vec<X> = draw.normal(dims.rows * dims.x.stride).into_iter().map(X::from_f32).collect();
        if dims.rows > 1 {
            x[dims.x.stride + dims.x.offset] = X::from_f32(f32::INFINITY);
        }
        let (x, gain) = (up(k, &x), up(k, &draw.normal(dims.width)));
        let mut wide = k.zeros::<f32>(k.len(&x));
        k.cast(&mut wide, &x);
        let tiles = QuantizeDims::row_tiles(dims.rows, dims.width, scaling);
        let (mut normed, mut expected_rstd) = (k.zeros(dims.rows * dims.width), k.zeros(dims.rows));
        let dense = RmsNormDims {
            y: Columns::dense(dims.width),
            ..dims
        };
        k.rmsnorm_forward(&mut normed, &mut expected_rstd, &wide, &gain, dense);
        let expected = Tiles::of_rounded(k, &normed, tiles);
        let old = Bf16::from_f32(-1.0);
        let mut expected_y = vec![old; dims.rows * dims.y.stride];
        for (t, normed) in down(k, &normed).chunks(dims.width).enumerate() {
            let y = &mut expected_y[t * dims.y.stride + dims.y.offset..];
            y.iter_mut().zip(normed).for_each(|(y, &normed)| *y = Bf16::from_f32(normed));
        }
        for stored in [false, true] {
            let (mut fused, mut rstd) = (Tiles::new(k, tiles), k.zeros(dims.rows));
            let mut y = k.zeros(dims.rows * dims.y.stride);
            k.fill(&mut y, old);
            let Tiles { codes, scales, statistics } = &mut fused;
            k.rmsnorm_quantize(
                codes,
                scales,
                statistics,
                1,
                &mut rstd,
                stored.then_some(&mut y),
                &x,
                &gain,
                dims,
                scaling,
            );
            fused.same(k, &expected, place);
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert!(bits(down(k, &rstd)) == bits(down(k, &expected_rstd)), "rstd of {place}");
            let unsigned_nan = |y: &Bf16| if y.to_f32().is_nan() { Bf16(0x7fc0) } else { *y };
            let same = down(k, &y).iter().map(unsigned_nan).eq(expected_y.iter().map(unsigned_nan));
            assert!(!stored || same, "y of {place}");
        }
    }
}

impl Property for NormIsTwoSteps {
    fn holds<K: Kernels>(&self, k: &K, place: &str) {
        self.of::<K, f32>(k, place);
        self.of::<K, Bf16>(k, place);
    }
}

#[test]
fn rmsnorm_quantize_is_two_steps() {
    for (rows, width) in [(0, 4), (1, 1), (2, 128), (15, 127), (17, 129), (33, 300), (67, 64)] {
        for scaling in SCALINGS {
            let (x, y) = (
                Columns {
                    stride: width + 9,
                    offset: 3,
                },
                Columns {
                    stride: width + 5,
                    offset: 4,
                },
            );
            let dense = RmsNormDims::dense(rows, width, 1e-6);
            check_property(&NormIsTwoSteps(dense, scaling));
            check_property(&NormIsTwoSteps(RmsNormDims { x, y, ..dense }, scaling));
        }
    }
}

/// SwiGLU with quantisation is the two steps, from activations and from codes.
struct SwigluIsTwoSteps(SwigluDims, Scaling);

impl SwigluIsTwoSteps {
    fn expected<K: Kernels>(&self, k: &K, gate_up: &K::Buffer<f32>) -> Tiles<K> {
        let Self(dims, scaling) = *self;
        let mut a = k.zeros(dims.rows * dims.width);
        k.swiglu_forward(&mut a, gate_up, dims);
        Tiles::of_rounded(k, &a, QuantizeDims::row_tiles(dims.rows, dims.width, scaling))
    }

    fn of<K: Kernels, X: Activation>(&self, k: &K, place: &str) {
        let Self(dims, scaling) = *self;
        let SwigluDims { rows, width } = dims;
        let place = &format!("{dims:?}, {scaling:?}, {:?} on {place}", X::DATA_TYPE);
        let len = rows * 2 * width;
        let (gate_up, mut wide) = (up(k, &wild::<X>(&mut Draw::new(28), len)), k.zeros(len));
        k.cast(&mut wide, &gate_up);
        let tiles = QuantizeDims::row_tiles(rows, width, scaling);
        let mut fused = Tiles::new(k, tiles);
        k.swiglu_quantize(
            &mut fused.codes,
            &mut fused.scales,
            &mut fused.statistics,
            1,
            &gate_up,
            dims,
            scaling,
        );
        fused.same(k, &self.expected(k, &wide), place);

        let mut cached = Tiles::new(k, QuantizeDims::row_tiles(rows, 2 * width, scaling));
        let from = QuantizeDims::row_tiles(rows, 2 * width, scaling);
        k.quantize(&mut cached.codes, &mut cached.scales, &mut cached.statistics, 0, &gate_up, from);
        k.dequantize(&mut wide, &cached.codes, &cached.scales, rows, 2 * width);
        let mut fused = Tiles::new(k, tiles);
        let Tiles { codes, scales, statistics } = &mut fused;
        k.swiglu_requantize(codes, scales, statistics, 1, &cached.codes, &cached.scales, dims, scaling);
        fused.same(k, &self.expected(k, &wide), &format!("codes of {place}"));
    }
}

impl Property for SwigluIsTwoSteps {
    fn holds<K: Kernels>(&self, k: &K, place: &str) {
        self.of::<K, f32>(k, place);
        self.of::<K, Bf16>(k, place);
    }
}

#[test]
fn swiglu_quantize_is_two_steps() {
    for (rows, width) in [
        (0, 4),
        (4, 0),
        (1, 1),
        (2, 128),
        (15, 127),
        (17, 129),
        (33, 256),
        (31, 64),
        (5, 300),
    ] {
        for scaling in SCALINGS {
            check_property(&SwigluIsTwoSteps(SwigluDims { rows, width }, scaling));
        }
    }
}
