"""transformers beside Fathom on one exported model: no tensor missing, the same logits, the same greedy text.

    fathom ckpt export JOB --to model [--format f32|bf16|fp8]
    python worker/tests/transformers/compare.py model --fathom fathom --prompt 'fn main() {'

needs the packages of requirements.txt beside this file. `DeepseekV3ForCausalLM` runs in FP32 on the CPU, `fathom debug logits` and
`fathom generate` read the same directory. Exits with 1 if a tensor is missing or unknown, a logit differs by more than 1e-4, or the text
differs.

FP8 weights are dequantised here, block by block, before transformers loads them: transformers 5.23 takes the size of a block to be the
matrix's size over the number of scales, which is wrong where 128 does not divide a size of more than one block.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

LOGIT_TOLERANCE = 1e-4
BLOCK = 128
# It reports what it does not load; `load` judges that.
logging.set_verbosity_error()
logging.disable_progress_bar()


def load_weights(model: pathlib.Path) -> dict[str, torch.Tensor]:
    """All tensors of a directory, in one file or several."""
    index = model / "model.safetensors.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else ["model.safetensors"]
    return {name: tensor for file in sorted(files) for name, tensor in load_file(model / file).items()}


def dequantize(model: pathlib.Path, to: pathlib.Path) -> None:
    """Writes an FP8 model in FP32: a code times the scale of its block."""
    weights = load_weights(model)
    plain = {}
    for name, weight in weights.items():
        if name.endswith("_scale_inv"):
            continue
        values = weight.to(torch.float32)
        if weight.dtype == torch.float8_e4m3fn:
            scales = weights[f"{name}_scale_inv"].repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
            values = values * scales[: weight.shape[0], : weight.shape[1]]
        plain[name] = values
    to.mkdir()
    save_file(plain, to / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    del config["quantization_config"]
    (to / "config.json").write_text(json.dumps(config))
    for file in model.glob("tokenizer*"):
        shutil.copy(file, to)


def load(model: pathlib.Path, work: pathlib.Path) -> torch.nn.Module:
    """The model in transformers, in FP32. The MTP modules, which it does not use, are the only tensors that it may leave."""
    if "quantization_config" in json.loads((model / "config.json").read_text()):
        dequantize(model, work / "dequantized")
        model = work / "dequantized"
    loaded, info = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, output_loading_info=True)
    first, count = loaded.config.num_hidden_layers, loaded.config.num_nextn_predict_layers
    mtp = tuple(f"model.layers.{layer}." for layer in range(first, first + count))
    missing = set(info["missing_keys"])
    unexpected = {name for name in info["unexpected_keys"] if not (mtp and name.startswith(mtp))}
    if missing or unexpected:
        sys.exit(f"{model}: missing {sorted(missing)}; unexpected {sorted(unexpected)}")
    return loaded.eval()


def compare(fathom: pathlib.Path, model: pathlib.Path, prompt: str, max_tokens: int) -> bool:
    """Prints what differs; whether nothing does that matters."""
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)

        def run(*arguments: str) -> str:
            return subprocess.run([fathom, *arguments], check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout

        theirs = load(model, work)
        length = min(128, theirs.config.max_position_embeddings)
        tokens = torch.randint(0, theirs.config.vocab_size, (2, length + 1), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
        save_file({"tokens": tokens}, work / "tokens.safetensors")
        run("debug", "logits", "--model", str(model), "--tokens", str(work / "tokens.safetensors"), "--out", str(work / "out.safetensors"))
        ours = load_file(work / "out.safetensors")["logits"]
        with torch.no_grad():
            expected = theirs(tokens[:, :-1].long()).logits
        worst = (ours - expected).abs().max().item()

        text = run("generate", "--model", str(model), "--prompt", prompt, "--max-tokens", str(max_tokens)).removesuffix("\n")
        tokenizer = AutoTokenizer.from_pretrained(model)
        ids = [theirs.config.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        end = theirs.config.eos_token_id
        with torch.no_grad():
            made = theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=max_tokens, eos_token_id=end, pad_token_id=end)
        added = made[0, len(ids) :].tolist()
        added = added[: added.index(end)] if end in added else added
        expected_text = prompt + tokenizer.decode(added)
        same = text == expected_text
        print(f"{model.name}: largest difference of a logit {worst:.2e} (largest logit {expected.abs().max().item():.2f}, {tokens[:, :-1].numel()} positions)")
        print(f"{model.name}: greedy text of {len(added)} tokens {'is the same' if same else 'differs'}: {text!r}")
        if not same:
            print(f"{model.name}: transformers wrote {expected_text!r}")
        return worst <= LOGIT_TOLERANCE and same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="directory that `fathom ckpt export` made")
    parser.add_argument("--fathom", type=pathlib.Path, default=shutil.which("fathom"), help="the fathom binary")
    parser.add_argument("--prompt", default="The router", help="text to continue")
    parser.add_argument("--max-tokens", type=int, default=48, help="tokens to add")
    arguments = parser.parse_args()
    if arguments.fathom is None:
        parser.error("no `fathom` in PATH: give --fathom")
    torch.set_num_threads(2)
    same = compare(arguments.fathom.resolve(), arguments.model.resolve(), arguments.prompt, arguments.max_tokens)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
