"""Our ModelOpt layout against what nvidia-modelopt's own export writes for the same scales.

We quantize; ModelOpt then quantizes the same source, its maxima are replaced by those that give our
scales, and it exports. NVFP4's global scale and FP8's scales are ours by compressed-tensors'
arithmetic, in BF16, so that both of our layouts hold one model.

We test these aspects:
- names, dtypes, shapes, kept tensors and scales are equal; a scale that no float32 maximum gives
  is one unit in the last place off
- static FP8: every code is equal. NVFP4: so is every code for the same block scales
- where block scales and codes differ it is by one step, and because compressed-tensors rounds to
  BF16 on the way: the largest weight over 6, and of FP8 per channel and block the quotient
- the scale that ModelOpt finds by itself is ours within that rounding
- both configurations are equal but for the producer, whatever is kept, mixed or cached
- ModelOpt's own export goes through `halftone convert`, and its weights stay worth what they were
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halftone.plan.planning import Planned
from tests.builders import Tensor, as_float32, read_checkpoint, read_file, write_checkpoint
from tests.builders.numbers import (
    Floats,
    bf16_to_float32,
    float32_to_bf16,
    float32_to_e4m3,
)
from tests.commands import halftone, quantize_directory
from tests.environments import ask
from tests.quantizing import codes, recipe
from tests.twins import nvfp4_values

pytestmark = pytest.mark.quantize_env

Tensors = dict[str, Tensor]

CONFIGS = {
    "NVFP4": "NVFP4_DEFAULT_CFG",
    "NVFP4A16": "W4A16_NVFP4_CFG",
    "FP8": "FP8_DEFAULT_CFG",
    "FP8_DYNAMIC": "FP8_PER_CHANNEL_PER_TOKEN_CFG",
    "FP8_BLOCK": "FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG",
}
SCALES = {"fp8": "Calibrated", "fp8_cast": "Unit"}
EIGHT_BITS = {"num_bits": [4, 3], "axis": None}
ATTENTION_IN_FP8 = [
    {"quantizer_name": f"*self_attn*proj*{kind}_quantizer", "cfg": EIGHT_BITS}
    for kind in ("weight", "input")
]
ATTENTION_KEPT = [{"quantizer_name": "*self_attn.*_proj.*", "enable": False}]


@dataclass(frozen=True)
class Case:
    """A model, the formats of its roles, its KV cache, and what to tell ModelOpt beside."""

    model: str
    formats: dict[str, str]
    cache: str | None = None
    quantizers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """For the names of tests and directories."""
        return "-".join([self.model, *self.formats.values(), self.cache or "plain"])

    @property
    def config(self) -> str:
        """The configuration of ModelOpt to begin with: that of what is not attention."""
        return CONFIGS[list(self.formats.values())[-1]]


def _all(fmt: str, feed_forward: str = "Mlp") -> dict[str, str]:
    return {"Attention": fmt, feed_forward: fmt}


CASES = [
    Case("qwen3", _all("NVFP4"), "fp8"),
    Case("qwen3", _all("NVFP4A16"), "fp8_cast"),
    Case("qwen3", {"Mlp": "NVFP4"}, "fp8", ATTENTION_KEPT),
    Case("llama", _all("FP8"), "fp8"),
    Case("llama", _all("FP8_DYNAMIC")),
    Case("llama", _all("FP8_BLOCK"), "fp8"),
    Case("qwen3_moe", _all("NVFP4", "Experts")),
    Case("qwen3_moe", {"Attention": "FP8", "Experts": "NVFP4"}, "fp8", ATTENTION_IN_FP8),
]


@dataclass(frozen=True)
class Outcome:
    """What both wrote; `given` are ModelOpt's codes for our block scales, by module."""

    source: Tensors
    ours: Tensors
    theirs: Tensors
    given: Tensors
    planned: Planned
    folder: Path
    answer: dict[str, Any]

    def modules(self, part: str = "weight_scale_2") -> list[str]:
        """Modules that have `part`."""
        return [n.removesuffix(f".{part}") for n in self.ours if n.endswith(f".{part}")]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Every case by us and, in one process, by ModelOpt."""
    root = tmp_path_factory.mktemp("modelopt")
    plans: list[Planned] = []
    requests: list[dict[str, Any]] = []
    for case in CASES:
        place = root / case.name
        source = write_checkpoint(place / "source", case.model)
        fields: dict[str, Any] = {"checkpointFormat": "ModelOpt", "blockScale": "Free"}
        if case.cache:
            fields["kvCache"] = {"format": "FP8", "scales": SCALES[case.cache]}
        made = quantize_directory(source, place / "ours", recipe(fields, **case.formats))
        plans.append(made.planned)
        folders = {"source": "source", "ours": "ours", "target": "theirs", "given": "given"}
        request: dict[str, Any] = {key: str(place / name) for key, name in folders.items()}
        request |= {"config": case.config, "cache": case.cache, "quantizers": case.quantizers}
        requests.append(request)
    answers = ask("quantize", "modelopt_export.py", requests, work=root, timeout_s=400)
    outcomes = {}
    for case, planned, answer in zip(CASES, plans, answers, strict=True):
        assert answer["error"] is None, f"{case.name}: {answer['error']}"
        place = root / case.name
        files = [place / "ours", place / "theirs"]
        ours, theirs = (read_file(folder / "model.safetensors") for folder in files)
        given = read_file(place / "given")
        source_tensors = read_checkpoint(place / "source")
        outcomes[case.name] = Outcome(source_tensors, ours, theirs, given, planned, place, answer)
    return outcomes


def named(*formats: str) -> pytest.MarkDecorator:
    """A test for each case that has one of `formats`, or for all."""
    wanted = [c.name for c in CASES if not formats or set(formats) & set(c.formats.values())]
    return pytest.mark.parametrize("name", wanted)


@named()
def test_names_dtypes_and_shapes_are_the_exports(name: str, outcomes: dict[str, Outcome]) -> None:
    both = outcomes[name]
    assert both.ours.keys() == both.theirs.keys()
    differing = {
        key for key, ours in both.ours.items()
        if (ours.dtype, ours.shape) != (both.theirs[key].dtype, both.theirs[key].shape)
    }  # fmt: skip
    # Where a matrix is one block ModelOpt drops all dimensions, and vLLM does not load that.
    single = {
        key for key, ours in both.ours.items()
        if ours.shape == (1, 1, 1, 1) and both.theirs[key].shape == ()
    }  # fmt: skip
    assert differing == single
    assert bool(single) is ("FP8_BLOCK" in name)


@named()
def test_kept_tensors_and_scales_are_the_exports(name: str, outcomes: dict[str, Outcome]) -> None:
    both = outcomes[name]
    off = {}
    for key, ours in both.ours.items():
        if ours.dtype in {"BF16", "F32"} and ours.data != both.theirs[key].data:
            assert ours.dtype == "F32"
            pair = [np.frombuffer(t.data, np.int32) for t in (ours, both.theirs[key])]
            off[key] = int(np.abs(pair[0] - pair[1]).max())
    # A multiplier is an inverse in float32, and ModelOpt's is a maximum over 2688: of some numbers
    # one is the first, and none the second.
    assert set(off) <= set(both.answer["inexact"])
    assert set(off.values()) <= {1}
    if "NVFP4" not in name:
        assert not both.answer["inexact"]


@named("FP8")
def test_every_code_of_static_fp8_is_the_exports(name: str, outcomes: dict[str, Outcome]) -> None:
    both = outcomes[name]
    compared = [key for key, tensor in both.ours.items() if _is_codes8(key, tensor)]
    assert len(compared) >= 8
    assert [key for key in compared if both.ours[key] != both.theirs[key]] == []


@named("NVFP4", "NVFP4A16")
def test_every_4_bit_code_is_modelopts_for_the_same_scales(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    both = outcomes[name]
    assert len(both.given) == len(both.modules()) >= 6
    different = [m for m, packed in both.given.items() if packed != both.ours[f"{m}.weight"]]
    assert different == []


@named("NVFP4", "NVFP4A16")
def test_block_scales_differ_by_one_step_and_for_one_reason(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    """ModelOpt: fp8(amax / (6 * scale)). compressed-tensors: fp8(bf16(amax / 6) * divisor)."""
    both = outcomes[name]
    differing = total = 0
    for module in both.modules():
        largest = np.abs(as_float32(both.source[f"{module}.weight"]))
        amax = largest.reshape(len(largest), -1, 16).max(axis=-1)
        shared = as_float32(both.theirs[f"{module}.weight_scale_2"])
        divisor = _divisor(both.ours[f"{module}.weight_scale_2"])
        ours = codes(both.ours[f"{module}.weight_scale"])
        theirs = codes(both.theirs[f"{module}.weight_scale"])
        assert np.array_equal(theirs, float32_to_e4m3(amax / (np.float32(6) * shared)))
        sixths = bf16_to_float32(float32_to_bf16(amax / np.float32(6)))
        assert np.array_equal(ours, float32_to_e4m3(sixths * divisor))
        steps = np.abs(ours.astype(int) - theirs.astype(int))
        assert steps.max() <= 1
        differing, total = differing + int(steps.sum()), total + steps.size
    # Half a step of BF16 at both edges of an FP8 step that is 16 to 32 of them wide.
    assert 0 < differing / total < 1 / 32


@named("FP8_DYNAMIC", "FP8_BLOCK")
def test_codes_of_other_fp8_differ_by_the_rounding_of_the_quotient(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    """ModelOpt rounds weight / scale to FP8 at once, compressed-tensors to BF16 before."""
    both = outcomes[name]
    differing = total = 0
    for module in both.modules("weight_scale"):
        weight = as_float32(both.source[f"{module}.weight"])
        quotient = weight / _spread(as_float32(both.ours[f"{module}.weight_scale"]), weight.shape)
        ours, theirs = (codes(side[f"{module}.weight"]) for side in (both.ours, both.theirs))
        assert np.array_equal(theirs, float32_to_e4m3(quotient))
        rounded = bf16_to_float32(float32_to_bf16(quotient))
        assert np.array_equal(ours, float32_to_e4m3(rounded))
        differing, total = differing + int((ours != theirs).sum()), total + ours.size
    assert 0 < differing / total < 1 / 32


@named("NVFP4", "NVFP4A16", "FP8")
def test_the_scale_that_modelopt_finds_is_ours_within_a_rounding(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    both = outcomes[name]
    quantized = [group for group in both.planned.plan.groups if group.format is not None]
    compared = 0
    for group in quantized:
        names = [
            key
            for member in group.members
            for key in (f"{member}_scale_2", f"{member}_scale")
            if key in both.answer["own"]
        ]
        if not names:
            continue
        found = max(both.answer["own"][key] for key in names)
        ours = float(as_float32(both.ours[names[0]]).reshape(-1)[0])
        assert abs(ours / found - 1) <= 2**-7  # two roundings to BF16
        compared += 1
    assert compared == len(quantized) >= 2


@named()
def test_the_configuration_is_the_exports_but_for_the_producer(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    ours, theirs = (_configurations(outcomes[name].folder / who) for who in ("ours", "theirs"))
    for document, other in zip(ours, theirs, strict=True):
        assert list(document) == list(other)
        assert document.pop("producer")["name"] == "halftone"
        assert other.pop("producer") == {"name": "modelopt", "version": "0.47.0"}
        assert document == other


@named()
def test_its_own_export_converts_to_the_other_layout_and_is_worth_the_same(
    name: str, outcomes: dict[str, Outcome], tmp_path: Path
) -> None:
    both = outcomes[name]
    theirs = both.folder / "theirs"
    done = halftone("convert", theirs, tmp_path / "out", "--to", "CompressedTensors", "--json")
    assert done.code == 0, done.err
    nearest = json.loads(done.out)["nearestScales"]
    converted = read_checkpoint(tmp_path / "out")

    for module in both.modules():
        before, after = (nvfp4_values(side, module) for side in (both.theirs, converted))
        off = np.abs(before - after).max() / np.abs(before).max()
        assert bool(off) is (f"{module}.weight_global_scale" in nearest), module
        assert off <= 2.0**-22  # a unit in the last place, and the rounding of a product
    for key, tensor in converted.items():
        if tensor.dtype == "F8_E4M3":
            assert tensor.data == both.theirs[key].data
        elif key.endswith(("weight_scale", "k_scale", "v_scale")):
            kind = key.rpartition(".")[2]
            old = key.replace(kind, f"{kind[0]}_proj.{kind}") if kind[1:] == "_scale" else key
            assert np.array_equal(as_float32(tensor).ravel(), as_float32(both.theirs[old]).ravel())
    assert halftone("inspect", tmp_path / "out").code == 0


def _configurations(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `hf_quant_config.json` and `config.json` say of the quantization."""
    document = json.loads((folder / "hf_quant_config.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    return document, config["quantization_config"]


def _is_codes8(name: str, tensor: Tensor) -> bool:
    return name.endswith(".weight") and tensor.dtype == "F8_E4M3"


def _divisor(multiplier: Tensor) -> np.float32:
    """The BF16 number whose float32 inverse `multiplier` is."""
    near = np.float32(1) / as_float32(multiplier).reshape(1)
    divisor = bf16_to_float32(float32_to_bf16(near))
    assert np.array_equal(np.float32(1) / divisor, as_float32(multiplier).reshape(1))
    return np.float32(divisor[0])


def _spread(scale: Floats, shape: tuple[int, ...]) -> Floats:
    """One scale for each weight, from channels `[N]` or blocks `[a, 1, b, 1]`."""
    if scale.ndim == 1:
        return scale[:, None]
    blocks: Floats = scale[:, 0, :, 0]
    return blocks.repeat(128, axis=0)[: shape[0]].repeat(128, axis=1)[:, : shape[1]]
