//! What is measured: the operations, products aside, of a training step of 8 sequences of 256 tokens, width 256, as in the project's bench.

use super::formats::formats;
use super::{Measurement, Work, measure, peak_flops, peak_flops_bf16};
use crate::dims::{AdamW, AttentionDims, DispatchDims, EmbeddingDims, HeadDims, RmsNormDims, RopeDims, RouteDims, SwigluDims};
use crate::formats::{Activation, Bf16, DataType};
use crate::{Cpu, Kernels, Rotation, Write};

/// Tokens per step.
pub(super) const TOKENS: usize = 2048;
/// Model width.
pub(super) const WIDTH: usize = 256;
/// Routed experts, experts per token and their width.
pub(super) const EXPERTS: usize = 16;
pub(super) const TOP_K: usize = 4;
pub(super) const EXPERT_WIDTH: usize = 128;
/// A buffer of varied values around zero.
pub fn values(cpu: &Cpu, len: usize) -> Vec<f32> {
    let mut buffer = cpu.zeros(len);
    for (index, value) in buffer.iter_mut().enumerate() {
        *value = ((index * 7919) % 1024) as f32 / 512.0 - 1.0;
    }
    buffer
}

/// As [`values`], in a type of activations.
fn activations<A: Activation>(cpu: &Cpu, len: usize) -> Vec<A> {
    values(cpu, len).into_iter().map(A::from_f32).collect()
}

/// What a measurement's name ends in.
const fn suffix<A: Activation>() -> &'static str {
    match A::DATA_TYPE {
        DataType::F32 => "",
        DataType::Bf16 => " bf16",
    }
}

/// Work that only moves memory.
fn moves(elements: usize) -> Work {
    Work {
        flops: 0.0,
        bytes: 4.0 * elements as f64,
    }
}

/// As [`moves`], of activations.
fn moves_of<A: Activation>(elements: usize) -> Work {
    Work {
        flops: 0.0,
        bytes: (size_of::<A>() * elements) as f64,
    }
}

/// The other operations.
#[must_use]
pub fn operations(cpu: &Cpu) -> Vec<Measurement> {
    let peak = peak_flops(cpu);
    let mut measurements = Vec::new();
    measurements.extend(attention::<f32>(cpu, peak));
    measurements.extend(attention::<Bf16>(cpu, peak_flops_bf16(cpu)));
    measurements.extend(head_loss(cpu, peak));
    measurements.extend(pointwise::<f32>(cpu, peak));
    measurements.extend(pointwise::<Bf16>(cpu, peak));
    measurements.extend(routing(cpu, peak));
    measurements.extend(moved_rows::<f32>(cpu, peak));
    measurements.extend(moved_rows::<Bf16>(cpu, peak));
    measurements.extend(memory(cpu, peak));
    measurements.extend(formats(cpu, peak));
    measurements
}

fn attention<A: Activation>(cpu: &Cpu, peak: f64) -> Vec<Measurement> {
    let mut measurements = Vec::new();
    for (sequences, length, heads, nope, rope, value) in [(8, 256, 4, 32, 16, 32), (1, 2048, 4, 32, 16, 32), (8, 512, 8, 64, 32, 64)] {
        let dims = AttentionDims {
            sequences,
            length,
            heads,
            nope,
            rope,
            value,
            kv_rank: 64,
            scale: 1.0 / ((nope + rope) as f32).sqrt(),
        };
        let rows = dims.rows();
        let (q, kv_up, kv_a) = (
            activations::<A>(cpu, rows * dims.q_width()),
            activations::<A>(cpu, rows * dims.kv_up_width()),
            activations::<A>(cpu, rows * dims.kv_a_width()),
        );
        let (mut o, mut lse) = (activations::<A>(cpu, rows * dims.o_width()), values(cpu, rows * dims.heads));
        let (mut dq, mut dkv_up, mut dkv_a) = (q.clone(), kv_up.clone(), kv_a.clone());
        let d_o = o.clone();
        // Causal: half of the length on average. Forward q k and p v; backward these and dv, dp, dq, dk: 2.5 times.
        let pairs = (sequences * dims.heads * length * (length + 1) / 2) as f64;
        let flops = 2.0 * pairs * (dims.nope + dims.rope + dims.value) as f64;
        let backward = 2.0 * pairs * (3 * (dims.nope + dims.rope) + 2 * dims.value) as f64;
        let bytes = size_of::<A>() as f64 * (q.len() + kv_up.len() + kv_a.len() + o.len()) as f64;
        let shape = format!("{sequences}x{length}x{heads} heads {nope}/{rope}/{value}{}", suffix::<A>());
        measurements.push(measure(format!("attention forward {shape}"), Work { flops, bytes }, peak, || {
            cpu.attention_forward(&mut o, &mut lse, &q, &kv_up, &kv_a, dims);
        }));
        measurements.push(measure(
            format!("attention backward {shape}"),
            Work {
                flops: backward,
                bytes: 2.0 * bytes,
            },
            peak,
            || {
                cpu.attention_backward(&mut dq, &mut dkv_up, &mut dkv_a, &d_o, &o, &lse, &q, &kv_up, &kv_a, dims);
            },
        ));
    }
    measurements
}

fn head_loss(cpu: &Cpu, peak: f64) -> [Measurement; 2] {
    let dims = HeadDims {
        rows: TOKENS,
        width: WIDTH,
        vocabulary: 4096,
    };
    let HeadDims { rows, width, vocabulary } = dims;
    let (x, head) = (values(cpu, rows * width), values(cpu, vocabulary * width));
    let (mut nll, mut dx, mut dhead) = (cpu.zeros(rows), x.clone(), head.clone());
    let targets: Vec<i32> = (0..rows).map(|row| (row * 31 % vocabulary) as i32).collect();
    let work = |times: f64| Work {
        flops: times * 2.0 * (rows * vocabulary * width) as f64,
        bytes: times * 4.0 * (rows * width + vocabulary * width + rows * vocabulary) as f64,
    };
    let shape = format!("{rows}x{width}x{vocabulary}");
    [
        measure(format!("head loss forward {shape}"), work(1.0), peak, || {
            cpu.head_loss_forward(&mut nll, &x, &head, &targets, dims);
        }),
        measure(format!("head loss backward {shape}"), work(3.0), peak, || {
            cpu.head_loss_backward(&mut nll, &mut dx, &mut dhead, &x, &head, &targets, 1e-3, dims);
        }),
    ]
}

fn pointwise<A: Activation>(cpu: &Cpu, peak: f64) -> Vec<Measurement> {
    let rows = TOKENS;
    let (x, dy, gain) = (
        activations::<A>(cpu, rows * WIDTH),
        activations::<A>(cpu, rows * WIDTH),
        values(cpu, WIDTH),
    );
    let (mut y, mut rstd, mut dgain) = (x.clone(), cpu.zeros(rows), gain.clone());
    let norm = RmsNormDims::dense(rows, WIDTH, 1e-6);
    let routed = SwigluDims {
        rows: TOKENS * TOP_K,
        width: EXPERT_WIDTH,
    };
    let slots: Vec<u32> = (0..routed.rows as u32).collect();
    let (gate_up, da) = (
        activations::<A>(cpu, routed.rows * 2 * routed.width),
        activations::<A>(cpu, routed.rows * routed.width),
    );
    let (mut a, mut dgate_up) = (da.clone(), gate_up.clone());
    let (weights, mut dweights) = (values(cpu, routed.rows), cpu.zeros(routed.rows));
    let rope = RopeDims {
        rows,
        length: 256,
        heads: 4,
        row_stride: 192,
        head_stride: 48,
        offset: 32,
        rotary: 16,
    };
    let (mut q, table) = (activations::<A>(cpu, rows * 192), values(cpu, 256 * 16));
    vec![
        measure(
            format!("rmsnorm forward {rows}x{WIDTH}{}", suffix::<A>()),
            moves_of::<A>(2 * x.len()),
            peak,
            || {
                cpu.rmsnorm_forward(&mut y, &mut rstd, &x, &gain, norm);
            },
        ),
        measure(
            format!("rmsnorm backward {rows}x{WIDTH}{}", suffix::<A>()),
            moves_of::<A>(3 * x.len()),
            peak,
            || {
                cpu.rmsnorm_backward(&mut y, &mut dgain, &dy, &x, &gain, &rstd, norm, Write::Overwrite);
            },
        ),
        measure(
            format!("swiglu forward {}x{EXPERT_WIDTH}{}", routed.rows, suffix::<A>()),
            moves_of::<A>(3 * a.len()),
            peak,
            || {
                cpu.swiglu_forward(&mut a, &gate_up, routed);
            },
        ),
        measure(
            format!("swiglu backward routed {}x{EXPERT_WIDTH}{}", routed.rows, suffix::<A>()),
            moves_of::<A>(7 * a.len()),
            peak,
            || {
                cpu.swiglu_backward_routed(&mut dgate_up, &mut a, &mut dweights, &da, &gate_up, &weights, &slots, routed);
            },
        ),
        measure(
            format!("rope {rows}x4x16{}", suffix::<A>()),
            moves_of::<A>(2 * rows * 4 * 16),
            peak,
            || {
                cpu.rope(&mut q, &table, rope, Rotation::Forward);
            },
        ),
    ]
}

fn routing(cpu: &Cpu, peak: f64) -> Vec<Measurement> {
    let dims = RouteDims {
        sequences: 8,
        length: TOKENS / 8,
        experts: EXPERTS,
        top_k: TOP_K,
        groups: 4,
        kept_groups: 2,
        normalise: true,
        scaling: 2.5,
        balance_unbiased: true,
    };
    let moved = DispatchDims {
        tokens: TOKENS,
        top_k: TOP_K,
        experts: EXPERTS,
        width: WIDTH,
    };
    let (logits, bias) = (values(cpu, TOKENS * EXPERTS), values(cpu, EXPERTS));
    let (mut scores, mut weights, mut counts) = (logits.clone(), values(cpu, moved.rows()), cpu.zeros(EXPERTS));
    let (mut indices, mut loss, mut frequency) = (cpu.zeros(moved.rows()), cpu.zeros(8), cpu.zeros(8 * EXPERTS));
    let (mut offsets, mut slot_of_row, mut row_of_slot) = (cpu.zeros(EXPERTS + 1), cpu.zeros(moved.rows()), cpu.zeros(moved.rows()));
    let mut dlogits = logits.clone();
    vec![
        measure(format!("route forward {TOKENS}x{EXPERTS}"), moves(2 * logits.len()), peak, || {
            cpu.route_forward(&mut scores, &mut indices, &mut weights, &mut counts, &logits, &bias, dims);
        }),
        measure(format!("balance forward {TOKENS}x{EXPERTS}"), moves(logits.len()), peak, || {
            cpu.balance_forward(&mut loss, &mut frequency, &scores, &indices, dims);
        }),
        measure(format!("route backward {TOKENS}x{EXPERTS}"), moves(2 * logits.len()), peak, || {
            cpu.route_backward(&mut dlogits, &weights, &scores, &indices, &frequency, 1e-4, dims);
        }),
        measure(format!("dispatch plan {}", moved.rows()), moves(3 * moved.rows()), peak, || {
            cpu.dispatch_plan(&mut offsets, &mut slot_of_row, &mut row_of_slot, &indices, moved);
        }),
    ]
}

/// Rows to experts and back, from the table, and sums.
fn moved_rows<A: Activation>(cpu: &Cpu, peak: f64) -> Vec<Measurement> {
    /// Elements of a sum: far more than the caches hold.
    const LONG: usize = 8 << 20;
    let moved = DispatchDims {
        tokens: TOKENS,
        top_k: TOP_K,
        experts: EXPERTS,
        width: WIDTH,
    };
    let embedding = EmbeddingDims {
        rows: TOKENS,
        width: WIDTH,
        vocabulary: 4096,
    };
    let (mut offsets, mut slot_of_row, mut row_of_slot) = (cpu.zeros(EXPERTS + 1), cpu.zeros(moved.rows()), cpu.zeros(moved.rows()));
    let indices: Vec<u32> = (0..moved.rows()).map(|slot| (slot * 7 % EXPERTS) as u32).collect();
    cpu.dispatch_plan(&mut offsets, &mut slot_of_row, &mut row_of_slot, &indices, moved);
    let weights = values(cpu, moved.rows());
    let (mut x, mut sent) = (activations::<A>(cpu, TOKENS * WIDTH), activations::<A>(cpu, moved.rows() * WIDTH));
    let tokens: Vec<u32> = (0..TOKENS).map(|row| (row * 31 % 4096) as u32).collect();
    let (table, mut dtable) = (activations::<A>(cpu, 4096 * WIDTH), values(cpu, 4096 * WIDTH));
    let (mut long, other) = (activations::<A>(cpu, LONG), activations::<A>(cpu, LONG));
    let tall = sent.len() + x.len();
    let rows = moved.rows();
    let name = |operation: &str| format!("{operation}{}", suffix::<A>());
    vec![
        measure(name(&format!("dispatch {rows}x{WIDTH}")), moves_of::<A>(tall), peak, || {
            cpu.dispatch(&mut sent, &x, &slot_of_row, moved);
        }),
        measure(
            name(&format!("combine {rows}x{WIDTH}")),
            moves_of::<A>(tall + x.len()),
            peak,
            || {
                cpu.combine(&mut x, &sent, &weights, &row_of_slot, moved);
            },
        ),
        measure(name(&format!("add {LONG}")), moves_of::<A>(3 * LONG), peak, || {
            cpu.add(&mut long, &other);
        }),
        measure(
            name(&format!("embedding forward {TOKENS}x{WIDTH}")),
            moves_of::<A>(2 * x.len()),
            peak,
            || {
                cpu.embedding_forward(&mut x, &table, &tokens, embedding);
            },
        ),
        measure(
            name(&format!("embedding backward {TOKENS}x{WIDTH}")),
            Work {
                flops: 0.0,
                bytes: moves(2 * x.len()).bytes + moves_of::<A>(x.len()).bytes,
            },
            peak,
            || {
                cpu.embedding_backward(&mut dtable, &x, &tokens, embedding);
            },
        ),
    ]
}

fn memory(cpu: &Cpu, peak: f64) -> Vec<Measurement> {
    /// About the parameters of the bench's model.
    const PARAMETERS: usize = 8 << 20;
    let (mut p, mut g) = (values(cpu, PARAMETERS), values(cpu, PARAMETERS));
    let mut rounded = cpu.zeros::<Bf16>(PARAMETERS);
    let (mut m, mut v) = (cpu.zeros::<f32>(PARAMETERS), cpu.zeros::<f32>(PARAMETERS));
    let (mut m_bf16, mut v_bf16) = (cpu.zeros::<Bf16>(PARAMETERS), cpu.zeros::<Bf16>(PARAMETERS));
    let step = AdamW {
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 1,
        gradient_scale: 1.0,
    };
    let mut total = 0.0;
    let measurements = vec![
        measure(format!("adamw {PARAMETERS}"), moves(8 * PARAMETERS), peak, || {
            cpu.adamw(&mut p, None, &mut m, &mut v, &mut g, step);
        }),
        measure(
            format!("adamw, moments and a copy in bf16, {PARAMETERS}"),
            moves(13 * PARAMETERS / 2),
            peak,
            || {
                cpu.adamw(&mut p, Some(&mut rounded), &mut m_bf16, &mut v_bf16, &mut g, step);
            },
        ),
        measure(format!("average {PARAMETERS}"), moves(3 * PARAMETERS), peak, || {
            cpu.average(&mut p, &g, 0.999);
        }),
        measure(format!("sum of squares {PARAMETERS}"), moves(PARAMETERS), peak, || {
            total += cpu.sum_squares(&g);
        }),
    ];
    std::hint::black_box(total);
    measurements
}
