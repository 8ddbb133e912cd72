//! SwiGLU: `a = silu(gate) up`, `silu(g) = g sigma(g)`.

use super::real::{Real, sigmoid};
use crate::dims::SwigluDims;

/// `a = silu(gate) up`.
pub fn forward<A: Real>(a_RF: &mut [A], gate_up_R2F: &[A], dims: SwigluDims) {
    let SwigluDims { rows, width } = dims;
    for r in 0..rows {
        for j in 0..width {
            let (gate, up) = (gate_up_R2F[r * 2 * width + j].get(), gate_up_R2F[r * 2 * width + width + j].get());
            a_RF[r * width + j] = A::of(gate * sigmoid(gate) * up);
        }
    }
}

/// `dup = da silu(gate)`, `dgate = da up sigma(gate) (1 + gate (1 - sigma(gate)))`.
pub fn backward<A: Real>(dgate_up_R2F: &mut [A], da_RF: &[A], gate_up_R2F: &[A], dims: SwigluDims) {
    for r in 0..dims.rows {
        row_backward(dgate_up_R2F, da_RF, gate_up_R2F, 1.0, r, dims.width);
    }
}

/// Backward of a row whose output is weighted by `g`: also `dweights = <da, a>` and `a := g a`.
#[allow(clippy::too_many_arguments)]
pub fn backward_routed<A: Real, F: Real>(
    dgate_up_R2F: &mut [A],
    a_RF: &mut [A],
    dweights_TK: &mut [F],
    da_RF: &[A],
    gate_up_R2F: &[A],
    weights_TK: &[F],
    slot_of_row_R: &[u32],
    dims: SwigluDims,
) {
    let SwigluDims { rows, width } = dims;
    for (r, &slot) in slot_of_row_R[..rows].iter().enumerate() {
        let slot = slot as usize;
        let weight = weights_TK[slot].get();
        row_backward(dgate_up_R2F, da_RF, gate_up_R2F, weight, r, width);
        let mut dweight = 0.0;
        for j in r * width..(r + 1) * width {
            dweight += da_RF[j].get() * a_RF[j].get();
            a_RF[j] = A::of(weight * a_RF[j].get());
        }
        dweights_TK[slot] = F::of(dweight);
    }
}

/// The backward pass of row `r` for the gradient `weight da`.
fn row_backward<A: Real>(dgate_up_R2F: &mut [A], da_RF: &[A], gate_up_R2F: &[A], weight: f64, r: usize, width: usize) {
    for j in 0..width {
        let (gate_at, up_at) = (r * 2 * width + j, r * 2 * width + width + j);
        let (gate, up, da) = (
            gate_up_R2F[gate_at].get(),
            gate_up_R2F[up_at].get(),
            weight * da_RF[r * width + j].get(),
        );
        let sigma = sigmoid(gate);
        dgate_up_R2F[gate_at] = A::of(da * up * sigma * (1.0 + gate * (1.0 - sigma)));
        dgate_up_R2F[up_at] = A::of(da * gate * sigma);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient::{Draw, check_gradient};

    const DIMS: SwigluDims = SwigluDims { rows: 3, width: 4 };

    fn swiglu(gate_up: &[f64]) -> Vec<f64> {
        let mut a = vec![0.0; 12];
        forward(&mut a, gate_up, DIMS);
        a
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(6);
        let (gate_up, da) = (draw.normal(24), draw.normal(12));
        let mut dgate_up = vec![0.0; 24];
        backward(&mut dgate_up, &da, &gate_up, DIMS);
        check_gradient("dgate_up", &gate_up, &dgate_up, &da, swiglu);
    }

    #[test]
    fn routed_gradient_of_inputs_and_weights() {
        let (mut draw, slots) = (Draw::new(7), [2, 0, 1]);
        let (gate_up, da, weights) = (draw.normal(24), draw.normal(12), draw.normal(3));
        let weighted = |gate_up: &[f64], weights: &[f64]| {
            let a = swiglu(gate_up);
            (0..12).map(|i| weights[slots[i / 4] as usize] * a[i]).collect::<Vec<_>>()
        };
        let (mut dgate_up, mut dweights, mut a) = (vec![0.0; 24], vec![0.0; 3], swiglu(&gate_up));
        backward_routed(&mut dgate_up, &mut a, &mut dweights, &da, &gate_up, &weights, &slots, DIMS);
        check_gradient("dgate_up", &gate_up, &dgate_up, &da, |gate_up| weighted(gate_up, &weights));
        check_gradient("dweights", &weights, &dweights, &da, |weights| weighted(&gate_up, weights));
        assert_eq!(a, weighted(&gate_up, &weights), "a is replaced by its weighted value");
    }
}
