//! Every operation as a function from a backend to its outputs, on data drawn from a seed. Outputs start with random contents, so what
//! an operation must add to, overwrite or leave alone is compared too.

use crate::draw::Draw;
use fathom_kernels::dims::*;
use fathom_kernels::formats::{Activation, DataType};
use fathom_kernels::{Element, Kernels, Reference, Rotation, Write};
use std::fmt::Debug;
use std::marker::PhantomData;

/// A named output; `length` terms were summed for each of its elements.
#[derive(Clone)]
pub struct Output {
    pub name: &'static str,
    pub values: Vec<f32>,
    pub length: usize,
    /// Type that the values are rounded to.
    pub rounded: DataType,
    /// Units in the last place of that type that two values may differ by.
    pub units: f64,
    /// Largest relative difference of roundings on the way, that of the sums aside.
    pub rounding: f64,
}

/// An operation on activations stored as `A`.
pub struct Of<A, O>(O, PhantomData<A>);

impl<A, O> Of<A, O> {
    pub fn new(operation: O) -> Self {
        Self(operation, PhantomData)
    }
}

impl<A: Activation, O: Debug> Of<A, O> {
    fn label(&self) -> String {
        format!("{:?} in {:?}", self.0, A::DATA_TYPE)
    }
}

/// An operation with its dimensions.
pub trait Operation {
    fn name(&self) -> String;
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output>;
}

pub fn up<K: Kernels, T: Element>(k: &K, values: &[T]) -> K::Buffer<T> {
    let mut buffer = k.zeros(values.len());
    k.upload(&mut buffer, 0, values);
    buffer
}

pub fn down<K: Kernels, T: Element>(k: &K, buffer: &K::Buffer<T>) -> Vec<T> {
    let mut values = vec![T::default(); k.len(buffer)];
    k.download(&mut values, buffer, 0);
    values
}

pub fn normal<K: Kernels>(k: &K, draw: &mut Draw, len: usize) -> K::Buffer<f32> {
    up(k, &draw.normal(len))
}

pub fn rounded<A: Activation>(values: &[f32]) -> Vec<A> {
    values.iter().map(|&value| A::from_f32(value)).collect()
}

/// Normal values, rounded to the type.
pub fn values<A: Activation>(draw: &mut Draw, len: usize) -> Vec<A> {
    rounded(&draw.normal(len))
}

pub fn drawn<A: Activation, K: Kernels>(k: &K, draw: &mut Draw, len: usize) -> K::Buffer<A> {
    up(k, &values::<A>(draw, len))
}

pub fn floats<K: Kernels>(k: &K, name: &'static str, buffer: &K::Buffer<f32>, length: usize) -> Output {
    stored::<f32, K>(k, name, buffer, length)
}

pub fn stored<A: Activation, K: Kernels>(k: &K, name: &'static str, buffer: &K::Buffer<A>, length: usize) -> Output {
    Output {
        name,
        values: down(k, buffer).into_iter().map(A::to_f32).collect(),
        length,
        rounded: A::DATA_TYPE,
        units: 1.0,
        rounding: 0.0,
    }
}

fn integers<K: Kernels>(k: &K, name: &'static str, buffer: &K::Buffer<u32>) -> Output {
    Output {
        name,
        values: down(k, buffer).into_iter().map(|value| value as f32).collect(),
        length: 0,
        rounded: DataType::F32,
        units: 0.0,
        rounding: 0.0,
    }
}

/// Buffers as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Memory(pub usize);

impl<A: Activation> Operation for Of<A, Memory> {
    fn name(&self) -> String {
        self.label()
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let Memory(len) = self.0;
        let (mut sum, x, mut copied) = (
            drawn::<A, K>(k, draw, len),
            drawn::<A, K>(k, draw, len),
            drawn::<A, K>(k, draw, len),
        );
        k.copy(&mut copied, &x);
        k.add(&mut sum, &x);
        let (mut filled, mut parts) = (drawn::<A, K>(k, draw, len), drawn::<A, K>(k, draw, len));
        k.fill(&mut filled, A::from_f32(2.5));
        let half = values::<A>(draw, len / 2);
        k.upload(&mut parts, len - half.len(), &half);
        let mut tail = vec![A::default(); len / 2];
        k.download(&mut tail, &parts, len - half.len());
        assert!(tail.iter().zip(&half).all(|(a, b)| a.to_f32() == b.to_f32()), "what was uploaded");
        let squares = k.sum_squares(&normal(k, draw, len)) as f32;
        vec![
            stored::<A, K>(k, "sum", &sum, 0),
            stored::<A, K>(k, "copied", &copied, 0),
            stored::<A, K>(k, "filled", &filled, 0),
            stored::<A, K>(k, "parts", &parts, 0),
            Output {
                name: "squares",
                values: vec![squares],
                length: 1,
                rounded: DataType::F32,
                units: 0.0,
                rounding: 0.0,
            },
        ]
    }
}

impl<A: Activation> Operation for Of<A, EmbeddingDims> {
    fn name(&self) -> String {
        self.label()
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let dims = self.0;
        let EmbeddingDims { rows, width, vocabulary } = dims;
        let tokens = up(k, &draw.tokens(rows, vocabulary));
        let (mut y, table) = (drawn::<A, K>(k, draw, rows * width + 3), drawn::<A, K>(k, draw, vocabulary * width));
        k.embedding_forward(&mut y, &table, &tokens, dims);
        let (dy, mut dtable) = (drawn::<A, K>(k, draw, rows * width), normal(k, draw, vocabulary * width));
        k.embedding_backward(&mut dtable, &dy, &tokens, dims);
        vec![stored::<A, K>(k, "y", &y, 0), floats(k, "dtable", &dtable, 0)]
    }
}

impl<A: Activation> Operation for Of<A, RmsNormDims> {
    fn name(&self) -> String {
        self.label()
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let dims = self.0;
        let RmsNormDims {
            rows,
            width,
            x: x_columns,
            y: y_columns,
            ..
        } = dims;
        let (x, gain) = (drawn::<A, K>(k, draw, rows * x_columns.stride), normal(k, draw, width));
        let (mut y, mut rstd) = (drawn::<A, K>(k, draw, rows * y_columns.stride), normal(k, draw, rows));
        k.rmsnorm_forward(&mut y, &mut rstd, &x, &gain, dims);
        let (dy, given) = (drawn::<A, K>(k, draw, rows * y_columns.stride), draw.normal(rows));
        let rstd_given = up(k, &given.iter().map(|x| 0.5 + x.abs()).collect::<Vec<_>>());
        let (mut dx, mut dgain) = (drawn::<A, K>(k, draw, rows * x_columns.stride), normal(k, draw, width));
        k.rmsnorm_backward(&mut dx, &mut dgain, &dy, &x, &gain, &rstd_given, dims, Write::Accumulate);
        let mut replaced = drawn::<A, K>(k, draw, rows * x_columns.stride);
        k.rmsnorm_backward(&mut replaced, &mut dgain, &dy, &x, &gain, &rstd_given, dims, Write::Overwrite);
        vec![
            stored::<A, K>(k, "y", &y, width),
            floats(k, "rstd", &rstd, width),
            stored::<A, K>(k, "dx", &dx, width),
            stored::<A, K>(k, "dx replaced", &replaced, width),
            floats(k, "dgain", &dgain, rows),
        ]
    }
}

impl<A: Activation> Operation for Of<A, RopeDims> {
    fn name(&self) -> String {
        self.label()
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let dims = self.0;
        let angles = draw.normal(dims.length * dims.rotary / 2);
        let table = up(k, &angles.iter().flat_map(|angle| [angle.cos(), angle.sin()]).collect::<Vec<_>>());
        let (mut forward, mut inverse) = (
            drawn::<A, K>(k, draw, dims.rows * dims.row_stride),
            drawn::<A, K>(k, draw, dims.rows * dims.row_stride),
        );
        k.rope(&mut forward, &table, dims, Rotation::Forward);
        k.rope(&mut inverse, &table, dims, Rotation::Inverse);
        vec![stored::<A, K>(k, "forward", &forward, 2), stored::<A, K>(k, "inverse", &inverse, 2)]
    }
}

impl<A: Activation> Operation for Of<A, AttentionDims> {
    fn name(&self) -> String {
        self.label()
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let dims = self.0;
        let rows = dims.rows();
        let (q, kv_up) = (
            values::<A>(draw, rows * dims.q_width()),
            values::<A>(draw, rows * dims.kv_up_width()),
        );
        let kv_a = values::<A>(draw, rows * dims.kv_a_width());
        // The backward pass of every backend gets the same output of the forward pass.
        let (mut o_given, mut lse_given) = (vec![A::default(); rows * dims.o_width()], vec![0.0; rows * dims.heads]);
        Reference::PAIRS.attention_forward(&mut o_given, &mut lse_given, &q, &kv_up, &kv_a, dims);
        let (q, kv_up, kv_a, o_given, lse_given) = (up(k, &q), up(k, &kv_up), up(k, &kv_a), up(k, &o_given), up(k, &lse_given));
        let (mut o, mut lse) = (drawn::<A, K>(k, draw, rows * dims.o_width()), normal(k, draw, rows * dims.heads));
        k.attention_forward(&mut o, &mut lse, &q, &kv_up, &kv_a, dims);
        let d_o = drawn::<A, K>(k, draw, rows * dims.o_width());
        let (mut dq, mut dkv_up) = (
            drawn::<A, K>(k, draw, rows * dims.q_width()),
            drawn::<A, K>(k, draw, rows * dims.kv_up_width()),
        );
        let mut dkv_a = drawn::<A, K>(k, draw, rows * dims.kv_a_width());
        k.attention_backward(
            &mut dq,
            &mut dkv_up,
            &mut dkv_a,
            &d_o,
            &o_given,
            &lse_given,
            &q,
            &kv_up,
            &kv_a,
            dims,
        );
        // A logit sums n + r products, a gradient also S of those.
        let (logit, gradient) = (dims.nope + dims.rope, (dims.nope + dims.rope) * dims.length);
        let product = |name, buffer: &K::Buffer<A>, length| Output {
            // P and dS are rounded as well, one way or the other, and weigh up to a few times an element's size.
            units: 4.0,
            ..stored::<A, K>(k, name, buffer, length)
        };
        vec![
            product("o", &o, logit + dims.length),
            floats(k, "lse", &lse, logit + dims.length),
            product("dq", &dq, gradient),
            product("dkv_up", &dkv_up, gradient),
            product("dkv_a", &dkv_a, gradient * dims.heads),
        ]
    }
}

impl<A: Activation> Operation for Of<A, SwigluDims> {
    fn name(&self) -> String {
        self.label()
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let dims = self.0;
        let SwigluDims { rows, width } = dims;
        // Wide enough that some sigmoids saturate.
        let gate_up = up(
            k,
            &rounded::<A>(&draw.normal(rows * 2 * width).iter().map(|x| 8.0 * x).collect::<Vec<_>>()),
        );
        let (mut a, da) = (drawn::<A, K>(k, draw, rows * width), drawn::<A, K>(k, draw, rows * width));
        k.swiglu_forward(&mut a, &gate_up, dims);
        let (forward, mut a) = (stored::<A, K>(k, "a", &a, 1), drawn::<A, K>(k, draw, rows * width));
        let mut plain = drawn::<A, K>(k, draw, rows * 2 * width);
        k.swiglu_backward(&mut plain, &da, &gate_up, dims);
        let mut slots: Vec<u32> = (0..rows as u32).collect();
        draw.shuffle(&mut slots);
        let (slots, weights) = (up(k, &slots), normal(k, draw, rows));
        let (mut routed, mut dweights) = (drawn::<A, K>(k, draw, rows * 2 * width), normal(k, draw, rows));
        k.swiglu_backward_routed(&mut routed, &mut a, &mut dweights, &da, &gate_up, &weights, &slots, dims);
        vec![
            forward,
            stored::<A, K>(k, "dgate_up", &plain, 1),
            stored::<A, K>(k, "routed dgate_up", &routed, 1),
            stored::<A, K>(k, "weighted a", &a, 1),
            floats(k, "dweights", &dweights, width),
        ]
    }
}

impl Operation for RouteDims {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let (rows, experts, top_k) = (self.rows(), self.experts, self.top_k);
        // Uneven logits and biases with gaps far above rounding, alone and in sums of two: near-ties may go either way.
        let logits: Vec<f32> = (0..rows)
            .flat_map(|_| {
                let mut row: Vec<f32> = (0..experts)
                    .map(|e| 3.0 * ((e as f32 + 0.5) / experts as f32).powf(1.37) - 1.5)
                    .collect();
                draw.shuffle(&mut row);
                row
            })
            .collect();
        let bias: Vec<f32> = (0..experts).map(|_| 0.371 * draw.below(3) as f32 - 0.4).collect();
        let (logits, bias) = (up(k, &logits), up(k, &bias));
        let (mut scores, mut weights) = (normal(k, draw, rows * experts), normal(k, draw, rows * top_k));
        let (mut indices, mut counts) = (k.zeros(rows * top_k), up(k, &draw.tokens(experts, 9)));
        k.route_forward(&mut scores, &mut indices, &mut weights, &mut counts, &logits, &bias, *self);
        let (mut loss, mut frequency) = (normal(k, draw, self.sequences), normal(k, draw, self.sequences * experts));
        k.balance_forward(&mut loss, &mut frequency, &scores, &indices, *self);
        let (mut dlogits, dweights) = (normal(k, draw, rows * experts), normal(k, draw, rows * top_k));
        k.route_backward(&mut dlogits, &dweights, &scores, &indices, &frequency, 0.75, *self);
        let mut moved = bias;
        for centered in [false, true] {
            k.update_bias(&mut moved, &counts, 0.001, centered);
        }
        // The terms that a gradient subtracts set its scale: with one expert, whose weight is constant, nothing else is left.
        let mut with_terms = floats(k, "dlogits", &dlogits, experts);
        with_terms.values.extend(down(k, &dweights));
        vec![
            floats(k, "scores", &scores, 1),
            integers(k, "indices", &indices),
            floats(k, "weights", &weights, top_k),
            integers(k, "counts", &counts),
            floats(k, "loss", &loss, self.length * experts),
            floats(k, "frequency", &frequency, 1),
            with_terms,
            floats(k, "bias", &moved, experts),
        ]
    }
}

impl<A: Activation> Operation for Of<A, DispatchDims> {
    fn name(&self) -> String {
        self.label()
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let dims = self.0;
        let DispatchDims {
            tokens,
            experts,
            width,
            top_k,
        } = dims;
        let rows = dims.rows();
        let indices = up(k, &draw.tokens(rows, experts));
        let (mut offsets, mut slot_of_row, mut row_of_slot) = (k.zeros(experts + 1), k.zeros(rows), k.zeros(rows));
        k.dispatch_plan(&mut offsets, &mut slot_of_row, &mut row_of_slot, &indices, dims);
        let (x, mut sent) = (drawn::<A, K>(k, draw, tokens * width), drawn::<A, K>(k, draw, rows * width));
        k.dispatch(&mut sent, &x, &slot_of_row, dims);
        let (weights, mut y, mut dx) = (
            normal(k, draw, rows),
            drawn::<A, K>(k, draw, tokens * width),
            drawn::<A, K>(k, draw, tokens * width),
        );
        k.combine(&mut y, &sent, &weights, &row_of_slot, dims);
        k.dispatch_backward(&mut dx, &sent, &row_of_slot, dims);
        vec![
            integers(k, "offsets", &offsets),
            integers(k, "slot_of_row", &slot_of_row),
            integers(k, "row_of_slot", &row_of_slot),
            stored::<A, K>(k, "sent", &sent, 0),
            stored::<A, K>(k, "y", &y, top_k),
            stored::<A, K>(k, "dx", &dx, top_k),
        ]
    }
}

impl<A: Activation> Operation for Of<A, PrefixDims> {
    fn name(&self) -> String {
        self.label()
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let dims = self.0;
        let (long, short) = (dims.sequences * dims.length * dims.width, dims.sequences * dims.prefix * dims.width);
        let (mut y, mut x) = (drawn::<A, K>(k, draw, short), drawn::<A, K>(k, draw, long));
        k.prefix_forward(&mut y, &x, dims);
        let dy = drawn::<A, K>(k, draw, short);
        k.prefix_backward(&mut x, &dy, dims);
        vec![stored::<A, K>(k, "y", &y, 0), stored::<A, K>(k, "dx", &x, 0)]
    }
}

/// A moving average of so many parameters.
#[derive(Debug)]
pub struct Average(pub usize);

impl Operation for Average {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let (mut average, parameter) = (normal(k, draw, self.0), normal(k, draw, self.0));
        k.average(&mut average, &parameter, 0.75);
        vec![floats(k, "average", &average, 1)]
    }
}

/// An optimizer step over so many parameters.
#[derive(Debug)]
pub struct Optimizer(pub usize);

impl Operation for Optimizer {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let (mut p, mut m) = (normal(k, draw, self.0), normal(k, draw, self.0));
        let mut v = up(k, &draw.normal(self.0).iter().map(|x| x * x).collect::<Vec<_>>());
        for step in [1, 1000] {
            let step = AdamW {
                learning_rate: 0.02,
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                weight_decay: 0.1,
                step,
                gradient_scale: 0.5,
            };
            let mut g = normal(k, draw, self.0);
            k.adamw(&mut p, None, &mut m, &mut v, &mut g, step);
        }
        vec![
            floats(k, "parameter", &p, 1),
            floats(k, "first moment", &m, 1),
            floats(k, "second moment", &v, 1),
        ]
    }
}
