//! Products of a training step: forward, gradient of the input and of the weight of each layer, plain and grouped, in every precision.

use super::cases::{EXPERT_WIDTH, EXPERTS, TOKENS, TOP_K, WIDTH, values};
use super::operands::{Held, Precision};
use super::{Measurement, Work, measure, peak_flops, peak_flops_bf16};
use crate::dims::{GroupedDims, LinearDims};
use crate::formats::{Activation, Bf16, Grouping};
use crate::{Cpu, Kernels, Write};

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

/// Experts of few rows, as in larger models: groups and rows of each.
const MANY_EXPERTS: (usize, usize) = (64, 48);

/// A square product, the linear layers, the experts.
#[must_use]
pub fn gemm(cpu: &Cpu) -> Vec<Measurement> {
    let (single, half) = (peak_flops(cpu), peak_flops_bf16(cpu));
    Precision::ALL
        .into_iter()
        .flat_map(|precision| match precision {
            Precision::F32 => of_precision::<f32>(cpu, precision, single),
            Precision::Bf16 | Precision::Fp8 => of_precision::<Bf16>(cpu, precision, half),
        })
        .collect()
}

fn of_precision<Y: Activation>(cpu: &Cpu, precision: Precision, peak: f64) -> Vec<Measurement> {
    let mut measurements = Vec::new();
    let squares = [(1024, 1024, 1024)];
    for (rows, input, output) in squares.into_iter().chain(LINEAR.map(|(input, output)| (TOKENS, input, output))) {
        measurements.extend(linear::<Y>(cpu, LinearDims { rows, input, output }, precision, peak));
    }
    let (groups, rows) = MANY_EXPERTS;
    for (rows, groups, input, output) in [
        (TOKENS * TOP_K, EXPERTS, WIDTH, 2 * EXPERT_WIDTH),
        (TOKENS * TOP_K, EXPERTS, EXPERT_WIDTH, WIDTH),
        (TOKENS, EXPERTS, WIDTH, 2 * EXPERT_WIDTH),
        (groups * rows, groups, WIDTH, 2 * EXPERT_WIDTH),
    ] {
        let dims = GroupedDims {
            rows,
            groups,
            input,
            output,
        };
        measurements.extend(grouped::<Y>(cpu, dims, precision, peak));
    }
    measurements
}

/// Work of a product: two operations per term; each operand and the output is moved once.
fn work((rows, input, output): (usize, usize, usize), operands: usize, outputs: f64, precision: Precision) -> Work {
    Work {
        flops: 2.0 * (rows * input * output) as f64,
        bytes: precision.operand_bytes() * operands as f64 + outputs,
    }
}

fn linear<Y: Activation>(cpu: &Cpu, dims: LinearDims, precision: Precision, peak: f64) -> [Measurement; 3] {
    let LinearDims { rows, input, output } = dims;
    let (x, w, dy) = (values(cpu, rows * input), values(cpu, output * input), values(cpu, rows * output));
    let hold = |x, size, grouping| Held::new(cpu, x, size, grouping, precision);
    let (x_row, x_column) = (hold(&x, (rows, input), Grouping::Row), hold(&x, (rows, input), Grouping::Column));
    let (dy_row, dy_column) = (
        hold(&dy, (rows, output), Grouping::Row),
        hold(&dy, (rows, output), Grouping::Column),
    );
    let w = hold(&w, (output, input), Grouping::Block);
    let (mut y, mut dx) = (cpu.zeros::<Y>(rows * output), cpu.zeros::<Y>(rows * input));
    let mut dw = cpu.zeros::<f32>(output * input);
    let size = (rows, input, output);
    let name = |pass: &str| format!("linear {pass} {precision} {rows}x{input}x{output}");
    let activations = |len: usize| precision.activation_bytes() * len as f64;
    [
        measure(
            name("forward"),
            work(size, x.len() + output * input, activations(dy.len()), precision),
            peak,
            || cpu.linear_forward(&mut y, x_row.matrix(), w.matrix(), dims, Write::Overwrite),
        ),
        measure(
            name("backward input"),
            work(size, dy.len() + output * input, activations(x.len()), precision),
            peak,
            || cpu.linear_backward_input(&mut dx, dy_row.matrix(), w.matrix(), dims, Write::Overwrite),
        ),
        measure(
            name("backward weight"),
            work(size, dy.len() + x.len(), 4.0 * (output * input) as f64, precision),
            peak,
            || cpu.linear_backward_weight(&mut dw, dy_column.matrix(), x_column.matrix(), dims),
        ),
    ]
}

fn grouped<Y: Activation>(cpu: &Cpu, dims: GroupedDims, precision: Precision, peak: f64) -> [Measurement; 3] {
    let GroupedDims {
        rows,
        groups,
        input,
        output,
    } = dims;
    let offsets: Vec<u32> = (0..=groups).map(|group| (rows * group / groups) as u32).collect();
    let (x, w, dy) = (
        values(cpu, rows * input),
        values(cpu, groups * output * input),
        values(cpu, rows * output),
    );
    let (x_row, dy_row) = (
        Held::new(cpu, &x, (rows, input), Grouping::Row, precision),
        Held::new(cpu, &dy, (rows, output), Grouping::Row, precision),
    );
    let (x_column, dy_column) = (
        Held::columns_of_groups(cpu, &x, input, &offsets, precision),
        Held::columns_of_groups(cpu, &dy, output, &offsets, precision),
    );
    let w_len = w.len();
    let w = Held::blocks_of_groups(cpu, &w, (output, input), precision);
    let (mut y, mut dx) = (cpu.zeros::<Y>(rows * output), cpu.zeros::<Y>(rows * input));
    let mut dw = cpu.zeros::<f32>(w_len);
    let size = (rows, input, output);
    let name = |pass: &str| format!("grouped {pass} {precision} {groups}x{}x{input}x{output}", rows / groups);
    let activations = |len: usize| precision.activation_bytes() * len as f64;
    [
        measure(
            name("forward"),
            work(size, x.len() + w_len, activations(dy.len()), precision),
            peak,
            || cpu.grouped_linear_forward(&mut y, x_row.matrix(), w.matrix(), &offsets, dims),
        ),
        measure(
            name("backward input"),
            work(size, dy.len() + w_len, activations(x.len()), precision),
            peak,
            || cpu.grouped_linear_backward_input(&mut dx, dy_row.matrix(), w.matrix(), &offsets, dims),
        ),
        measure(
            name("backward weight"),
            work(size, dy.len() + x.len(), 4.0 * w_len as f64, precision),
            peak,
            || cpu.grouped_linear_backward_weight(&mut dw, dy_column.matrix(), x_column.matrix(), &offsets, dims),
        ),
    ]
}
