"""Our plugin serves dense checkpoints on a CPU as a GPU would: vLLM's own answers, to the last bit.

Every checkpoint is served beside a BF16 twin that was decoded in plain NumPy (`tests/twins.py`),
whose layers quantize their inputs in NumPy where the scheme says so (`tests/peers`). Both go
through the same product, so log probabilities of the whole vocabulary must be equal.

We test these aspects:
- ours: NVFP4A16, FP8_DYNAMIC, FP8_BLOCK (with and without activations), on Qwen3, on the pocket
  model with its linear attention, and on Gemma 4 with layers that have no `v_proj`
- ours, calibrated, in both layouts: W4A4 with an input scale for each group, static FP8, both in
  one model, and an FP8 KV cache with two scales for each layer that has one
- others': W4A4, static FP8 with merged shards, ModelOpt's four kinds, the Hub's own FP8 blocks
- activations really are quantized: without that the twin answers differently
- an FP8 KV cache, of a hybrid model too, quantizes queries, keys and values with its scales
- weight-only FP8 blocks do not load in vLLM 0.32, on no device; it is noticed when that changes
- vLLM's warnings of scales stay in its log, and the kernels say which they are
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import served_formats
from tests.builders import Tensor, read_checkpoint, tiny_config, write_checkpoint, write_fp8
from tests.commands import quantize_directory
from tests.conftest import ROOT
from tests.environments import ask
from tests.quantizing import recipe
from tests.twins import write_twin

pytestmark = pytest.mark.serve_env

PROMPTS = [[11, 45, 87, 200, 301], [37 * step % 490 + 9 for step in range(40)]]
MERGED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
    "in_proj_qkv": "in_proj_qkvz",
    "in_proj_z": "in_proj_qkvz",
    "in_proj_b": "in_proj_ba",
    "in_proj_a": "in_proj_ba",
}
POCKET = ROOT / "examples" / "pocket-model" / "checkpoint"

A16, W4A4 = "HalftoneCpuNvfp4A16Linear", "HalftoneCpuNvfp4Linear"
TOKEN, TENSOR = "HalftoneCpuFp8TokenLinear", "HalftoneCpuFp8TensorLinear"
BLOCK, FP8_A16 = "HalftoneCpuFp8BlockLinear", "HalftoneCpuFp8A16Linear"
KV = "HalftoneCpuFp8KvCache"


@dataclass(frozen=True)
class Pair:
    """A checkpoint, how its twin's inputs are treated, and the kernels that must serve it."""

    name: str
    kernels: tuple[str, ...]
    scheme: str | None = None
    cache: bool = False
    twin_of: str = ""  # another checkpoint with the same weights
    powers_of_two: bool = False
    mended: bool = False  # vLLM as released does not load it

    @property
    def weights(self) -> str:
        """Whose weights the twin has."""
        return self.twin_of or self.name


PAIRS = [
    Pair("qwen3-nvfp4a16", (A16,)),
    Pair("qwen3-modelopt-w4a16", (A16,), twin_of="qwen3-nvfp4a16"),
    Pair("qwen3-fp8-dynamic", (TOKEN,), "token"),
    Pair("qwen3-fp8-block", (BLOCK,), "powersOfTwo"),
    Pair("qwen3-modelopt-fp8-blocks", (BLOCK,), "powersOfTwo", twin_of="qwen3-fp8-block"),
    Pair("qwen3-hub-fp8", (BLOCK,), "powersOfTwo", powers_of_two=True),
    Pair("qwen3-fp8-block-a16", (FP8_A16,), mended=True),
    Pair("qwen3-fp8-a16", (FP8_A16,), twin_of="qwen3-fp8-dynamic"),
    Pair("qwen3-static", (TENSOR,), "tensor"),
    Pair("qwen3-modelopt-static", (TENSOR,), "tensor", twin_of="qwen3-static"),
    Pair("qwen3-cache-of-one", (KV, A16), cache=True, twin_of="qwen3-nvfp4a16"),
    Pair("pocket-nvfp4a16", (A16,)),
    Pair("pocket-fp8-dynamic", (TOKEN,), "token"),
    Pair("pocket-fp8-block", (BLOCK,), "group"),
    Pair("gemma-nvfp4a16", (A16,)),
    Pair("gemma-fp8-dynamic", (TOKEN,), "token"),
    Pair("pocket-calibrated", (KV, W4A4), "nvfp4", cache=True),
    Pair(
        "pocket-calibrated-modelopt", (KV, W4A4), "nvfp4", cache=True, twin_of="pocket-calibrated"
    ),
    Pair("gemma4-calibrated-modelopt", (KV, W4A4), "nvfp4", cache=True),
    Pair("qwen3-calibrated", (KV, TENSOR), "tensor", cache=True),
    Pair(
        "qwen3-calibrated-modelopt", (KV, TENSOR), "tensor", cache=True, twin_of="qwen3-calibrated"
    ),
    Pair("qwen3-mixed-modelopt", (KV, TENSOR, W4A4), "mixed", cache=True),
]
_CACHE = {"kvCache": {"format": "FP8", "scales": "Calibrated"}}
_MODELOPT = _CACHE | {"checkpointFormat": "ModelOpt"}
_LANGUAGE = dict.fromkeys(("Attention", "LinearAttention", "Mlp"), "NVFP4")
_STATIC = {"Attention": "FP8", "Mlp": "FP8"}
# Statistics are made by hand: every group and every cache gets a scale of its own.
_RECIPES = {
    "qwen3-fp8-block-a16": recipe(Attention="FP8_BLOCK_A16", Mlp="FP8_BLOCK_A16"),
    "pocket-calibrated": recipe(_CACHE, **_LANGUAGE),
    "pocket-calibrated-modelopt": recipe(_MODELOPT, **_LANGUAGE),
    "gemma4-calibrated-modelopt": recipe(_MODELOPT, Mlp="NVFP4"),
    "qwen3-calibrated": recipe(_CACHE, **_STATIC),
    "qwen3-calibrated-modelopt": recipe(_MODELOPT, **_STATIC),
    "qwen3-mixed-modelopt": recipe(_MODELOPT, Attention="FP8", Mlp="NVFP4"),
}
# Served without a treatment of activations: what a server that ignores the scheme would answer.
PLAIN = [pair for pair in PAIRS if (pair.scheme or pair.cache) and not pair.powers_of_two]


@dataclass
class Served:
    """What vLLM said, by case; `twins` and `plain` by the pair's name."""

    real: dict[str, Any] = field(default_factory=dict)
    twins: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Everything in one process: importing vLLM takes longer than serving a small model."""
    work = tmp_path_factory.mktemp("engine")
    checkpoints = _checkpoints(work)
    cases: dict[tuple[str, str], dict[str, Any]] = {}
    for pair in PAIRS:
        cases["real", pair.name] = _case(checkpoints[pair.name]) | {"mended": pair.mended}
        twin = work / f"twin-{pair.weights}"
        if not twin.exists():
            write_twin(checkpoints[pair.weights], twin, powers_of_two=pair.powers_of_two)
            cases["plain", pair.weights] = _case(twin)
        if pair.scheme or pair.cache:
            stored = read_checkpoint(checkpoints[pair.name])
            cases["twins", pair.name] = _case(twin) | {
                "activations": _inputs(stored, pair.scheme),
                "cache": served_formats.cache_scales(stored) if pair.cache else {},
            }
    cases["real", "mismatched"] = _case(checkpoints["mismatched"])
    cases["real", "as-released"] = _case(checkpoints["qwen3-fp8-block-a16"])
    answers = ask("serve", "engine_linear.py", [*cases.values()], work=work, timeout_s=900)
    found = Served()
    for (kind, name), answer in zip(cases, answers, strict=True):
        getattr(found, kind)[name] = answer
    return found


def _checkpoints(work: Path) -> dict[str, Path]:
    """All the checkpoints, by name."""
    qwen3 = write_checkpoint(work / "qwen3", tiny_config("qwen3", hidden_size=256))
    gemma = write_checkpoint(work / "gemma", "gemma4_unified_text")
    images = write_checkpoint(work / "gemma4", "gemma4_unified")
    sources = {"qwen3": qwen3, "pocket": POCKET, "gemma": gemma, "gemma4": images}
    made = {
        f"{model}-{preset}": quantize_directory(
            sources[model], work / f"{model}-{preset}", preset
        ).directory
        for model, presets in (
            ("qwen3", ("nvfp4a16", "fp8-dynamic", "fp8-block")),
            ("pocket", ("nvfp4a16", "fp8-dynamic", "fp8-block")),
            ("gemma", ("nvfp4a16", "fp8-dynamic")),
        )
        for preset in presets
    }
    for name, chosen in _RECIPES.items():
        source = sources[name.partition("-")[0]]
        made[name] = quantize_directory(source, work / name, chosen).directory
    return made | _others(work, qwen3, made)


def _others(work: Path, qwen3: Path, made: dict[str, Path]) -> dict[str, Path]:
    a16, blocks = made["qwen3-nvfp4a16"], made["qwen3-fp8-block"]
    hub = write_fp8(work / "hub", tiny_config("qwen3", hidden_size=256))
    return {
        "qwen3-modelopt-w4a16": served_formats.as_modelopt_nvfp4(a16, work / "mo-w4a16"),
        "qwen3-modelopt-fp8-blocks": served_formats.as_modelopt_fp8_blocks(blocks, work / "mo-pb"),
        "qwen3-hub-fp8": hub.directory,
        "qwen3-static": served_formats.static_fp8(qwen3, work / "static", modelopt=False),
        "qwen3-modelopt-static": served_formats.static_fp8(qwen3, work / "mo-fp8", modelopt=True),
        "qwen3-fp8-a16": served_formats.without_activations(
            made["qwen3-fp8-dynamic"], work / "a16"
        ),
        "qwen3-cache-of-one": served_formats.with_fp8_cache(a16, work / "kv-one"),
        "mismatched": served_formats.with_another_global_scale(a16, work / "mismatched"),
    }


def _case(directory: Path) -> dict[str, Any]:
    sees = "vision_config" in json.loads((directory / "config.json").read_text())
    return {
        "directory": str(directory),
        "prompts": PROMPTS,
        "activations": {},
        "cache": {},
        "modal": sees,
        "mended": False,
    }


def _inputs(stored: dict[str, Tensor], scheme: str | None) -> dict[str, tuple[str, float]]:
    """For each of vLLM's modules that holds a quantized one, by the end of its name, the scheme."""
    if scheme is None:
        return {}
    found: dict[str, tuple[str, float]] = {}
    for name in stored:
        matched = re.search(r"(layers\.\d+\.[\w.]+)\.weight_scale(_inv)?$", name)
        if matched is None or name.startswith("mtp."):
            continue
        parent, _, own = matched[1].rpartition(".")
        for module in (own, MERGED.get(own, own)):  # vLLM's generic class of Gemma merges nothing
            own_name = name.partition(".weight_scale")[0]
            if scheme == "mixed":
                scheme_here = "nvfp4" if stored[f"{own_name}.weight"].dtype == "U8" else "tensor"
            else:
                scheme_here = scheme
            scale = served_formats.input_scale(stored, own_name)
            found[f"{parent}.{module}"] = (scheme_here, scale)
    return found


def _distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of two answers' log probabilities."""
    assert one["error"] is None
    assert other["error"] is None
    pairs = zip(one["logProbabilities"], other["logProbabilities"], strict=True)
    return max(float(np.abs(np.array(a) - np.array(b)).max()) for a, b in pairs)


def _twin(served: Served, pair: Pair) -> dict[str, Any]:
    treated = pair.scheme or pair.cache
    answer: dict[str, Any] = served.twins[pair.name] if treated else served.plain[pair.weights]
    return answer


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_a_served_checkpoint_answers_exactly_as_its_independently_decoded_twin(
    served: Served, pair: Pair
) -> None:
    real, twin = served.real[pair.name], _twin(served, pair)
    assert _distance(real, twin) == 0
    assert real["generated"] == twin["generated"]


@pytest.mark.parametrize("pair", PLAIN, ids=lambda pair: pair.name)
def test_activations_are_quantized_and_that_shows(served: Served, pair: Pair) -> None:
    twin = served.twins[pair.name]
    assert twin["treated"] > 0
    assert _distance(served.real[pair.name], served.plain[pair.weights]) > 0.005


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_the_kernels_that_serve_it_are_told(served: Served, pair: Pair) -> None:
    assert served.real[pair.name]["kernels"] == sorted(pair.kernels)


def test_a_twin_needs_none_of_our_kernels(served: Served) -> None:
    assert [name for name, answer in served.plain.items() if answer["kernels"]] == []


def test_warnings_of_vllm_reach_its_log(served: Served) -> None:
    def said(name: str) -> str:
        return "\n".join(served.real[name]["log"])

    assert "global scale is different" in said("mismatched")
    assert "global scale is different" not in said("qwen3-nvfp4a16")
    assert "scaling factor 1.0" in said("qwen3-cache-of-one")
    for name in _RECIPES:
        assert "scale is different" not in said(name)
        assert "scale differs" not in said(name)
        assert "scaling factor 1.0" not in said(name)


def test_vllm_as_released_does_not_load_weight_only_fp8_blocks(served: Served) -> None:
    assert served.real["as-released"]["error"] == "AssertionError: "
