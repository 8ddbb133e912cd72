//! What is measured: the products and operations of a training step of 8 sequences of 256 tokens, width 256, as in the project's bench.

use super::formats::formats;
use super::{Measurement, Work, measure, peak_flops};
use crate::dims::{
    AdamW, AttentionDims, DispatchDims, EmbeddingDims, GroupedDims, HeadDims, LinearDims, RmsNormDims, RopeDims, RouteDims, SwigluDims,
};
use crate::{Cpu, Kernels, Rotation, Write};

/// Tokens per step.
const TOKENS: usize = 2048;
/// Model width.
const WIDTH: usize = 256;
/// Routed experts, experts per token and their width.
const EXPERTS: usize = 16;
const TOP_K: usize = 4;
const EXPERT_WIDTH: usize = 128;
/// (K, N) of the linear layers.
const LINEAR: [(usize, usize); 8] = [
    (256, 96),
    (256, 80),
    (96, 192),
    (64, 256),
    (128, 256),
    (256, 1408),
    (704, 256),
    (256, 4096),
];

/// A buffer of varied values around zero.
pub fn values(cpu: &Cpu, len: usize) -> Vec<f32> {
    let mut buffer = cpu.zeros(len);
    for (index, value) in buffer.iter_mut().enumerate() {
        *value = ((index * 7919) % 1024) as f32 / 512.0 - 1.0;
    }
    buffer
}

/// Work of a product: two operations per term; each operand is moved once.
fn product_work(m: usize, n: usize, k: usize) -> Work {
    Work {
        flops: 2.0 * (m * n * k) as f64,
        bytes: 4.0 * (m * k + k * n + m * n) as f64,
    }
}

/// Work that only moves memory.
fn moves(elements: usize) -> Work {
    Work {
        flops: 0.0,
        bytes: 4.0 * elements as f64,
    }
}

/// Matrix products: a square one, then forward, input gradient and weight gradient of each layer, plain and grouped.
#[must_use]
pub fn gemm(cpu: &Cpu) -> Vec<Measurement> {
    let peak = peak_flops(cpu);
    let mut measurements = Vec::new();
    let squares = [(1024, 1024, 1024)];
    for (rows, input, output) in squares.into_iter().chain(LINEAR.map(|(input, output)| (TOKENS, input, output))) {
        measurements.extend(linear(cpu, LinearDims { rows, input, output }, peak));
    }
    for (input, output) in [(WIDTH, 2 * EXPERT_WIDTH), (EXPERT_WIDTH, WIDTH)] {
        measurements.extend(grouped(
            cpu,
            GroupedDims {
                rows: TOKENS * TOP_K,
                groups: EXPERTS,
                input,
                output,
            },
            peak,
        ));
    }
    measurements
}

fn linear(cpu: &Cpu, dims: LinearDims, peak: f64) -> [Measurement; 3] {
    let LinearDims { rows, input, output } = dims;
    let (mut x, mut w, mut y) = (values(cpu, rows * input), values(cpu, output * input), values(cpu, rows * output));
    let (work, name) = (product_work(rows, output, input), |pass: &str| {
        format!("linear {pass} {rows}x{input}x{output}")
    });
    [
        measure(name("forward"), work, peak, || {
            cpu.linear_forward(&mut y, &x, &w, dims, Write::Overwrite);
        }),
        measure(name("backward input"), work, peak, || {
            cpu.linear_backward_input(&mut x, &y, &w, dims, Write::Overwrite);
        }),
        measure(name("backward weight"), work, peak, || {
            cpu.linear_backward_weight(&mut w, &y, &x, dims);
        }),
    ]
}

fn grouped(cpu: &Cpu, dims: GroupedDims, peak: f64) -> [Measurement; 3] {
    let GroupedDims {
        rows,
        groups,
        input,
        output,
    } = dims;
    let (mut x, mut w, mut y) = (
        values(cpu, rows * input),
        values(cpu, groups * output * input),
        values(cpu, rows * output),
    );
    let mut work = product_work(rows, output, input);
    work.bytes += 4.0 * ((groups - 1) * input * output) as f64;
    let offsets: Vec<u32> = (0..=groups).map(|group| (rows * group / groups) as u32).collect();
    let name = |pass: &str| format!("grouped {pass} {groups}x{}x{input}x{output}", rows / groups);
    [
        measure(name("forward"), work, peak, || {
            cpu.grouped_linear_forward(&mut y, &x, &w, &offsets, dims);
        }),
        measure(name("backward input"), work, peak, || {
            cpu.grouped_linear_backward_input(&mut x, &y, &w, &offsets, dims);
        }),
        measure(name("backward weight"), work, peak, || {
            cpu.grouped_linear_backward_weight(&mut w, &y, &x, &offsets, dims);
        }),
    ]
}

/// The other operations.
#[must_use]
pub fn operations(cpu: &Cpu) -> Vec<Measurement> {
    let peak = peak_flops(cpu);
    let mut measurements = Vec::new();
    measurements.extend(attention(cpu, peak));
    measurements.extend(head_loss(cpu, peak));
    measurements.extend(pointwise(cpu, peak));
    measurements.extend(routing(cpu, peak));
    measurements.extend(memory(cpu, peak));
    measurements.extend(formats(cpu, peak));
    measurements
}

fn attention(cpu: &Cpu, peak: f64) -> Vec<Measurement> {
    let mut measurements = Vec::new();
    for (sequences, length) in [(8, 256), (1, 2048)] {
        let dims = AttentionDims {
            sequences,
            length,
            heads: 4,
            nope: 32,
            rope: 16,
            value: 32,
            kv_rank: 64,
            scale: 0.144,
        };
        let rows = dims.rows();
        let (q, kv_up, kv_a) = (
            values(cpu, rows * dims.q_width()),
            values(cpu, rows * dims.kv_up_width()),
            values(cpu, rows * dims.kv_a_width()),
        );
        let (mut o, mut lse) = (values(cpu, rows * dims.o_width()), values(cpu, rows * dims.heads));
        let (mut dq, mut dkv_up, mut dkv_a) = (q.clone(), kv_up.clone(), kv_a.clone());
        let d_o = o.clone();
        // Causal: half of the length on average. Forward q k and p v; backward these and dv, dp, dq, dk: 2.5 times.
        let pairs = (sequences * dims.heads * length * (length + 1) / 2) as f64;
        let flops = 2.0 * pairs * (dims.nope + dims.rope + dims.value) as f64;
        let backward = 2.0 * pairs * (3 * (dims.nope + dims.rope) + 2 * dims.value) as f64;
        let bytes = 4.0 * (q.len() + kv_up.len() + kv_a.len() + o.len()) as f64;
        let shape = format!("{sequences}x{length}x4 heads 32/16/32");
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
    let product = product_work(rows, vocabulary, width);
    let work = |times: f64| Work {
        flops: times * product.flops,
        bytes: times * product.bytes,
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

fn pointwise(cpu: &Cpu, peak: f64) -> Vec<Measurement> {
    let rows = TOKENS;
    let (x, dy, gain) = (values(cpu, rows * WIDTH), values(cpu, rows * WIDTH), values(cpu, WIDTH));
    let (mut y, mut rstd, mut dgain) = (x.clone(), cpu.zeros(rows), gain.clone());
    let norm = RmsNormDims::dense(rows, WIDTH, 1e-6);
    let routed = SwigluDims {
        rows: TOKENS * TOP_K,
        width: EXPERT_WIDTH,
    };
    let slots: Vec<u32> = (0..routed.rows as u32).collect();
    let (gate_up, da) = (values(cpu, routed.rows * 2 * routed.width), values(cpu, routed.rows * routed.width));
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
    let (mut q, table) = (values(cpu, rows * 192), values(cpu, 256 * 16));
    vec![
        measure(format!("rmsnorm forward {rows}x{WIDTH}"), moves(2 * x.len()), peak, || {
            cpu.rmsnorm_forward(&mut y, &mut rstd, &x, &gain, norm);
        }),
        measure(format!("rmsnorm backward {rows}x{WIDTH}"), moves(3 * x.len()), peak, || {
            cpu.rmsnorm_backward(&mut y, &mut dgain, &dy, &x, &gain, &rstd, norm, Write::Overwrite);
        }),
        measure(
            format!("swiglu forward {}x{EXPERT_WIDTH}", routed.rows),
            moves(3 * a.len()),
            peak,
            || {
                cpu.swiglu_forward(&mut a, &gate_up, routed);
            },
        ),
        measure(
            format!("swiglu backward routed {}x{EXPERT_WIDTH}", routed.rows),
            moves(7 * a.len()),
            peak,
            || {
                cpu.swiglu_backward_routed(&mut dgate_up, &mut a, &mut dweights, &da, &gate_up, &weights, &slots, routed);
            },
        ),
        measure(format!("rope {rows}x4x16"), moves(2 * rows * 4 * 16), peak, || {
            cpu.rope(&mut q, &table, rope, Rotation::Forward);
        }),
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
    let (mut x, mut sent, mut dlogits) = (values(cpu, TOKENS * WIDTH), values(cpu, moved.rows() * WIDTH), logits.clone());
    let tall = sent.len() + x.len();
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
        measure(format!("dispatch {}x{WIDTH}", moved.rows()), moves(tall), peak, || {
            cpu.dispatch(&mut sent, &x, &slot_of_row, moved);
        }),
        measure(format!("combine {}x{WIDTH}", moved.rows()), moves(tall), peak, || {
            cpu.combine(&mut x, &sent, &weights, &row_of_slot, moved);
        }),
    ]
}

fn memory(cpu: &Cpu, peak: f64) -> Vec<Measurement> {
    /// About the parameters of the bench's model.
    const PARAMETERS: usize = 8 << 20;
    let (mut p, mut m, mut v, g) = (
        values(cpu, PARAMETERS),
        cpu.zeros(PARAMETERS),
        cpu.zeros(PARAMETERS),
        values(cpu, PARAMETERS),
    );
    let step = AdamW {
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 1,
        gradient_scale: 1.0,
    };
    let embedding = EmbeddingDims {
        rows: TOKENS,
        width: WIDTH,
        vocabulary: 4096,
    };
    let tokens: Vec<u32> = (0..TOKENS).map(|row| (row * 31 % 4096) as u32).collect();
    let (mut table, mut y) = (values(cpu, 4096 * WIDTH), values(cpu, TOKENS * WIDTH));
    let mut total = 0.0;
    let measurements = vec![
        measure(format!("adamw {PARAMETERS}"), moves(7 * PARAMETERS), peak, || {
            cpu.adamw(&mut p, &mut m, &mut v, &g, step);
        }),
        measure(format!("sum of squares {PARAMETERS}"), moves(PARAMETERS), peak, || {
            total += cpu.sum_squares(&g);
        }),
        measure(format!("add {PARAMETERS}"), moves(3 * PARAMETERS), peak, || cpu.add(&mut p, &g)),
        measure(format!("embedding forward {TOKENS}x{WIDTH}"), moves(2 * y.len()), peak, || {
            cpu.embedding_forward(&mut y, &table, &tokens, embedding);
        }),
        measure(format!("embedding backward {TOKENS}x{WIDTH}"), moves(3 * y.len()), peak, || {
            cpu.embedding_backward(&mut table, &y, &tokens, embedding);
        }),
    ];
    std::hint::black_box(total);
    measurements
}
