"""vLLM serves our experts on a CPU with a GPU's arithmetic: by our plugin, format by format.

`tests/peers/engine_experts.py` loads tiny checkpoints with the real vLLM and writes down what its
layers of experts were asked and said; here that is held against `tests/fused_experts.py`.

We test these aspects:
- with 16-bit activations, log probabilities are those of an independently decoded BF16 twin, to
  the last bit: experts alone, and beside shared experts, attention and linear attention
- with quantized activations, every layer computes what the same quantization in NumPy computes:
  per token, per group, static per tensor, NVFP4 with one scale for all experts of a layer, by our
  own calibrated writer too; and not what 16-bit activations give
- ModelOpt's checkpoints of the same numbers give the same log probabilities as compressed-tensors'
- vLLM still warns when gate and up have different global scales, and takes the gate's
- the kernels in use are named
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import (
    Tensor,
    as_float32,
    read_checkpoint,
    read_file,
    tiny_config,
    write_checkpoint,
)
from tests.builders.expert_formats import (
    scale_up,
    write_modelopt,
    write_static_fp8,
    write_twin,
    write_w4a4,
)
from tests.builders.numbers import Floats
from tests.commands import quantize_directory
from tests.environments import ask
from tests.fused_experts import (
    Layer,
    Quantize,
    forward,
    fp8_per_group,
    fp8_per_tensor,
    fp8_per_token,
    nvfp4,
    unquantized,
)
from tests.quantizing import recipe

pytestmark = pytest.mark.serve_env

# Not square, and two blocks of 128 to a row of the first product.
SIZES = {"hidden_size": 256, "moe_intermediate_size": 128}
PROMPTS = [[(7 * i * i + 3 * i + 11) % 250 + 9 for i in range(40)], [261, 17, 98, 98, 143, 12]]
LAYERS = 2

# One an expert, and different, so that a plugin that takes each expert's own is found out.
# Divisors for NVFP4, of which the smallest counts; factors for FP8, of which the largest does.
NVFP4_INPUT = [400.0 * (1 + expert / 2) for expert in range(8)]
FP8_INPUT = [0.04 / (1 + expert / 2) for expert in range(8)]

BROKEN = "model.language_model.layers.1.mlp.experts.3"


@dataclass(frozen=True)
class Served:
    """A checkpoint, and what vLLM made of it."""

    directory: Path
    said: dict[str, Any]
    layers: Path

    @property
    def log_probabilities(self) -> list[Floats]:
        """Of every token of the vocabulary at every position, a matrix a prompt."""
        return [np.array(prompt, np.float64) for prompt in self.said["logProbabilities"]]

    @property
    def seen(self) -> dict[str, Tensor]:
        """What layers of experts were asked and said, by their names on disk."""
        return {_on_disk(name): tensor for name, tensor in read_file(self.layers).items()}


def _on_disk(name: str) -> str:
    name = name.replace("language_model.model.", "model.language_model.")
    return name.replace(".routed_experts.", ".")


def _plain(root: Path) -> None:
    """`qwen3_moe`: only its experts are quantized."""
    source = write_checkpoint(root / "source", tiny_config("qwen3_moe", **SIZES))
    for fmt in ("NVFP4A16", "FP8_DYNAMIC", "FP8_BLOCK"):
        quantize_directory(source, root / fmt, recipe(Experts=fmt))
    for fmt in ("NVFP4A16", "FP8_DYNAMIC"):
        write_twin(root / fmt, root / f"{fmt}-twin")
    write_w4a4(root / "NVFP4A16", root / "NVFP4", NVFP4_INPUT)
    write_static_fp8(source, root / "FP8", FP8_INPUT)
    write_modelopt(root / "NVFP4A16", root / "modelopt-NVFP4A16", "W4A16_NVFP4")
    write_modelopt(root / "NVFP4", root / "modelopt-NVFP4", "NVFP4")
    write_modelopt(root / "FP8", root / "modelopt-FP8", "FP8")
    quantize_directory(source, root / "calibrated", recipe(Experts="NVFP4"))
    chosen = recipe({"checkpointFormat": "ModelOpt"}, Experts="NVFP4")
    quantize_directory(source, root / "modelopt-calibrated", chosen)


def _hybrid(root: Path) -> None:
    """`qwen3_5_moe`: shared experts, linear attention; then FP8 beside and one scale wrong."""
    source = write_checkpoint(root / "hybrid-source", tiny_config("qwen3_5_moe", **SIZES))
    roles = ("Attention", "Experts", "SharedExperts", "LinearAttention")
    everything = [{"role": role, "format": "NVFP4A16"} for role in roles]
    quantize_directory(source, root / "hybrid", recipe({"precision": everything}))
    write_twin(root / "hybrid", root / "hybrid-twin")
    quantize_directory(source, root / "whole", recipe(Experts="NVFP4A16", Attention="FP8_DYNAMIC"))
    scale_up(root / "whole", root / "mixed", BROKEN, 2)


CASES = (
    "NVFP4A16",
    "NVFP4A16-twin",
    "FP8_DYNAMIC",
    "FP8_DYNAMIC-twin",
    "FP8_BLOCK",
    "NVFP4",
    "FP8",
    "modelopt-NVFP4A16",
    "modelopt-NVFP4",
    "modelopt-FP8",
    "calibrated",
    "modelopt-calibrated",
    "hybrid",
    "hybrid-twin",
    "mixed",
)

# What comes into use with a checkpoint, when all are loaded one after the other.
KERNELS = {
    "NVFP4A16": ["HalftoneCpuNvfp4A16Experts"],
    "NVFP4A16-twin": [],
    "FP8_DYNAMIC": ["HalftoneCpuFp8TokenExperts"],
    "FP8_BLOCK": ["HalftoneCpuFp8BlockExperts"],
    "NVFP4": ["HalftoneCpuNvfp4Experts"],
    "FP8": ["HalftoneCpuFp8TensorExperts"],
    "hybrid": ["HalftoneCpuNvfp4A16Linear"],
    "mixed": ["HalftoneCpuFp8TokenLinear"],
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    """Every checkpoint, from one process of vLLM."""
    root = tmp_path_factory.mktemp("experts")
    _plain(root)
    _hybrid(root)
    places = [(root / case, root / f"{case}.layers") for case in CASES]
    request = [
        {"directory": str(directory), "prompts": PROMPTS, "layers": str(layers)}
        for directory, layers in places
    ]
    said = ask("serve", "engine_experts.py", request, work=root, timeout_s=280)
    answers = zip(CASES, places, said, strict=True)
    return {case: Served(place[0], one, place[1]) for case, place, one in answers}


@pytest.mark.parametrize("case", CASES)
def test_vllm_loads_the_checkpoint_and_generates(case: str, served: dict[str, Served]) -> None:
    assert served[case].said["error"] is None
    assert [len(tokens) for tokens in served[case].said["generated"]] == [4, 4]
    assert all(np.isfinite(one).all() for one in served[case].log_probabilities)


def apart(one: Served, other: Served) -> float:
    """The largest difference of two log probabilities."""
    pairs = zip(one.log_probabilities, other.log_probabilities, strict=True)
    return max(float(np.abs(mine - theirs).max()) for mine, theirs in pairs)


@pytest.mark.parametrize("case", ["NVFP4A16", "hybrid"])
def test_experts_with_16_bit_activations_are_their_bf16_twin(
    case: str, served: dict[str, Served]
) -> None:
    assert apart(served[case], served[f"{case}-twin"]) == 0
    assert served[case].said["generated"] == served[f"{case}-twin"].said["generated"]


@pytest.mark.parametrize("fmt", ["NVFP4A16", "NVFP4", "FP8", "calibrated"])
def test_modelopt_experts_of_the_same_numbers_are_served_alike(
    fmt: str, served: dict[str, Served]
) -> None:
    assert apart(served[f"modelopt-{fmt}"], served[fmt]) == 0


def test_experts_with_quantized_activations_are_not_their_bf16_twin(
    served: dict[str, Served],
) -> None:
    assert apart(served["FP8_DYNAMIC"], served["FP8_DYNAMIC-twin"]) > 0.01
    assert apart(served["NVFP4"], served["NVFP4A16-twin"]) > 0.1


QUANTIZED: dict[str, tuple[Quantize, Quantize]] = {
    "FP8_DYNAMIC": (fp8_per_token, fp8_per_token),
    "FP8_BLOCK": (fp8_per_group, fp8_per_group),
    "FP8": (fp8_per_tensor(max(FP8_INPUT)), fp8_per_tensor(max(FP8_INPUT) / 2)),
    "NVFP4": (nvfp4(min(NVFP4_INPUT)), nvfp4(min(NVFP4_INPUT) / 2)),
}


@pytest.mark.parametrize("fmt", QUANTIZED)
@pytest.mark.parametrize("index", range(LAYERS))
def test_a_layer_quantizes_its_activations_as_a_gpu_does(
    fmt: str, index: int, served: dict[str, Served]
) -> None:
    case = served[fmt]
    stored = read_checkpoint(case.directory)
    first, second = QUANTIZED[fmt]
    theirs, ours = computed(case, stored, index, first, second)
    assert np.mean(theirs == ours) > 0.999
    assert relative(theirs, ours) < 1e-3
    for wrong in ((first, unquantized), (unquantized, second), (unquantized, unquantized)):
        assert relative(theirs, computed(case, stored, index, *wrong)[1]) > 0.01


@pytest.mark.parametrize("index", range(LAYERS))
def test_what_we_write_has_one_input_scale_a_layer_and_projection(
    index: int, served: dict[str, Served]
) -> None:
    """Statistics are made by hand and differ by expert, layer and projection."""
    case = served["calibrated"]
    stored = read_checkpoint(case.directory)
    scales: dict[str, set[float]] = {"gate_up": set(), "down": set()}
    for name, tensor in stored.items():
        if f"layers.{index}.mlp.experts." in name and name.endswith(".input_global_scale"):
            product = "down" if ".down_proj." in name else "gate_up"
            scales[product].add(float(as_float32(tensor)[0]))
    (first,), (second,) = scales["gate_up"], scales["down"]
    assert first != second
    theirs, ours = computed(case, stored, index, nvfp4(first), nvfp4(second))
    assert np.mean(theirs == ours) > 0.999
    assert relative(theirs, ours) < 1e-3
    assert relative(theirs, computed(case, stored, index, nvfp4(second), nvfp4(first))[1]) > 0.01


def test_a_wrong_global_scale_is_still_warned_of_and_the_gates_is_taken(
    served: dict[str, Served],
) -> None:
    """So it is on a GPU; the gate on the log, and inspection before it, are there to catch it."""
    case = served["mixed"]
    assert any("w1_weight_global_scale must match" in line for line in case.said["log"])
    stored = read_checkpoint(case.directory)
    taken = stored[f"{BROKEN}.gate_proj.weight_global_scale"]
    as_served = stored | {f"{BROKEN}.up_proj.weight_global_scale": taken}
    assert relative(*computed(case, as_served, 1, unquantized, unquantized)) < 0.01
    assert relative(*computed(case, stored, 1, unquantized, unquantized)) > 0.05


def test_warnings_of_scales_are_those_that_are_due(served: dict[str, Served]) -> None:
    """Our W4A4 experts differ in their input scales; those with 16-bit activations have none."""
    warned = {
        name: [line for line in case.said["log"] if "scale" in line]
        for name, case in served.items()
        if name != "mixed"
    }
    (one,) = warned.pop("NVFP4")
    assert "activation global scale for inputs are different" in one
    assert {name for name, lines in warned.items() if lines} == set()


@pytest.mark.parametrize("case", KERNELS)
def test_the_kernels_in_use_are_named(case: str, served: dict[str, Served]) -> None:
    """Of each process once; so here of the first checkpoint that needs a kernel."""
    assert served[case].said["kernels"] == KERNELS[case]


def computed(
    case: Served, stored: dict[str, Tensor], index: int, first: Quantize, second: Quantize
) -> tuple[Floats, Floats]:
    """The output of a layer of experts for the first prompt: vLLM's, and NumPy's."""
    (parent,) = (
        name.removesuffix(".input") for name in case.seen if f".{index}.mlp.experts.input" in name
    )
    layer = Layer.read(stored, parent)
    asked = [case.seen[f"{parent}.{part}"] for part in ("input", "experts", "weights", "output")]
    hidden, weights, said = as_float32(asked[0]), as_float32(asked[2]), as_float32(asked[3])
    experts = np.frombuffer(asked[1].data, np.int64).reshape(asked[1].shape)
    return said, forward(layer, hidden, experts, weights, first, second)


def relative(one: Floats, other: Floats) -> float:
    """The relative difference of two outputs."""
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))
