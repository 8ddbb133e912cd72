"""Training speed of transformers + torch on a DeepSeek-V3 config, on the CPU.

A full optimizer step on random tokens: forward, cross-entropy, backward, gradient clipping, AdamW, and the auxiliary-loss-free update
of the router bias from the experts' loads. Tried are f32 and bf16 (weights, gradients and moments too), both implementations of the experts that are made for training
(batched_mm copies an expert per token), eager and compiled; each is a line of standard error, and the last line of standard output is one JSON object with the median of the
fastest. `fathom bench train` measures the same step.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import time

import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

BIAS_UPDATE_SPEED = 0.001


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="config.json of the model")
    parser.add_argument("--sequence-length", type=int, default=256, help="tokens per sequence")
    parser.add_argument("--batch", type=int, default=8, help="sequences per step")
    parser.add_argument("--steps", type=int, default=20, help="measured steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the measurement")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of torch")
    parser.add_argument("--experts", nargs="+", default=["eager", "grouped_mm"], help="implementations to try")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="types to try")
    parser.add_argument("--modes", nargs="+", default=["eager", "compile"], help="with or without torch.compile")
    return parser.parse_args()


def load_config(path):
    with open(path, encoding="utf-8") as file:
        fields = json.load(file)
    fields.pop("_comment", None)
    # transformers 5 spells rope_theta and rope_scaling as rope_parameters.
    scaling = fields.pop("rope_scaling", None) or {"rope_type": "default"}
    fields["rope_parameters"] = {"rope_theta": fields.pop("rope_theta", 10000.0), **scaling}
    return DeepseekV3Config(**fields)


def count_loads(model):
    """Tokens sent to each expert in the last forward pass, per router, filled by hooks on the experts (arguments: hidden, indices, weights)."""
    loads = {}

    def hook(router, experts):
        def before(_module, inputs):
            indices = inputs[1]
            loads[router] = torch.bincount(indices.reshape(-1), minlength=router.e_score_correction_bias.numel())

        experts.register_forward_pre_hook(before)

    for module in model.modules():
        if hasattr(module, "gate") and hasattr(module, "experts"):
            hook(module.gate, module.experts)
    return loads


def measure(args, implementation, dtype, mode):
    torch.manual_seed(0)
    config = load_config(args.config)
    model = DeepseekV3ForCausalLM._from_config(config, experts_implementation=implementation, dtype=getattr(torch, dtype))
    model.train()
    loads = count_loads(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=True)
    forward = torch.compile(model) if mode == "compile" else model
    generator = torch.Generator().manual_seed(0)
    seconds = []
    loss = None
    for step in range(args.warmup + args.steps):
        tokens = torch.randint(config.vocab_size, (args.batch, args.sequence_length + 1), generator=generator)
        start = time.perf_counter()
        logits = forward(input_ids=tokens[:, :-1], use_cache=False).logits.float()
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, config.vocab_size), tokens[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for router, load in loads.items():
                load = load.float()
                router.e_score_correction_bias += BIAS_UPDATE_SPEED * torch.sign(load.mean() - load)
        if step >= args.warmup:
            seconds.append(time.perf_counter() - start)
    if len(loads) != config.num_hidden_layers - config.first_k_dense_replace:
        raise RuntimeError("the routers were not found: the bias update would be missing from the step")
    tokens_per_step = args.batch * args.sequence_length
    return {
        "dtype": dtype,
        "mode": mode,
        "experts_implementation": model.config._experts_implementation,
        "attention_implementation": model.config._attn_implementation,
        "tokens_per_second": round(tokens_per_step / statistics.median(seconds), 1),
        "tokens_per_second_best": round(tokens_per_step / min(seconds), 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "last_loss": round(loss.item(), 4),
    }


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    results = []
    for variant in itertools.product(args.experts, args.dtypes, args.modes):
        try:
            results.append(measure(args, *variant))
        except Exception as error:  # what torch does not support on this machine fails in many ways
            print(f"{' '.join(variant)}: {type(error).__name__}: {error}"[:400], file=sys.stderr)
            continue
        print(json.dumps(results[-1]), file=sys.stderr)
    if not results:
        sys.exit("no variant worked")
    best = max(results, key=lambda result: result["tokens_per_second"])
    best["threads"] = args.threads
    best["torch"] = torch.__version__
    print(json.dumps(best))


if __name__ == "__main__":
    main()
