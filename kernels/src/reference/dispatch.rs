//! Sorting slots by expert, and moving rows there and back.

use super::real::Real;
use crate::dims::DispatchDims;
use crate::formats::GROUP;

/// Stable sort of slots by expert.
pub fn plan(offsets_E1: &mut [u32], slot_of_row_R: &mut [u32], row_of_slot_R: &mut [u32], indices_TK: &[u32], dims: DispatchDims) {
    let mut slots: Vec<u32> = (0..).take(dims.rows()).collect();
    slots.sort_by_key(|&slot| indices_TK[slot as usize]);
    for (row, &slot) in slots.iter().enumerate() {
        slot_of_row_R[row] = slot;
        row_of_slot_R[slot as usize] = row as u32;
    }
    for (e, offset) in offsets_E1[..=dims.experts].iter_mut().enumerate() {
        *offset = indices_TK[..dims.rows()].iter().filter(|&&index| (index as usize) < e).count() as u32;
    }
    assert_eq!(
        offsets_E1[dims.experts] as usize,
        dims.rows(),
        "an index is not below {} experts",
        dims.experts
    );
}

/// `x_RD[r] = x_TD[slot_of_row[r] / top_k]`.
pub fn dispatch<T: Copy>(x_RD: &mut [T], x_TD: &[T], slot_of_row_R: &[u32], dims: DispatchDims) {
    let width = dims.width;
    for (r, &slot) in slot_of_row_R[..dims.rows()].iter().enumerate() {
        x_RD[r * width..][..width].copy_from_slice(&x_TD[slot as usize / dims.top_k * width..][..width]);
    }
}

/// [`dispatch`] of codes, and of the scales of their tiles.
pub fn dispatch_quantized(
    codes_RD: &mut [u8],
    scales: &mut [f32],
    from_codes_TD: &[u8],
    from_scales: &[f32],
    slot_of_row_R: &[u32],
    dims: DispatchDims,
) {
    dispatch(codes_RD, from_codes_TD, slot_of_row_R, dims);
    let width = dims.width.div_ceil(GROUP);
    dispatch(scales, from_scales, slot_of_row_R, DispatchDims { width, ..dims });
}

/// `y_TD[t] += sum_k weights[t, k] y_RD[row_of_slot[t, k]]`.
pub fn combine<A: Real, F: Real>(y_TD: &mut [A], y_RD: &[A], weights_TK: &[F], row_of_slot_R: &[u32], dims: DispatchDims) {
    sum_rows(y_TD, y_RD, row_of_slot_R, |slot| weights_TK[slot].get(), dims);
}

/// `dx_TD[t] += sum_k dx_RD[row_of_slot[t, k]]`, the gradient of [`dispatch`].
pub fn dispatch_backward<A: Real>(dx_TD: &mut [A], dx_RD: &[A], row_of_slot_R: &[u32], dims: DispatchDims) {
    sum_rows(dx_TD, dx_RD, row_of_slot_R, |_| 1.0, dims);
}

fn sum_rows<A: Real>(y_TD: &mut [A], y_RD: &[A], row_of_slot_R: &[u32], weight: impl Fn(usize) -> f64, dims: DispatchDims) {
    let DispatchDims { tokens, top_k, width, .. } = dims;
    for t in 0..tokens {
        for j in 0..width {
            let sum: f64 = (t * top_k..(t + 1) * top_k)
                .map(|slot| weight(slot) * y_RD[row_of_slot_R[slot] as usize * width + j].get())
                .sum();
            y_TD[t * width + j] = A::of(y_TD[t * width + j].get() + sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient::{Draw, check_gradient};

    const DIMS: DispatchDims = DispatchDims {
        tokens: 4,
        top_k: 2,
        experts: 3,
        width: 2,
    };
    const INDICES: [u32; 8] = [2, 0, 0, 2, 2, 0, 0, 2];

    fn planned() -> ([u32; 4], [u32; 8], [u32; 8]) {
        let (mut offsets, mut slot_of_row, mut row_of_slot) = ([9; 4], [9; 8], [9; 8]);
        plan(&mut offsets, &mut slot_of_row, &mut row_of_slot, &INDICES, DIMS);
        (offsets, slot_of_row, row_of_slot)
    }

    #[test]
    fn plan_is_stable_and_invertible() {
        assert_eq!(planned(), ([0, 4, 4, 8], [1, 2, 5, 6, 0, 3, 4, 7], [4, 0, 1, 5, 6, 2, 3, 7]));
    }

    #[test]
    fn dispatch_gradient() {
        let (mut draw, (_, slot_of_row, row_of_slot)) = (Draw::new(12), planned());
        let (x, dy) = (draw.normal(8), draw.normal(16));
        let mut dx = vec![0.0; 8];
        dispatch_backward(&mut dx, &dy, &row_of_slot, DIMS);
        check_gradient("dx", &x, &dx, &dy, |x| {
            let mut y = vec![0.0; 16];
            dispatch(&mut y, x, &slot_of_row, DIMS);
            y
        });
    }

    /// The gradient of an unweighted combine is a dispatch; the weights' is `<dy, y_RD>`.
    #[test]
    fn combine_gradient() {
        let (mut draw, (_, slot_of_row, row_of_slot)) = (Draw::new(13), planned());
        let (y, weights, dy) = (draw.normal(16), draw.normal(8), draw.normal(8));
        let combined = |y: &[f64], weights: &[f64]| {
            let mut out = vec![0.0; 8];
            combine(&mut out, y, weights, &row_of_slot, DIMS);
            out
        };
        let mut dispatched = vec![0.0; 16];
        dispatch(&mut dispatched, &dy, &slot_of_row, DIMS);
        check_gradient("dy_RD", &y, &dispatched, &dy, |y| combined(y, &[1.0; 8]));
        let dweights: Vec<f64> = row_of_slot
            .iter()
            .map(|&row| (0..2).map(|j| dispatched[row as usize * 2 + j] * y[row as usize * 2 + j]).sum())
            .collect();
        check_gradient("dweights", &weights, &dweights, &dy, |weights| combined(&y, weights));
    }
}
