"""What vLLM makes of dense checkpoints and of their BF16 twins; run in the serving environment.

    python engine_linear.py REQUEST.json ANSWER.json

The request is a list of `directory` (a checkpoint), `prompts` (token ids), `modal` (whether it
takes pictures), `mended` (whether vLLM is mended first, see below), `activations` (of a twin: for
each module the scheme that its input is quantized with before BF16 weights, and the static scale)
and `cache` (of a twin: for each attention module, by a part of its name, the scales that queries,
keys and values are quantized with). The answer gives for each `logProbabilities` of the whole
vocabulary at every position, `generated` token ids, `treated` (layers whose input is quantized),
`kernels` of ours, `log` and `error`.

Quantization of a twin's activations is the tests' own, in NumPy.
"""

import gc
import json
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
os.environ["VLLM_CONFIGURE_LOGGING"] = "0"  # it would throw out our handler
os.environ["VLLM_PLUGINS"] = ""  # ours is called below, whatever this environment has installed
os.environ["HALFTONE_CPU_AMX"] = "Off"  # some hosts promise AMX and die of it
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.model_executor.layers.quantization.compressed_tensors.schemes import (
    compressed_tensors_w8a16_fp8,
)

import halftone.engine
from tests.builders.numbers import (
    Floats,
    bf16_to_float32,
    e4m3_to_float32,
    float32_to_bf16,
    float32_to_e4m3,
)

Case = dict[str, Any]

NEW_TOKENS = 4
ONE = np.float32(1)
TOP = np.float32(448)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def fp8(values: Floats) -> Floats:
    """The nearest E4M3 numbers."""
    return e4m3_to_float32(float32_to_e4m3(values))


def fp4(values: Floats) -> Floats:
    """The nearest E2M1 numbers, ties to the even code."""
    sizes = np.abs(values).astype(np.float64)
    middles = (E2M1[1:] + E2M1[:-1]) / 2
    below = np.searchsorted(middles, sizes, side="left")
    above = np.searchsorted(middles, sizes, side="right")
    nearest = E2M1[np.where(below % 2 == 0, below, above)]
    return np.asarray(np.copysign(nearest, values), np.float32)


def per_token(x: Floats, _scale: float) -> Floats:
    """FP8_DYNAMIC: one scale a row."""
    scale = np.abs(x).max(axis=-1, keepdims=True) / TOP
    scale = np.maximum(scale, np.float32(1 / (448 * 512)))
    return np.asarray(fp8(x / scale) * scale, np.float32)


def per_tensor(x: Floats, scale: float) -> Floats:
    """FP8: a static scale, whose reciprocal is multiplied with."""
    return np.asarray(fp8(x * (ONE / np.float32(scale))) * np.float32(scale))


def stored(x: Floats, scale: float) -> Floats:
    """Keys and values in an FP8 cache: divided by their scale."""
    return np.asarray(fp8(x / np.float32(scale)) * np.float32(scale))


def per_group(x: Floats, _scale: float, *, power_of_two: bool = False) -> Floats:
    """FP8_BLOCK: one scale for 128 columns."""
    groups = x.reshape(*x.shape[:-1], -1, 128)
    amax = np.maximum(np.abs(groups).max(axis=-1, keepdims=True), np.float32(1e-10))
    scale = amax / TOP
    if power_of_two:
        scale = np.exp2(np.ceil(np.log2(scale.astype(np.float64)))).astype(np.float32)
    return np.asarray((fp8(groups / scale) * scale).reshape(x.shape), np.float32)


def four_bits(x: Floats, scale: float) -> Floats:
    """NVFP4 with block scales found here; `scale` is ModelOpt's, amax / 2688."""
    up = ONE / np.float32(scale)
    blocks = x.reshape(*x.shape[:-1], -1, 16)
    amax = np.abs(blocks).max(axis=-1, keepdims=True)
    chosen = fp8(up * (amax * np.float32(1 / 6)))
    with np.errstate(divide="ignore"):
        stretch = np.where(chosen == 0, np.float32(0), ONE / (chosen * (ONE / up)))
    return np.asarray((fp4(blocks * stretch) * (chosen / up)).reshape(x.shape))


SCHEMES: dict[str, Callable[[Floats, float], Floats]] = {
    "token": per_token,
    "tensor": per_tensor,
    "stored": stored,
    "group": per_group,
    "powersOfTwo": partial(per_group, power_of_two=True),
    "nvfp4": four_bits,
}


def quantized(x: torch.Tensor, scheme: str, scale: float) -> torch.Tensor:
    """`x` after a round trip through `scheme`, in BF16."""
    if x.dtype != torch.bfloat16:
        raise TypeError(f"activations are {x.dtype}, not BF16")
    values = SCHEMES[scheme](x.float().numpy(), scale)
    bits = float32_to_bf16(np.asarray(values, np.float32))
    return torch.from_numpy(bf16_to_float32(bits)).to(torch.bfloat16)


def treat(model: torch.nn.Module, case: Case) -> int:
    """Quantize the inputs of a twin's layers; says how many."""
    wanted: dict[str, tuple[str, float]] = case["activations"]
    treated = 0
    for name, module in model.named_modules():
        for ending, (scheme, scale) in wanted.items():
            if name.endswith(ending) and "visual" not in name and "mtp" not in name:
                module.register_forward_pre_hook(_input(scheme, scale))
                treated += 1
        for part, scales in case["cache"].items():
            if type(module).__name__ == "Attention" and f"{part}." in name:
                module.register_forward_pre_hook(_attention(scales))
                treated += 1
    return treated


def _input(scheme: str, scale: float) -> Any:
    def hook(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> Any:
        return (quantized(arguments[0], scheme, scale), *arguments[1:])

    return hook


def _attention(scales: list[float]) -> Any:
    def hook(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> Any:
        query, key, value = arguments[:3]
        return (
            quantized(query, "tensor", scales[0]),
            quantized(key, "stored", scales[1]),
            quantized(value, "stored", scales[2]),
            *arguments[3:],
        )

    return hook


def serve(case: Case) -> Case:
    """Load one checkpoint, read its prompts and write a few tokens."""
    mend(case["mended"])
    llm = LLM(
        model=case["directory"],
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=2,
        num_gpu_blocks_override=16,
        max_logprobs=-1,
        enable_prefix_caching=False,
        limit_mm_per_prompt={"image": 0, "video": 0, "audio": 0} if case["modal"] else None,
        disable_log_stats=True,
    )
    (treated,) = llm.apply_model(partial(treat, case=case))
    wanted = SamplingParams(
        temperature=0, max_tokens=NEW_TOKENS, prompt_logprobs=-1, detokenize=False
    )
    probabilities, generated = [], []
    for prompt in case["prompts"]:
        (said,) = llm.generate({"prompt_token_ids": prompt}, wanted, use_tqdm=False)
        probabilities.append(
            [[row[token].logprob for token in sorted(row)] for row in said.prompt_logprobs[1:]]
        )
        generated.append(list(said.outputs[0].token_ids))
    return {"logProbabilities": probabilities, "generated": generated, "treated": treated}


def mend(wanted: bool) -> None:
    """Let vLLM 0.32 load weight-only FP8 blocks: it asserts that None is False (vllm#34863)."""
    module = compressed_tensors_w8a16_fp8
    original = getattr(module.CompressedTensorsW8A16Fp8, "_original", None)
    if original is None:
        original = module.CompressedTensorsW8A16Fp8.__init__
        module.CompressedTensorsW8A16Fp8._original = original

    def mended(self: Any, weight_quant: Any, is_static_input_scheme: Any) -> None:
        original(self, weight_quant, bool(is_static_input_scheme))

    module.CompressedTensorsW8A16Fp8.__init__ = mended if wanted else original


class Kept(logging.Handler):
    """What vLLM says while a checkpoint is served."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        self.lines.append(record.getMessage())


def answer(case: Case, kept: Kept) -> Case:
    """What vLLM says to one case; an error is an answer too."""
    kept.lines.clear()
    halftone.engine.kernels._IN_USE.clear()  # one process, many models: each its own
    found: Case = {"error": None}
    try:
        found |= serve(case)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    cleanup_dist_env_and_memory()
    return found | {"kernels": halftone.engine.kernels_in_use(), "log": list(kept.lines)}


def main(request: Path, answers: Path) -> None:
    """Answer every case of a file."""
    gc.disable()  # vLLM collects eight times a model, over a million objects, for models of 1 MB
    gc.collect = lambda *_: 0
    halftone.engine.register()
    kept = Kept()
    logging.getLogger("vllm").addHandler(kept)
    cases = json.loads(request.read_text())
    answers.write_text(json.dumps([answer(case, kept) for case in cases]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
