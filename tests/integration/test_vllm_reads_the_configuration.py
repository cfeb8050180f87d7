"""vLLM 0.32 builds and loads what we write: every family, preset and layout, module by module.

`tests/peers/vllm_configuration.py` builds vLLM's own model classes on our `config.json` and writes
down what each layer was told; here that is held against the plan.

We test these aspects:
- each linear layer, merged or not, routed experts, shared experts, routers, head, vision, audio
  and multi-token prediction get the format that the plan gives them, or none; no quantized matrix
  is left unasked, and a layer without `v_proj` is no obstacle
- vLLM's loader finds a tensor for every parameter; merged matrices share a global scale and an
  input scale, experts of a layer an input scale
- what its own NVFP4 dequantizer makes of the merged matrices is what our decoder makes of ours
- KV scales that were measured arrive in the layer that they are of, in both layouts
- experts with weight-only FP8 do not load, which is vLLM's limit and noticed when it falls
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halftone.plan.planning import Planned
from halftone.spec.formats import CheckpointFormat, Format
from halftone.spec.job import Recipe
from halftone.spec.recipes import load_recipe, presets
from tests.builders import (
    Config,
    has_experts,
    read_file,
    tiny_config,
    write_checkpoint,
)
from tests.builders.numbers import bf16_to_float32, float32_to_bf16
from tests.builders.shapes import ExpertLayout
from tests.builders.statistics import any_amax, caches
from tests.commands import quantize_directory
from tests.environments import ask
from tests.quantizing import Bits, decoded, recipe

pytestmark = pytest.mark.serve_env

# vLLM takes blocks only where merged matrices and experts are whole blocks high.
_EXPERTS: Config = {"moe_intermediate_size": 128, "shared_expert_intermediate_size": 128}
_GEMMA: Config = {"head_dim": 64, "global_head_dim": 128}
MODELS: dict[str, Config] = {
    "qwen3_5": {},
    "qwen3_5_text": {},
    "qwen3_5_moe": _EXPERTS,
    "qwen3_5_moe_text": _EXPERTS,
    "gemma4_unified": _GEMMA,
    "gemma4_unified_text": _GEMMA,  # served by vLLM's generic class, which merges nothing
    "qwen3": {},
    "qwen3_moe": _EXPERTS,
    "llama": {},
    "mistral": {},
    "mixtral": {"intermediate_size": 128},
}
_LANGUAGE = ("Attention", "Mlp", "Experts", "SharedExperts", "LinearAttention")
_MODELOPT = {"checkpointFormat": "ModelOpt"}
# What no preset shows: the other formats of both layouts, and several at once.
RECIPES: dict[str, Recipe] = {
    "modelopt-nvfp4a16": recipe(_MODELOPT, **dict.fromkeys(_LANGUAGE, "NVFP4A16")),
    "modelopt-fp8": recipe(_MODELOPT, **dict.fromkeys(_LANGUAGE, "FP8")),
    "modelopt-fp8-dynamic": recipe(
        _MODELOPT, Attention="FP8_DYNAMIC", LinearAttention="FP8_DYNAMIC"
    ),
    "modelopt-fp8-block": recipe(_MODELOPT, Attention="FP8_BLOCK"),
    "modelopt-mixed": recipe(
        _MODELOPT | {"kvCache": {"format": "FP8", "scales": "Calibrated"}},
        Attention="FP8",
        Mlp="NVFP4",
        Experts="NVFP4",
        SharedExperts="FP8_DYNAMIC",
        LinearAttention="FP8_DYNAMIC",
    ),
    "modelopt-experts-kept": recipe(_MODELOPT, Attention="FP8", SharedExperts="NVFP4"),
    "fp8": recipe(
        {"kvCache": {"format": "FP8", "scales": "Calibrated"}}, **dict.fromkeys(_LANGUAGE, "FP8")
    ),
}
MERGED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
    "in_proj_ba": ("in_proj_b", "in_proj_a"),
}
_NVFP4 = {Format.NVFP4, Format.NVFP4A16}
_SHARING = _NVFP4 | {Format.FP8}
_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.")


@dataclass(frozen=True)
class Case:
    """A checkpoint that vLLM is shown; `draft` is its multi-token-prediction head alone."""

    model: str
    preset: str
    experts: ExpertLayout = "PerExpert"
    draft: bool = False

    @property
    def name(self) -> str:
        """For the names of tests."""
        parts = [self.model, self.preset]
        parts += ["stacked"] if self.experts == "Fused" else []
        return "-".join(parts + (["draft"] if self.draft else []))


def _has_the_roles(model: str, preset: str) -> bool:
    return not (has_experts(model) and preset.endswith("-mlp"))


def _is_read(case: Case) -> bool:
    return not (has_experts(case.model) and case.preset == "fp8-block-a16" and not case.draft)


CASES = [
    *(Case(m, p) for m in MODELS for p in presets() if _has_the_roles(m, p)),
    *(Case(m, r) for m in ("qwen3_5", "qwen3_5_moe", "gemma4_unified", "llama") for r in RECIPES),
    *(Case(m, "nvfp4a16", experts="Fused") for m in ("qwen3_5_moe", "qwen3_moe")),
    *(
        Case(m, p, draft=True)
        for m in ("qwen3_5", "qwen3_5_moe")
        for p in presets()
        if _has_the_roles(m, p)
    ),
]
READ = [case for case in CASES if _is_read(case)]


def _recipe(case: Case) -> Recipe:
    return RECIPES.get(case.preset) or load_recipe(case.preset)


@dataclass(frozen=True)
class Answer:
    """The plan, what vLLM says to its checkpoint, and the values that it reads."""

    planned: Planned
    said: dict[str, Any]
    directory: Path
    values: Path


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """Every case, from one process of vLLM."""
    root = tmp_path_factory.mktemp("vllm")
    written: dict[tuple[str, str, ExpertLayout], Planned] = {}
    requests = []
    for case in CASES:
        place = root / case.model / case.experts
        target = place / case.preset
        key = (case.model, case.preset, case.experts)
        if not place.exists():
            config = tiny_config(case.model, **MODELS[case.model])
            write_checkpoint(place / "source", config, experts=case.experts)
        if key not in written:
            written[key] = quantize_directory(place / "source", target, _recipe(case)).planned
        values = str(root / f"{case.name}.safetensors")
        requests.append({"directory": str(target), "draft": case.draft, "values": values})
    said = ask("serve", "vllm_configuration.py", requests, work=root, timeout_s=280)
    out = {}
    for case, request, one in zip(CASES, requests, said, strict=True):
        planned = written[case.model, case.preset, case.experts]
        place = Path(str(request["directory"]))
        out[case.name] = Answer(planned, one, place, Path(str(request["values"])))
    return out


@pytest.mark.parametrize("case", READ, ids=[case.name for case in READ])
def test_every_layer_gets_the_format_of_the_plan(case: Case, answers: dict[str, Answer]) -> None:
    answer = answers[case.name]
    assert answer.said["error"] is None
    formats = {
        runtime_name(t.name.removesuffix(".weight")): t.format for t in answer.planned.tensors
    }
    asked = set()
    for question in answer.said["asked"]:
        modules = on_disk(question, formats)
        planned = {formats[module] for module in modules} or {None}
        assert planned == {format_of(question["scheme"])}, question
        asked |= modules
    region = "mtp." if case.draft else "layers."
    unasked = {m for m, f in formats.items() if f and m.startswith(region)} - asked
    assert not unasked
    assert any(module.startswith(region) for module in asked)


TABLED = [case for case in READ if _recipe(case).checkpointFormat is not CheckpointFormat.ModelOpt]


@pytest.mark.parametrize("case", TABLED, ids=[case.name for case in TABLED])
def test_the_block_holds_expressions_and_never_a_list_of_modules(
    case: Case, answers: dict[str, Answer]
) -> None:
    config = json.loads((answers[case.name].directory / "config.json").read_text())
    block = config["quantization_config"]
    targets = [target for group in block["config_groups"].values() for target in group["targets"]]
    names = [e for e in (*targets, *block["ignore"]) if not e.startswith("re:")]
    assert names == ["lm_head"]


@pytest.mark.parametrize("case", READ, ids=[case.name for case in READ])
def test_measured_scales_of_the_cache_arrive_where_they_belong(
    case: Case, answers: dict[str, Answer]
) -> None:
    answer = answers[case.name]
    cached = _recipe(case).kvCache is not None
    assert (answer.said["kvCache"] != "auto") is cached
    expected = {
        f"{runtime_name(attention)}.attn.{half}_scale": _fp8_scale(any_amax(f"{attention}.{half}"))
        for attention in caches(answer.planned)
        for half in "kv"
        if not case.draft
    }
    found = {runtime_name(name): value for name, value in answer.said["cacheScales"].items()}
    assert found == expected


def _fp8_scale(amax: float) -> float:
    """amax / 448, a BF16 number."""
    scale = np.array([amax], np.float32) / np.float32(448)
    return float(bf16_to_float32(float32_to_bf16(scale))[0])


@pytest.mark.parametrize("case", READ, ids=[case.name for case in READ])
def test_the_loader_fills_every_parameter_and_merged_scales_are_equal(
    case: Case, answers: dict[str, Answer]
) -> None:
    said = answers[case.name].said
    formats = {t.format for t in answers[case.name].planned.tensors}
    # No checkpoint needs these: KV scales may be 1, and weight-only NVFP4 has no input scale.
    placeholders = [".attn."] + (["input_"] if Format.NVFP4A16 in formats else [])
    missing = [name for name in said["unloaded"] if not any(p in name for p in placeholders)]
    assert missing == []
    assert said["parameters"] > 10
    assert said["unequalGlobalScales"] == []
    assert (said["globalScales"] > 0) is (bool(formats & _SHARING) and not case.draft)


NVFP4 = [
    case
    for case in READ
    if not case.draft and _NVFP4 & {line.format for line in _recipe(case).precision}
]


@pytest.mark.parametrize("case", NVFP4, ids=[case.name for case in NVFP4])
def test_what_vllm_dequantizes_after_merging_is_what_we_wrote(
    case: Case, answers: dict[str, Answer]
) -> None:
    """To the last bit but one: vLLM multiplies by a reciprocal where our decoder divides."""
    answer = answers[case.name]
    formats = {runtime_name(t.name): t.format for t in answer.planned.tensors}
    ours = {
        runtime_name(name): bits
        for name, bits in decoded(answer.planned, answer.directory).items()
        if formats[runtime_name(name)] in _NVFP4
    }
    theirs = read_file(answer.values)
    seen = set()
    for name, tensor in theirs.items():
        members = merged_members(runtime_name(name), ours)
        seen |= set(members)
        expected = np.concatenate([ours[member] for member in members])
        found = np.frombuffer(tensor.data, np.uint16).reshape(-1, expected.shape[1])
        apart = np.abs(found.astype(np.int32) - expected)
        assert apart.max() <= 1, name
        assert np.mean(apart > 0) < 0.001, name
    assert seen == ours.keys()


UNREAD = [case for case in CASES if not _is_read(case)]


@pytest.mark.parametrize("case", UNREAD, ids=[case.name for case in UNREAD])
def test_vllm_has_no_weight_only_fp8_for_routed_experts(
    case: Case, answers: dict[str, Answer]
) -> None:
    """Not ours to mend: its experts know FP8 weights with FP8 activations only."""
    said = answers[case.name].said
    assert "'NoneType' object has no attribute 'num_bits'" in said["error"]


def runtime_name(module: str) -> str:
    """One name for a module on disk and at run time: without the language model's prefix."""
    for prefix in _PREFIXES:
        module = module.removeprefix(prefix)
    return module


def on_disk(question: dict[str, Any], formats: dict[str, Format | None]) -> set[str]:
    """The modules of the checkpoint that become the layer of `question`; those that there are."""
    name = runtime_name(question["name"])
    if question["layer"] == "RoutedExperts":
        return {module for module in formats if module.startswith(f"{name}.")}
    parent, _, leaf = name.rpartition(".")
    parts = {f"{parent}.{part}" for part in MERGED.get(leaf, ())}
    return (parts or {name}) & formats.keys()


def merged_members(layer: str, ours: dict[str, Bits]) -> list[str]:
    """Our matrices in the order in which vLLM puts their rows together in `layer`."""
    experts, _, part = layer.partition(".routed_experts.")
    if part:
        leaves = {"w13": ("gate_proj", "up_proj"), "w2": ("down_proj",)}[part]
        if f"{experts}.0.w1.weight" in ours:
            leaves = {"w13": ("w1", "w3"), "w2": ("w2",)}[part]
        number = len({name.split(".")[-3] for name in ours if name.startswith(f"{experts}.")})
        return [f"{experts}.{e}.{leaf}.weight" for e in range(number) for leaf in leaves]
    parent, _, leaf = layer.rpartition(".")
    members = [f"{parent}.{part}.weight" for part in MERGED.get(leaf, (leaf,))]
    if leaf == "qkv_proj" and members[2] not in ours:
        members[2] = members[1]  # keys serve as values
    return members


def format_of(scheme: dict[str, Any] | None) -> Format | None:
    """Our word for vLLM's scheme; KeyError for one that we never ask for."""
    if scheme is None:
        return None
    chosen = scheme["class"].removeprefix("CompressedTensors").removesuffix("MoEMethod")
    if chosen in {"W4A4Fp4", "W4A4Nvfp4", "ModelOptNvFp4"}:
        return Format.NVFP4A16 if scheme["use_a16"] else Format.NVFP4
    chosen = "W8A8Fp8" if chosen == "ModelOptFp8" else chosen
    assert bool(scheme["static"]) is (scheme["strategy"] == "tensor")
    return {
        ("W8A8Fp8", "tensor"): Format.FP8,
        ("W8A8Fp8", "channel"): Format.FP8_DYNAMIC,
        ("W8A8Fp8", "block"): Format.FP8_BLOCK,
        ("W8A16Fp8", "block"): Format.FP8_BLOCK_A16,
    }[chosen, scheme["strategy"]]
