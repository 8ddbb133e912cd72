"""transformers loads a model that Fathom trained: no tensor missing, the same logits, the same token ids.

Trains a tiny model with `fathom run` ($FATHOM_BIN), exports it, and compares `DeepseekV3ForCausalLM` in FP32 with `fathom debug step`.
"""

import os
import pathlib
import random
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

LOGIT_TOLERANCE = 1e-4
MANIFEST = """
apiVersion: fathom.dev/v1alpha1
kind: DeepSeekV3Job
metadata: {name: check}
spec:
  model:
    preset: nano
    architecture: {vocab_size: 512, hidden_size: 64, num_hidden_layers: 3, intermediate_size: 96, moe_intermediate_size: 32}
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
        run("run", "job.yaml", "--quiet")
        run("ckpt", "export", "--to", "model")

        model, info = AutoModelForCausalLM.from_pretrained(directory / "model", dtype=torch.float32, output_loading_info=True)
        mtp = f"model.layers.{model.config.num_hidden_layers}."
        missing = set(info["missing_keys"])
        unexpected = {key for key in info["unexpected_keys"] if not key.startswith(mtp)}
        if missing or unexpected:
            print(f"missing: {sorted(missing)}; unexpected: {sorted(unexpected)}")
            return 1

        tokens = torch.randint(0, model.config.vocab_size, (2, 65), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
        save_file({"tokens": tokens}, directory / "tokens.safetensors")
        weights = load_file(directory / "model" / "model.safetensors")
        main_model = directory / "main"
        main_model.mkdir()
        (main_model / "config.json").write_bytes((directory / "model" / "config.json").read_bytes())
        save_file({key: value for key, value in weights.items() if not key.startswith(mtp)}, main_model / "model.safetensors")
        run("debug", "step", "--model", "main", "--tokens", "tokens.safetensors", "--out", "out.safetensors")
        ours = load_file(directory / "out.safetensors")["logits"]
        with torch.no_grad():
            theirs = model.eval()(tokens[:, :-1].long()).logits
        worst = (ours - theirs).abs().max().item()

        text = "The router sends a token to 8 experts;\n\n  let x = vec![1, 22, 4444];  // na\u00efve \u6a21\u578b\n"
        ids = AutoTokenizer.from_pretrained(directory / "model")(text, add_special_tokens=False)["input_ids"]
        decoded = AutoTokenizer.from_pretrained(directory / "model").decode(ids)
        print(f"largest difference of a logit: {worst:.2e}; {len(ids)} tokens")
        return int(worst > LOGIT_TOLERANCE or decoded != text)


if __name__ == "__main__":
    sys.exit(main())
