//! Every operation as a function from a backend to its outputs, on data drawn from a seed. Outputs start with random contents, so what
//! an operation must add to, overwrite or leave alone is compared too.

use crate::draw::Draw;
use fathom_kernels::dims::*;
use fathom_kernels::{Element, IGNORE, Kernels, Rotation, Write};

/// A named output; `length` terms were summed for each of its elements.
pub struct Output {
    pub name: &'static str,
    pub values: Vec<f32>,
    pub length: usize,
}

/// An operation with its dimensions.
pub trait Operation {
    fn name(&self) -> String;
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output>;
}

fn up<K: Kernels, T: Element>(k: &K, values: &[T]) -> K::Buffer<T> {
    let mut buffer = k.zeros(values.len());
    k.upload(&mut buffer, 0, values);
    buffer
}

fn down<K: Kernels, T: Element>(k: &K, buffer: &K::Buffer<T>) -> Vec<T> {
    let mut values = vec![T::default(); k.len(buffer)];
    k.download(&mut values, buffer, 0);
    values
}

fn normal<K: Kernels>(k: &K, draw: &mut Draw, len: usize) -> K::Buffer<f32> {
    up(k, &draw.normal(len))
}

fn floats<K: Kernels>(k: &K, name: &'static str, buffer: &K::Buffer<f32>, length: usize) -> Output {
    Output {
        name,
        values: down(k, buffer),
        length,
    }
}

fn integers<K: Kernels>(k: &K, name: &'static str, buffer: &K::Buffer<u32>) -> Output {
    Output {
        name,
        values: down(k, buffer).into_iter().map(|value| value as f32).collect(),
        length: 0,
    }
}

/// Buffers as a whole.
#[derive(Debug)]
pub struct Memory(pub usize);

impl Operation for Memory {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let len = self.0;
        let (mut sum, x, mut copied) = (normal(k, draw, len), normal(k, draw, len), normal(k, draw, len));
        k.copy(&mut copied, &x);
        k.add(&mut sum, &x);
        let (mut filled, mut parts) = (normal(k, draw, len), normal(k, draw, len));
        k.fill(&mut filled, 2.5);
        let half = draw.normal(len / 2);
        k.upload(&mut parts, len - half.len(), &half);
        let mut tail = vec![0.0; len / 2];
        k.download(&mut tail, &parts, len - half.len());
        assert_eq!(tail, half);
        let squares = k.sum_squares(&x) as f32;
        vec![
            floats(k, "sum", &sum, 0),
            floats(k, "copied", &copied, 0),
            floats(k, "filled", &filled, 0),
            floats(k, "parts", &parts, 0),
            Output {
                name: "squares",
                values: vec![squares],
                length: 1,
            },
        ]
    }
}

impl Operation for EmbeddingDims {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let Self { rows, width, vocabulary } = *self;
        let tokens = up(k, &draw.tokens(rows, vocabulary));
        let (mut y, mut table) = (normal(k, draw, rows * width + 3), normal(k, draw, vocabulary * width));
        k.embedding_forward(&mut y, &table, &tokens, *self);
        let dy = normal(k, draw, rows * width);
        k.embedding_backward(&mut table, &dy, &tokens, *self);
        vec![floats(k, "y", &y, 0), floats(k, "dtable", &table, 0)]
    }
}

impl Operation for RmsNormDims {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let Self {
            rows,
            width,
            x: x_columns,
            y: y_columns,
            ..
        } = *self;
        let (x, gain) = (normal(k, draw, rows * x_columns.stride), normal(k, draw, width));
        let (mut y, mut rstd) = (normal(k, draw, rows * y_columns.stride), normal(k, draw, rows));
        k.rmsnorm_forward(&mut y, &mut rstd, &x, &gain, *self);
        let (dy, given) = (normal(k, draw, rows * y_columns.stride), draw.normal(rows));
        let rstd_given = up(k, &given.iter().map(|x| 0.5 + x.abs()).collect::<Vec<_>>());
        let (mut dx, mut dgain) = (normal(k, draw, rows * x_columns.stride), normal(k, draw, width));
        k.rmsnorm_backward(&mut dx, &mut dgain, &dy, &x, &gain, &rstd_given, *self, Write::Accumulate);
        let mut replaced = normal(k, draw, rows * x_columns.stride);
        k.rmsnorm_backward(&mut replaced, &mut dgain, &dy, &x, &gain, &rstd_given, *self, Write::Overwrite);
        vec![
            floats(k, "y", &y, width),
            floats(k, "rstd", &rstd, width),
            floats(k, "dx", &dx, width),
            floats(k, "dx replaced", &replaced, width),
            floats(k, "dgain", &dgain, rows),
        ]
    }
}

impl Operation for LinearDims {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let Self { rows, input, output } = *self;
        let (x, w, dy) = (
            normal(k, draw, rows * input),
            normal(k, draw, output * input),
            normal(k, draw, rows * output),
        );
        let mut outputs = Vec::new();
        for write in [Write::Overwrite, Write::Accumulate] {
            let (mut y, mut dx) = (normal(k, draw, rows * output), normal(k, draw, rows * input));
            k.linear_forward(&mut y, &x, &w, *self, write);
            k.linear_backward_input(&mut dx, &dy, &w, *self, write);
            outputs.extend([floats(k, "y", &y, input), floats(k, "dx", &dx, output)]);
        }
        let mut dw = normal(k, draw, output * input);
        k.linear_backward_weight(&mut dw, &dy, &x, *self);
        outputs.push(floats(k, "dw", &dw, rows));
        outputs
    }
}

impl Operation for GroupedDims {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let Self {
            rows,
            groups,
            input,
            output,
        } = *self;
        let offsets = up(k, &draw.offsets(rows, groups));
        let (x, w, dy) = (
            normal(k, draw, rows * input),
            normal(k, draw, groups * output * input),
            normal(k, draw, rows * output),
        );
        let (mut y, mut dx) = (normal(k, draw, rows * output), normal(k, draw, rows * input));
        let mut dw = normal(k, draw, groups * output * input);
        k.grouped_linear_forward(&mut y, &x, &w, &offsets, *self);
        k.grouped_linear_backward_input(&mut dx, &dy, &w, &offsets, *self);
        k.grouped_linear_backward_weight(&mut dw, &dy, &x, &offsets, *self);
        vec![floats(k, "y", &y, input), floats(k, "dx", &dx, output), floats(k, "dw", &dw, rows)]
    }
}

impl Operation for RopeDims {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let angles = draw.normal(self.length * self.rotary / 2);
        let table = up(k, &angles.iter().flat_map(|angle| [angle.cos(), angle.sin()]).collect::<Vec<_>>());
        let (mut forward, mut inverse) = (
            normal(k, draw, self.rows * self.row_stride),
            normal(k, draw, self.rows * self.row_stride),
        );
        k.rope(&mut forward, &table, *self, Rotation::Forward);
        k.rope(&mut inverse, &table, *self, Rotation::Inverse);
        vec![floats(k, "forward", &forward, 2), floats(k, "inverse", &inverse, 2)]
    }
}

impl Operation for AttentionDims {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let rows = self.rows();
        let (q, kv_up) = (normal(k, draw, rows * self.q_width()), normal(k, draw, rows * self.kv_up_width()));
        let kv_a = normal(k, draw, rows * self.kv_a_width());
        let (mut o, mut lse) = (normal(k, draw, rows * self.o_width()), normal(k, draw, rows * self.heads));
        k.attention_forward(&mut o, &mut lse, &q, &kv_up, &kv_a, *self);
        let d_o = normal(k, draw, rows * self.o_width());
        let (mut dq, mut dkv_up) = (normal(k, draw, rows * self.q_width()), normal(k, draw, rows * self.kv_up_width()));
        let mut dkv_a = normal(k, draw, rows * self.kv_a_width());
        k.attention_backward(&mut dq, &mut dkv_up, &mut dkv_a, &d_o, &o, &lse, &q, &kv_up, &kv_a, *self);
        // A logit sums n + r products, a gradient also S of those.
        let (logit, gradient) = (self.nope + self.rope, (self.nope + self.rope) * self.length);
        vec![
            floats(k, "o", &o, logit + self.length),
            floats(k, "lse", &lse, logit + self.length),
            floats(k, "dq", &dq, gradient),
            floats(k, "dkv_up", &dkv_up, gradient),
            floats(k, "dkv_a", &dkv_a, gradient * self.heads),
        ]
    }
}

impl Operation for SwigluDims {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let Self { rows, width } = *self;
        // Wide enough that some sigmoids saturate.
        let gate_up = up(k, &draw.normal(rows * 2 * width).iter().map(|x| 8.0 * x).collect::<Vec<_>>());
        let (mut a, da) = (normal(k, draw, rows * width), normal(k, draw, rows * width));
        k.swiglu_forward(&mut a, &gate_up, *self);
        let forward = floats(k, "a", &a, 1);
        let mut plain = normal(k, draw, rows * 2 * width);
        k.swiglu_backward(&mut plain, &da, &gate_up, *self);
        let mut slots: Vec<u32> = (0..rows as u32).collect();
        draw.shuffle(&mut slots);
        let (slots, weights) = (up(k, &slots), normal(k, draw, rows));
        let (mut routed, mut dweights) = (normal(k, draw, rows * 2 * width), normal(k, draw, rows));
        k.swiglu_backward_routed(&mut routed, &mut a, &mut dweights, &da, &gate_up, &weights, &slots, *self);
        vec![
            forward,
            floats(k, "dgate_up", &plain, 1),
            floats(k, "routed dgate_up", &routed, 1),
            floats(k, "weighted a", &a, 1),
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

impl Operation for DispatchDims {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let Self {
            tokens,
            experts,
            width,
            top_k,
        } = *self;
        let rows = self.rows();
        let indices = up(k, &draw.tokens(rows, experts));
        let (mut offsets, mut slot_of_row, mut row_of_slot) = (k.zeros(experts + 1), k.zeros(rows), k.zeros(rows));
        k.dispatch_plan(&mut offsets, &mut slot_of_row, &mut row_of_slot, &indices, *self);
        let (x, mut sent) = (normal(k, draw, tokens * width), normal(k, draw, rows * width));
        k.dispatch(&mut sent, &x, &slot_of_row, *self);
        let (weights, mut y, mut dx) = (
            normal(k, draw, rows),
            normal(k, draw, tokens * width),
            normal(k, draw, tokens * width),
        );
        k.combine(&mut y, &sent, &weights, &row_of_slot, *self);
        k.dispatch_backward(&mut dx, &sent, &row_of_slot, *self);
        vec![
            integers(k, "offsets", &offsets),
            integers(k, "slot_of_row", &slot_of_row),
            integers(k, "row_of_slot", &row_of_slot),
            floats(k, "sent", &sent, 0),
            floats(k, "y", &y, top_k),
            floats(k, "dx", &dx, top_k),
        ]
    }
}

impl Operation for PrefixDims {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let (long, short) = (self.sequences * self.length * self.width, self.sequences * self.prefix * self.width);
        let (mut y, mut x) = (normal(k, draw, short), normal(k, draw, long));
        k.prefix_forward(&mut y, &x, *self);
        let dy = normal(k, draw, short);
        k.prefix_backward(&mut x, &dy, *self);
        vec![floats(k, "y", &y, 0), floats(k, "dx", &x, 0)]
    }
}

impl Operation for HeadDims {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let Self { rows, width, vocabulary } = *self;
        let (x, head) = (normal(k, draw, rows * width), normal(k, draw, vocabulary * width));
        let targets: Vec<i32> = (0..rows)
            .map(|_| {
                if draw.below(5) == 0 {
                    IGNORE
                } else {
                    draw.below(vocabulary) as i32
                }
            })
            .collect();
        let targets = up(k, &targets);
        let (mut forward, mut nll) = (normal(k, draw, rows), normal(k, draw, rows));
        k.head_loss_forward(&mut forward, &x, &head, &targets, *self);
        let (mut dx, mut dhead) = (normal(k, draw, rows * width), normal(k, draw, vocabulary * width));
        k.head_loss_backward(&mut nll, &mut dx, &mut dhead, &x, &head, &targets, 0.25, *self);
        vec![
            floats(k, "nll forward", &forward, width + vocabulary),
            floats(k, "nll", &nll, width + vocabulary),
            floats(k, "dx", &dx, width * vocabulary),
            floats(k, "dhead", &dhead, width * rows),
        ]
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
        let (mut p, mut m, g) = (normal(k, draw, self.0), normal(k, draw, self.0), normal(k, draw, self.0));
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
            k.adamw(&mut p, &mut m, &mut v, &g, step);
        }
        vec![
            floats(k, "parameter", &p, 1),
            floats(k, "first moment", &m, 1),
            floats(k, "second moment", &v, 1),
        ]
    }
}
