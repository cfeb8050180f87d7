"""What transformers reads from, and writes for, checkpoints that the tests built.

    python transformers_names.py REQUEST.json ANSWER.json

Run by `tests/integration/test_builders_against_transformers.py` in the quantize environment; it
must import neither the tests nor the package under test. REQUEST is

    {"work": DIR, "checkpoints": [DIR, …], "configurations": [DIR, …], "fp8": [DIR, …]}

Each checkpoint is loaded, run once, and saved again, with and without transformers' own renaming
back to the layout of the Hub (which splits fused experts). Each configuration is made into a model
without weights, whose state is renamed to what would lie on disk. Each FP8 checkpoint is
dequantized by compressed-tensors' converters.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from compressed_tensors.entrypoints.convert import (
    CompressedTensorsDequantizer,
    FP8BlockDequantizer,
)
from safetensors import safe_open
from safetensors.torch import load_file
from transformers.core_model_loading import revert_weight_conversion

_SAVED = {"PerExpert": True, "Fused": False}  # save_pretrained's `save_original_format`
_BLOCK_TARGETS = [r"re:.*\.(q|k|v|o|gate|up|down|out)_proj$", r"re:.*\.in_proj_(qkv|z)$"]
_TEXT = "a half tone, été 12"


def main() -> None:
    """Answer the request."""
    request = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(2)
    answer = {
        "checkpoints": {
            one: round_trip(Path(one), Path(request["work"])) for one in request["checkpoints"]
        },
        "configurations": {one: on_meta(Path(one)) for one in request["configurations"]},
        "fp8": {one: dequantized(Path(one)) for one in request["fp8"]},
    }
    Path(sys.argv[2]).write_text(json.dumps(answer))


def round_trip(directory: Path, work: Path) -> dict[str, Any]:
    """Load a checkpoint and save it again: `{layout: {name: [dtype, shape, SHA-256]}}` and more."""
    config = transformers.AutoConfig.from_pretrained(directory)
    kind = getattr(transformers, config.architectures[0])
    model, loading = kind.from_pretrained(directory, dtype=torch.bfloat16, output_loading_info=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    ids = tokenizer(_TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    saved = {}
    for layout, original in _SAVED.items():
        model.save_pretrained(work / layout, save_original_format=original)
        saved[layout] = stored(work / layout)
        shutil.rmtree(work / layout)
    return {
        "saved": saved,
        "loading": {key: sorted(map(str, found)) for key, found in loading.items() if found},
        "finite": bool(torch.isfinite(logits).all()),
        "logits": hashlib.sha256(logits.float().numpy().tobytes()).hexdigest(),
        "text": tokenizer.decode(ids[0]),
        "model_type": config.model_type,
    }


def stored(directory: Path) -> dict[str, Any]:
    """The tensors of a directory: `{name: [dtype, shape, SHA-256]}`."""
    out = {}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dictionary)
                part = file.get_slice(name)
                out[name] = [part.get_dtype(), part.get_shape(), digest(file.get_tensor(name))]
    return out


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 of the bytes that `tensor` would have on disk."""
    data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(data).hexdigest()


def dequantized(directory: Path) -> dict[str, str]:
    """The tensors of an FP8 checkpoint in BF16: `{name: SHA-256}`."""
    stated = json.loads((directory / "config.json").read_text())["quantization_config"]
    if stated["quant_method"] == "fp8":
        converter = FP8BlockDequantizer(targets=_BLOCK_TARGETS)
    else:
        converter = CompressedTensorsDequantizer(directory)
    tensors: dict[str, torch.Tensor] = {}
    for path in directory.glob("*.safetensors"):
        tensors |= load_file(path)
    return {name: digest(one) for name, one in converter.process(tensors).items()}


def on_meta(directory: Path) -> dict[str, Any]:
    """The on-disk tensors of a model of this configuration: `{name: [dtype, shape]}`."""
    config = transformers.AutoConfig.from_pretrained(directory)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = getattr(transformers, config.architectures[0])(config)
    torch.set_default_dtype(torch.float32)
    state = model.state_dict()
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    return {
        name: [str(one.dtype), list(one.shape)]
        for name, one in revert_weight_conversion(model, state).items()
    }


if __name__ == "__main__":
    main()
