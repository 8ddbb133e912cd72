"""transformers loads a model that Fathom trained, in every type it is exported in, and Fathom one that transformers saved.

Trains a tiny model with `fathom run` ($FATHOM_BIN), exports it, and compares logits and greedy text (compare.py). FP8 is also loaded by
transformers itself, which the model's sizes allow. Then transformers saves the model, in its own spelling of config.json and without the
MTP module, and Fathom imports that.
"""

import os
import pathlib
import random
import subprocess
import sys
import tempfile

import torch
from compare import compare, load_weights
from transformers import AutoModelForCausalLM, AutoTokenizer, FineGrainedFP8Config

MANIFEST = """
apiVersion: fathom.dev/v1alpha1
kind: DeepSeekV3Job
metadata: {name: check}
spec:
  model:
    preset: nano
    architecture: {vocab_size: 512, hidden_size: 64, num_hidden_layers: 3, intermediate_size: 96, moe_intermediate_size: 32, qk_rope_head_dim: 32}
  phases:
    - {name: tokenizer, tokenizer: {vocabSize: 512, input: [{paths: ["text/*.txt"]}]}}
    - {name: corpus, corpus: {sequenceLength: 64, validationFraction: 0.05, input: [{paths: ["text/*.txt"]}]}}
    - {name: pretrain, pretrain: {tokens: 16k, batch: {sequences: 8}}}
"""


def write_text(directory: pathlib.Path) -> None:
    words = "expert token latent router gradient loss balance weight gate head layer scale".split()
    source = random.Random(0)
    directory.mkdir()
    for document in range(150):
        lines = [" ".join(source.choice(words) for _ in range(12)) + "." for _ in range(20)]
        (directory / f"{document}.txt").write_text(f"Document {document}\n" + "\n".join(lines) + "\n")


def main() -> int:
    fathom = pathlib.Path(os.environ["FATHOM_BIN"]).resolve()
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)

        def run(*arguments: str) -> None:
            subprocess.run([fathom, *arguments], cwd=directory, check=True, stdout=subprocess.DEVNULL)

        write_text(directory / "text")
        (directory / "job.yaml").write_text(MANIFEST)
        run("run", "job.yaml", "--quiet", "--no-ui")
        same = True
        for form in ["f32", "bf16", "fp8"]:
            run("ckpt", "export", "--to", form, "--format", form, "--max-shard-size", "500kB")
            same &= compare(fathom, directory / form, "The router", 24)

        # transformers' own dequantisation, to BF16, of our FP8.
        dequantize = FineGrainedFP8Config(dequantize=True)
        theirs = AutoModelForCausalLM.from_pretrained(directory / "fp8", quantization_config=dequantize, dtype=torch.float32).state_dict()
        weights = load_weights(directory / "fp8")
        weight = "model.layers.0.self_attn.kv_b_proj.weight"
        codes, scales = weights[weight].float(), weights[f"{weight}_scale_inv"]
        expected = codes * scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[: codes.shape[0], : codes.shape[1]]
        worst = (theirs[weight].float() - expected).abs().max().item()
        print(f"largest difference of transformers' dequantised {weight}: {worst:.2e}")
        same &= worst <= expected.abs().max().item() * 2**-8

        AutoModelForCausalLM.from_pretrained(directory / "f32", dtype=torch.float32).save_pretrained(directory / "theirs")
        AutoTokenizer.from_pretrained(directory / "f32").save_pretrained(directory / "theirs")
        run("ckpt", "import", "theirs", "--to", "imported")
        run("ckpt", "export", "imported", "--to", "again")
        first, again = load_weights(directory / "f32"), load_weights(directory / "again")
        same &= all(torch.equal(first[key], tensor) for key, tensor in again.items())
        print(f"{len(again)} tensors imported from transformers, {len(first) - len(again)} of the MTP module were left out")

        text = "The router sends a token to 8 experts;\n\n  let x = vec![1, 22, 4444];  // na\u00efve \u6a21\u578b\n"
        tokenizer = AutoTokenizer.from_pretrained(directory / "f32")
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        print(f"{len(ids)} tokens")
        return 0 if same and tokenizer.decode(ids) == text else 1


if __name__ == "__main__":
    sys.exit(main())
