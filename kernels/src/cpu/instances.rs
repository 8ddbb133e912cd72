//! The operations that are generic over the type of activations, compiled once for each, here: generic code is otherwise compiled again by every
//! crate that calls it, and with that crate's settings.

use super::{Cpu, attention, dispatch, elementwise, embedding, grouped_linear, head_loss, linear, prefix, rmsnorm, rope, swiglu};
use crate::dims::{
    AttentionDims, DispatchDims, EmbeddingDims, GroupedDims, HeadDims, LinearDims, PrefixDims, RmsNormDims, RopeDims, SwigluDims,
};
use crate::formats::Bf16;
use crate::{Matrix, Rotation, Write};

/// Declares functions of a type of activations, `Self`, and defines them for every such type.
macro_rules! instances {
    ($($name:ident = $module:ident::$function:ident($($argument:ident: $type:ty),+ $(,)?);)+) => {
        /// Implemented by the types of activations.
        pub trait Instances: Sized {
            $(
                // Operands of products are whole buffers.
                #[allow(missing_docs, clippy::too_many_arguments, clippy::ptr_arg)]
                fn $name(cpu: &Cpu, $($argument: $type),+);
            )+
        }

        instances! { @of f32 $($name = $module::$function($($argument: $type),+);)+ }
        instances! { @of Bf16 $($name = $module::$function($($argument: $type),+);)+ }
    };
    (@of $activation:ident $($name:ident = $module:ident::$function:ident($($argument:ident: $type:ty),+);)+) => {
        impl Instances for $activation {
            $(
                fn $name(cpu: &Cpu, $($argument: $type),+) {
                    $module::$function(cpu, $($argument),+);
                }
            )+
        }
    };
}

instances! {
    add = elementwise::add(y: &mut [Self], x: &[Self]);
    embedding_forward = embedding::forward(y: &mut [Self], table: &[Self], tokens: &[u32], dims: EmbeddingDims);
    embedding_backward = embedding::backward(dtable: &mut [f32], dy: &[Self], tokens: &[u32], dims: EmbeddingDims);
    rmsnorm_forward = rmsnorm::forward(y: &mut [Self], rstd: &mut [f32], x: &[Self], gain: &[f32], dims: RmsNormDims);
    rmsnorm_backward = rmsnorm::backward(
        dx: &mut [Self],
        dgain: &mut [f32],
        dy: &[Self],
        x: &[Self],
        gain: &[f32],
        rstd: &[f32],
        dims: RmsNormDims,
        write: Write,
    );
    linear_forward = linear::forward(y: &mut [Self], x: Matrix<'_, Cpu>, w: Matrix<'_, Cpu>, dims: LinearDims, write: Write);
    linear_backward_input = linear::backward_input(dx: &mut [Self], dy: Matrix<'_, Cpu>, w: Matrix<'_, Cpu>, dims: LinearDims, write: Write);
    grouped_linear_forward = grouped_linear::forward(
        y: &mut [Self],
        x: Matrix<'_, Cpu>,
        w: Matrix<'_, Cpu>,
        offsets: &[u32],
        dims: GroupedDims,
    );
    grouped_linear_backward_input = grouped_linear::backward_input(
        dx: &mut [Self],
        dy: Matrix<'_, Cpu>,
        w: Matrix<'_, Cpu>,
        offsets: &[u32],
        dims: GroupedDims,
    );
    rope = rope::rotate(x: &mut [Self], table: &[f32], dims: RopeDims, rotation: Rotation);
    attention_forward = attention::forward(
        o: &mut [Self],
        lse: &mut [f32],
        q: &[Self],
        kv_up: &[Self],
        kv_a: &[Self],
        dims: AttentionDims,
    );
    attention_backward = attention::backward(
        dq: &mut [Self],
        dkv_up: &mut [Self],
        dkv_a: &mut [Self],
        d_o: &[Self],
        o: &[Self],
        lse: &[f32],
        q: &[Self],
        kv_up: &[Self],
        kv_a: &[Self],
        dims: AttentionDims,
    );
    swiglu_forward = swiglu::forward(a: &mut [Self], gate_up: &[Self], dims: SwigluDims);
    swiglu_backward = swiglu::backward(dgate_up: &mut [Self], da: &[Self], gate_up: &[Self], dims: SwigluDims);
    swiglu_backward_routed = swiglu::backward_routed(
        dgate_up: &mut [Self],
        a: &mut [Self],
        dweights: &mut [f32],
        da: &[Self],
        gate_up: &[Self],
        weights: &[f32],
        slot_of_row: &[u32],
        dims: SwigluDims,
    );
    combine = dispatch::combine(y_t: &mut [Self], y_r: &[Self], weights: Option<&[f32]>, row_of_slot: &[u32], dims: DispatchDims);
    dispatch = dispatch::dispatch(x_r: &mut [Self], x_t: &[Self], slot_of_row: &[u32], dims: DispatchDims);
    prefix_forward = prefix::forward(y: &mut [Self], x: &[Self], dims: PrefixDims);
    prefix_backward = prefix::backward(dx: &mut [Self], dy: &[Self], dims: PrefixDims);
    head_loss_forward = head_loss::forward(nll: &mut [f32], x: &Vec<Self>, head: &Vec<Self>, targets: &[i32], dims: HeadDims);
    head_loss_backward = head_loss::backward(
        nll: &mut [f32],
        dx: &mut [Self],
        dhead: &mut [f32],
        x: &Vec<Self>,
        head: &Vec<Self>,
        targets: &[i32],
        scale: f32,
        dims: HeadDims,
    );
}
