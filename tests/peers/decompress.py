"""compressed-tensors' own decompression of whole checkpoints; run in the quantize environment.

    python decompress.py CASES.json ANSWERS.json

CASES is a list of `{"checkpoint": DIRECTORY, "output": FILE}`. OUTPUT gets every tensor of the
checkpoint, the quantized ones as the library decompresses them to BF16: it finds them by the
targets and ignores of `config.json` and refuses what is left over. ANSWERS gets, in the same order,
null or the library's error. It must import neither the tests nor the package under test.
"""

import json
import sys
from pathlib import Path

import torch
from compressed_tensors.entrypoints.convert import CompressedTensorsDequantizer
from safetensors.torch import load_file, save_file


def decompress(checkpoint: Path, output: Path) -> None:
    """Decompress one checkpoint into one file; raises what the library raises."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        tensors |= load_file(path)
    result = CompressedTensorsDequantizer(checkpoint).validate(tensors)
    save_file({name: tensor.contiguous() for name, tensor in result.items()}, output)


def outcome(case: dict[str, str]) -> str | None:
    """None, or the library's error: refusals are answers too."""
    try:
        decompress(Path(case["checkpoint"]), Path(case["output"]))
    except (KeyError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(cases: Path, answers: Path) -> None:
    """Decompress every case of a file."""
    torch.set_num_threads(2)
    answers.write_text(json.dumps([outcome(case) for case in json.loads(cases.read_text())]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
