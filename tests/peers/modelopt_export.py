"""What nvidia-modelopt's own export writes for scales of ours; run in the quantize environment.

    python modelopt_export.py REQUEST.json ANSWER.json

The request is a list of `source` (a BF16 checkpoint), `ours` (the same in ModelOpt's layout, by
us), `target` (a directory to export to), `given` (a file to write), `config` (the name of a
ModelOpt configuration), `cache` (`fp8`, `fp8_cast` or null) and `quantizers` (lines that come after
the configuration's own). ModelOpt quantizes the source on its own, then every maximum in its
quantizers is replaced by the one that gives our scale, and the model is exported. `given` gets the
codes that ModelOpt makes of each NVFP4 matrix when our block scales are given too.

The answer gives for each `own`: the scale of each weight that ModelOpt found before, `inexact`:
names of our scales that no float32 maximum gives, and `error`.
"""

import copy
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

Tensors = dict[str, torch.Tensor]

FOUR_BITS, EIGHT_BITS = 6.0 * 448.0, 448.0
CACHES: dict[str | None, list[Any]] = {
    None: [],
    "fp8": mtq.FP8_KV_CFG["quant_cfg"],
    # The recipe `fp8_cast`: a constant maximum, so that every scale is 1 and none is stored.
    "fp8_cast": [
        {
            "quantizer_name": "*[kv]_bmm_quantizer",
            "cfg": {"num_bits": [4, 3], "axis": None, "use_constant_amax": True},
        }
    ],
}
STACKED = re.compile(r"^(.*\.experts)\.(\d+)\.(gate|up|down)_proj$")


def quantizer_of(model: torch.nn.Module, scale: str) -> tuple[Any, float]:
    """The quantizer that a stored scale comes from, and what its maximum is divided by."""
    module, _, part = scale.rpartition(".")
    if part in {"k_scale", "v_scale"}:
        attention = model.get_submodule(module.rpartition(".")[0])
        return getattr(attention, f"{part[0]}_bmm_quantizer"), EIGHT_BITS
    kind = "input" if part == "input_scale" else "weight"
    stacked = STACKED.match(module)
    if stacked is None:
        quantizer = getattr(model.get_submodule(module), f"{kind}_quantizer")
    else:
        experts = model.get_submodule(stacked[1])
        name = "down_proj" if stacked[3] == "down" else "gate_up_proj"
        quantizer = (
            getattr(experts, f"{name}_input_quantizer")
            if kind == "input"
            else getattr(experts, f"{name}_weight_quantizers")[int(stacked[2])]
        )
    return quantizer, FOUR_BITS if quantizer.num_bits == (2, 1) else EIGHT_BITS


def maximum_of(scale: torch.Tensor, bound: float) -> tuple[torch.Tensor, bool]:
    """The float32 maximum that `bound` divides to `scale`, else the one that comes nearest."""
    near = (scale.double() * bound).float()
    steps = torch.arange(-2, 3, dtype=torch.int32).reshape(-1, *([1] * near.dim()))
    candidates = (near.view(torch.int32) + steps).view(torch.float32)
    off = ((candidates / bound).double() - scale.double()).abs()
    best = off.argmin(dim=0, keepdim=True)
    return candidates.gather(0, best)[0], bool((off.gather(0, best) == 0).all())


def scales_of(ours: Tensors) -> Iterator[str]:
    """The scales of ours that stand for a maximum: not NVFP4's block scales."""
    for name, tensor in ours.items():
        part = name.rpartition(".")[2]
        if part in {"weight_scale_2", "input_scale", "k_scale", "v_scale"} or (
            part == "weight_scale" and tensor.dtype == torch.float32
        ):
            yield name


def shaped_as(values: torch.Tensor, quantizer: Any) -> torch.Tensor:
    """`values` in the shape in which the quantizer keeps its maxima."""
    return values.reshape(quantizer._amax.shape) if quantizer._amax.dim() else values.reshape(())


def inject(model: torch.nn.Module, ours: Tensors) -> tuple[dict[str, float], list[str]]:
    """Put the maxima of our scales into the quantizers; returns what was there, and misfits."""
    own, inexact = {}, []
    for name in scales_of(ours):
        quantizer, bound = quantizer_of(model, name)
        amax, exact = maximum_of(ours[name], bound)
        if quantizer._amax.dim() == 0 and "weight_scale" in name:
            own[name] = float(quantizer._amax.float() / bound)
        quantizer._amax = shaped_as(amax, quantizer)
        if not exact:
            inexact.append(name)
    return own, inexact


def given_codes(source: Path, ours: Tensors) -> Tensors:
    """ModelOpt's codes for our global and block scales."""
    weights: Tensors = {}
    for file in sorted(source.glob("*.safetensors")):
        weights |= load_file(file)
    found = {}
    for name in ours:
        module = name.removesuffix(".weight_scale_2")
        if module != name:
            scale, shared = ours[f"{module}.weight_scale"], ours[name]
            packed = NVFP4QTensor.quantize(weights[f"{module}.weight"], 16, scale, shared)[0]
            found[module] = packed._quantized_data
    return found


def export(case: dict[str, Any]) -> dict[str, Any]:
    """One case; see above."""
    source, target = Path(case["source"]), Path(case["target"])
    ours = load_file(Path(case["ours"]) / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).eval()
    config = copy.deepcopy(getattr(mtq, case["config"]))
    config["quant_cfg"] = [*config["quant_cfg"], *case["quantizers"], *CACHES[case["cache"]]]
    tokens = torch.randint(3, 500, (4, 64), generator=torch.Generator().manual_seed(0))
    mtq.quantize(model, config, lambda quantized: quantized(tokens))
    own, inexact = inject(model, ours)
    export_hf_checkpoint(model, export_dir=target)
    save_file(given_codes(source, ours), case["given"])
    return {"own": own, "inexact": inexact, "error": None}


def main(request: str, answer: str) -> None:
    """Every case of the request, whatever becomes of the others."""
    answers = []
    for case in json.loads(Path(request).read_text()):
        try:
            answers.append(export(case))
        except Exception as error:
            answers.append({"own": {}, "inexact": [], "error": f"{type(error).__name__}: {error}"})
    Path(answer).write_text(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
