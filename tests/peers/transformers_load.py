"""What transformers makes of a quantized checkpoint; run in the quantize environment.

    python transformers_load.py CASES.json ANSWERS.json

CASES is a list of `{"checkpoint": DIRECTORY, "output": FILE}`. ANSWERS gets, in the same order,
what `from_pretrained` complains of, the format of each module that it found to be quantized, and
whether a forward pass gives finite numbers. OUTPUT gets the weights of those modules after the
pass, which decompresses them. It must import neither the tests nor the package under test.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file


def load(checkpoint: Path, output: Path) -> dict[str, Any]:
    """Load one checkpoint, run it once and write its weights."""
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    kind = getattr(transformers, config.architectures[0])
    model, loading = kind.from_pretrained(
        checkpoint, dtype=torch.bfloat16, output_loading_info=True
    )
    quantized = {
        name: module
        for name, module in model.named_modules()
        if getattr(module, "quantization_scheme", None) is not None
    }
    schemes = {name: scheme(module) for name, module in quantized.items()}
    with torch.no_grad():
        logits = model(input_ids=torch.arange(3, 19)[None]).logits
    save_file(
        {f"{name}.weight": m.weight.detach().contiguous() for name, m in quantized.items()}, output
    )
    return {
        "complaints": {key: sorted(map(str, found)) for key, found in loading.items() if found},
        "schemes": schemes,
        "finite": bool(torch.isfinite(logits).all()),
    }


def scheme(module: torch.nn.Module) -> list[Any]:
    """Bits and strategy of the weights, and whether activations are quantized."""
    chosen: Any = module.quantization_scheme
    return [
        chosen.weights.num_bits,
        str(getattr(chosen.weights.strategy, "value", chosen.weights.strategy)),
        chosen.input_activations is not None,
    ]


def main(cases: Path, answers: Path) -> None:
    """Load every checkpoint of a file."""
    torch.set_num_threads(2)
    found = [
        load(Path(case["checkpoint"]), Path(case["output"]))
        for case in json.loads(cases.read_text())
    ]
    answers.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
