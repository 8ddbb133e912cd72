//! Counts and costs against published and independently checked figures.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fathom_spec::architecture::Architecture;
use fathom_spec::cost::{Throughput, deepseek_v3, training_costs, workload};
use fathom_spec::manifest::{Precision, Preset};
use fathom_spec::memory::{ActivationPolicy, CpuTraining, DualPipe, Layer, activation_bytes_per_token, cpu_memory, dualpipe_memory};
use fathom_spec::size::{
    attention_parameters, dense_parameters, expert_parameters, flops_per_token, matrix_parameters, moe_parameters, mtp_matrix_parameters,
    parameters, routing_biases,
};

const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;

fn v3() -> Architecture {
    Preset::V3.architecture()
}

/// Rounds to a number of decimals, to compare with printed figures.
fn round(value: f64, decimals: i32) -> f64 {
    let scale = 10f64.powi(decimals);
    (value * scale).round() / scale
}

#[test]
fn parameters_of_deepseek_v3() {
    let a = v3();
    assert_eq!(attention_parameters(&a), 187_107_328);
    assert_eq!(dense_parameters(&a), 396_361_728);
    assert_eq!(expert_parameters(&a), 44_040_192);
    assert_eq!(moe_parameters(&a), 11_320_164_352);
    let counts = parameters(&a);
    assert_eq!(counts.total, 671_026_404_352);
    assert_eq!(counts.total + routing_biases(&a).main, 671_026_419_200);
    assert_eq!(counts.mtp, 11_610_067_968);
    assert_eq!(counts.total + counts.mtp, 682_636_472_320);
    let biases = routing_biases(&a);
    assert_eq!(counts.total + counts.mtp + biases.main + biases.mtp, 682_636_487_424);
    // The stored figure counts the biases, which the release keeps in FP32 beside the weights.
    assert_eq!(counts.stored + biases.main + biases.mtp, 684_489_845_504);
    assert_eq!(counts.active, 37_552_282_624);
    assert_eq!(counts.active_without_embedding, 36_625_603_584);
    assert_eq!(counts.mtp_active, 688_100_352);
    assert_eq!(counts.mtp_active_with_shared, 2_541_458_432);
}

#[test]
fn parameters_of_the_proxy_ladder() {
    let ladder = [
        (Preset::Unit, 191_416, 142_264, 71_656),
        (Preset::Nano, 7_969_664, 4_430_720, 1_920_416),
        (Preset::Small, 133_099_008, 56_028_672, 14_322_560),
        (Preset::Proxy1b, 1_446_745_088, 477_860_864, 108_402_688),
        (Preset::V2Lite, 15_752_904_448, 2_707_570_432, 590_884_096),
        (Preset::V3, 671_026_404_352, 37_552_282_624, 11_610_067_968),
    ];
    for (preset, total, active, mtp) in ladder {
        let counts = parameters(&preset.architecture());
        assert_eq!((counts.total, counts.active, counts.mtp), (total, active, mtp), "{}", preset.name());
    }
}

/// DeepSeek-V2 and V2-Lite have the same layers, with other sizes; V2-Lite has no query latent.
#[test]
fn parameters_of_deepseek_v2() {
    let v2 = Architecture {
        vocab_size: 102_400,
        hidden_size: 5120,
        intermediate_size: 12_288,
        moe_intermediate_size: 1536,
        num_hidden_layers: 60,
        n_shared_experts: 2,
        n_routed_experts: 160,
        num_experts_per_tok: 6,
        first_k_dense_replace: 1,
        ..v3()
    };
    assert_eq!(parameters(&v2).total, 235_741_434_880);
    let lite = Architecture {
        hidden_size: 2048,
        intermediate_size: 10_944,
        moe_intermediate_size: 1408,
        num_hidden_layers: 27,
        num_attention_heads: 16,
        n_routed_experts: 64,
        q_lora_rank: None,
        ..v2
    };
    assert_eq!(parameters(&lite).total, 15_706_484_224);
}

#[test]
fn flops_of_deepseek_v3() {
    let a = v3();
    assert_eq!(matrix_parameters(&a), 36_624_596_992);
    assert_eq!(mtp_matrix_parameters(&a), 1_614_741_504);
    let flops = flops_per_token(&a, 4096);
    let giga = |value: f64| round(value / 1e9, 2);
    assert_eq!(giga(flops.forward()), 83.49);
    assert_eq!(giga(flops.training()), 250.46);
    assert_eq!(giga(flops.mtp_training()), 10.19);
    assert_eq!(giga(flops.training_with_mtp()), 260.65);
    assert_eq!(giga(flops.training_not_causal(4096)), 281.15);
}

#[test]
fn flops_of_the_proxy_ladder() {
    let ladder = [
        (Preset::Unit, 0.80, 0.39, 2),
        (Preset::Nano, 21.3, 11.0, 1),
        (Preset::Small, 267.0, 124.0, 0),
        (Preset::Proxy1b, 2450.0, 948.0, 0),
        (Preset::V2Lite, 16_355.0, 2186.0, 0),
    ];
    for (preset, training, mtp, decimals) in ladder {
        let flops = flops_per_token(&preset.architecture(), preset.sequence_length());
        let mega = |value: f64| round(value / 1e6, decimals);
        assert_eq!(
            (mega(flops.training()), mega(flops.mtp_training())),
            (training, mtp),
            "{}",
            preset.name()
        );
    }
}

#[test]
fn activation_bytes_of_deepseek_v3() {
    let a = v3();
    let fp8 = |scale_bytes, keep_received| ActivationPolicy::Fp8 {
        scale_bytes,
        keep_received,
    };
    let plain = ActivationPolicy::Plain { value_bytes: 2 };
    let table = [
        (Layer::Moe, fp8(4, true), 156_736.0),
        (Layer::Moe, fp8(1, true), 154_144.0),
        (Layer::Moe, fp8(4, false), 97_600.0),
        (Layer::Moe, fp8(1, false), 96_352.0),
        (Layer::Dense, fp8(4, true), 96_512.0),
        (Layer::Dense, fp8(1, true), 95_264.0),
        (Layer::Moe, plain, 571_008.0),
    ];
    for (layer, policy, bytes) in table {
        assert_eq!(activation_bytes_per_token(&a, layer, policy), bytes, "{layer:?} {policy:?}");
    }
    let micro_batch = |policy| round(4096.0 * activation_bytes_per_token(&a, Layer::Moe, policy) / MIB, 0);
    assert_eq!(micro_batch(fp8(4, true)), 612.0);
    assert_eq!(micro_batch(fp8(4, false)), 381.0);
    assert_eq!(micro_batch(plain), 2231.0, "2,230.5 MiB");
}

#[test]
fn dualpipe_memory_of_deepseek_v3() {
    let a = v3();
    let layout = DualPipe {
        pipeline: 16,
        expert: 64,
        data: 128,
        layers_per_stage: 4,
        mirror_sharding: false,
    };
    let fp8 = |keep_received| ActivationPolicy::Fp8 {
        scale_bytes: 4,
        keep_received,
    };
    let memory = dualpipe_memory(&a, layout, 4096, fp8(true));
    assert_eq!(round(memory.dense_parameters as f64 / 1e9, 3), 1.864);
    assert_eq!(round(memory.expert_parameters as f64 / 1e9, 3), 1.409);
    assert_eq!(round(memory.weights / GIB, 1), 6.1);
    assert_eq!(round(memory.gradients / GIB, 1), 12.2);
    assert_eq!(round(memory.optimizer / GIB, 1), 5.4);
    assert_eq!(round(memory.activations / GIB, 1), 40.7);
    let again = dualpipe_memory(&a, layout, 4096, fp8(false));
    assert_eq!(round(again.activations / GIB, 1), 25.3);
    let plain = dualpipe_memory(&a, layout, 4096, ActivationPolicy::Plain { value_bytes: 2 });
    assert_eq!(round(plain.activations / GIB, 0), 148.0);
    let mirrored = DualPipe {
        mirror_sharding: true,
        ..layout
    };
    let memory = dualpipe_memory(&a, mirrored, 4096, fp8(true));
    assert_eq!(round(memory.optimizer / GIB, 1), 2.7);
}

#[test]
fn cpu_memory_counts_bytes_per_parameter_and_token() {
    let a = Preset::Nano.architecture();
    let parameters = 7_969_664 + 1_920_416;
    // Master, gradient and two moments; in `bf16` the moments are half as long, and products read a copy.
    for (precision, bytes) in [(Precision::F32, 16), (Precision::Bf16, 14)] {
        let memory = cpu_memory(&a, precision, CpuTraining::new(256, 8));
        assert_eq!(memory.weights + memory.gradients + memory.moments, bytes * parameters);
        // Activations grow with the tokens of a micro-batch, the rest does not.
        let twice = cpu_memory(&a, precision, CpuTraining::new(256, 16));
        assert_eq!(twice.activations, 2 * memory.activations);
        assert_eq!(twice.total() - memory.total(), memory.activations + memory.scratch);
        // The average is FP32 in every precision, and nothing else comes with it.
        let averaged = cpu_memory(
            &a,
            precision,
            CpuTraining {
                ema: true,
                ..CpuTraining::new(256, 8)
            },
        );
        assert_eq!((memory.average, averaged.average), (0, 4 * parameters));
        assert_eq!(averaged.total() - memory.total(), 4 * parameters);
        // As many gradients wait as the tree of micro-batches is deep.
        for (micro_batches, waiting) in [(1, 0), (2, 1), (3, 1), (4, 2), (7, 2), (8, 3)] {
            let more = CpuTraining {
                micro_batches,
                ..CpuTraining::new(256, 8)
            };
            assert_eq!(cpu_memory(&a, precision, more).total() - memory.total(), waiting * 4 * parameters);
        }
    }
    let [f32, bf16, fp8] =
        [Precision::F32, Precision::Bf16, Precision::Fp8].map(|precision| cpu_memory(&a, precision, CpuTraining::new(256, 8)));
    assert!(bf16.activations < f32.activations * 6 / 10 && fp8.activations < bf16.activations / 2);
}

/// Table 1 of the paper, to the last printed digit, from operations and two rates.
#[test]
fn costs_of_deepseek_v3() {
    let costs = training_costs(
        &v3(),
        &Throughput::H800,
        &deepseek_v3::PRETRAINING,
        &deepseek_v3::EXTENSION,
        &deepseek_v3::POST_TRAINING,
    );
    let thousands = |hours: f64| round(hours / 1e3, 0);
    assert_eq!(thousands(costs.pretraining.device_hours), 2664.0);
    assert_eq!(thousands(costs.extension.device_hours), 119.0);
    assert_eq!(thousands(costs.post_training.device_hours), 5.0);
    assert_eq!(thousands(costs.total().device_hours), 2788.0);
    let millions = |dollars: f64| round(dollars / 1e6, 3);
    assert_eq!(millions(costs.pretraining.dollars), 5.328);
    assert_eq!(millions(costs.extension.dollars), 0.238);
    assert_eq!(millions(costs.post_training.dollars), 0.010);
    assert_eq!(millions(costs.total().dollars), 5.576);
}

#[test]
fn throughput_implied_by_table_one() {
    let seconds = Throughput::H800.seconds_per_token(&v3(), 4096, false);
    assert_eq!(round(1.0 / seconds, 0), 1543.0, "tokens per second and GPU");
    let sustained = flops_per_token(&v3(), 4096).training() / seconds;
    assert_eq!(round(sustained / 1e12, 1), 386.5, "TFLOP/s");
    assert_eq!(round(100.0 * sustained / 989e12, 1), 39.1, "percent of the BF16 peak");
    // 180K GPU hours per trillion tokens, and 3.7 days of them on 2048 GPUs.
    let hours = Throughput::H800.train(&v3(), 4096, 1e12, false).device_hours;
    assert_eq!(round(hours / 1e3, 0), 180.0);
    assert_eq!(round(hours / 2048.0 / 24.0, 1), 3.7);
}

#[test]
fn an_estimate_from_a_measured_rate() {
    let a = Preset::Nano.architecture();
    let rate = Throughput::measured(50e9);
    let tokens = 4e6;
    let expected = tokens * flops_per_token(&a, 256).training_with_mtp() / 50e9;
    let seconds = rate.train(&a, 256, tokens, true).device_hours * 3600.0;
    assert!((seconds / expected - 1.0).abs() < 1e-12, "{seconds} s, not {expected} s");
}

#[test]
fn the_workload_of_a_phase() {
    let job = fathom_spec::parse_manifest(&fathom_spec::init_manifest(Preset::Nano)).unwrap();
    let works: Vec<_> = job.phases.iter().map(|phase| workload(&job, phase)).collect();
    assert_eq!(works[..2], [None, None]);
    let work = works[2].unwrap();
    assert_eq!((work.tokens.0, work.sequence_length), (4_000_000, 256));
    assert_eq!(work.flops, 4e6 * flops_per_token(&job.architecture, 256).training_with_mtp());
    let training = CpuTraining {
        micro_batches: 2,
        ..CpuTraining::new(256, 8)
    };
    assert_eq!(work.memory, cpu_memory(&job.architecture, job.precision, training));
    let estimate = work.at_tokens_per_second(5000.0, 0.1);
    assert_eq!(round(estimate.device_hours * 3600.0, 6), 800.0);
    assert_eq!(round(estimate.dollars, 6), round(800.0 / 3600.0 * 0.1, 6));
    let estimate = work.at_flops_per_second(work.flops / 60.0, 0.0);
    assert_eq!(round(estimate.device_hours, 9), round(1.0 / 60.0, 9));
}

/// The largest sizes that `Architecture::check` lets through must not overflow a count.
#[test]
fn the_largest_architecture_can_be_counted() {
    let a = Architecture {
        vocab_size: 1 << 24,
        hidden_size: 1 << 17,
        intermediate_size: 1 << 20,
        moe_intermediate_size: 1 << 20,
        num_hidden_layers: 1 << 10,
        num_attention_heads: 1 << 12,
        n_shared_experts: 1 << 8,
        n_routed_experts: 1 << 13,
        num_experts_per_tok: 1 << 13,
        n_group: 1,
        topk_group: 1,
        first_k_dense_replace: 0,
        q_lora_rank: Some(1 << 17),
        kv_lora_rank: 1 << 17,
        qk_nope_head_dim: 1 << 14,
        qk_rope_head_dim: 1 << 14,
        v_head_dim: 1 << 14,
        num_nextn_predict_layers: 16,
        max_position_embeddings: 1 << 24,
        ..v3()
    };
    assert_eq!(a.check(), []);
    assert!(parameters(&a).stored > 1 << 60);
    assert!(flops_per_token(&a, 1 << 24).training_with_mtp().is_finite());
    assert_eq!(
        cpu_memory(
            &a,
            Precision::F32,
            CpuTraining {
                micro_batches: u32::MAX,
                ema: true,
                ..CpuTraining::new(1 << 24, 1 << 20)
            }
        )
        .total(),
        u64::MAX
    );
}
