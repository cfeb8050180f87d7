"""vLLM 0.32 builds and loads what we write: every family, every preset, module by module.

`tests/peers/vllm_configuration.py` builds vLLM's own model classes on our `config.json` and writes
down what each layer was told; here that is held against the plan.

We test these aspects:
- each linear layer, merged or not, routed experts, shared experts, routers, head, vision, audio
  and multi-token prediction get the format that the plan gives them, or none; no quantized matrix
  is left unasked, and a layer without `v_proj` is no obstacle
- vLLM's loader finds a tensor for every parameter, and merged matrices share a global scale
- what its own NVFP4 dequantizer makes of the merged matrices is what our decoder makes of ours
- calibrated presets, which cannot be written yet, are read the same, KV cache included
- experts with weight-only FP8 do not load, which is vLLM's limit and noticed when it falls
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halftone.checkpoint.architectures import find
from halftone.checkpoint.quantization_config import quantized_model_config
from halftone.plan.planning import Planned
from halftone.quantize.companions import write_json
from halftone.spec.formats import Format
from halftone.spec.names import CONFIG_FILE
from halftone.spec.recipes import load_recipe
from tests.builders import (
    Config,
    has_experts,
    read_file,
    tiny_config,
    write_checkpoint,
    write_companions,
)
from tests.builders.shapes import ExpertLayout
from tests.commands import plan_directory, quantize_directory
from tests.environments import ask
from tests.quantizing import DATA_FREE, Bits, decoded

pytestmark = [pytest.mark.serve_env, pytest.mark.timeout(120)]

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
CALIBRATED = ("nvfp4-mlp", "nvfp4-language")
MERGED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
    "in_proj_ba": ("in_proj_b", "in_proj_a"),
}
# Parameters that no checkpoint needs: KV scales are 1, and A16 experts have no input scale.
_PLACEHOLDERS = (".attn.", "_input_global_scale")
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
    *(Case(m, p) for m in MODELS for p in (*DATA_FREE, *CALIBRATED) if _has_the_roles(m, p)),
    *(Case(m, "nvfp4a16", experts="Fused") for m in ("qwen3_5_moe", "qwen3_moe")),
    *(
        Case(m, p, draft=True)
        for m in ("qwen3_5", "qwen3_5_moe")
        for p in (*DATA_FREE, "nvfp4-language")
        if _has_the_roles(m, p)
    ),
]
READ = [case for case in CASES if _is_read(case)]


@dataclass(frozen=True)
class Answer:
    """The plan, the block that we write, what vLLM says to it, and the values that it reads."""

    planned: Planned
    block: dict[str, Any]
    said: dict[str, Any]
    directory: Path
    values: Path


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """Every case, from one process of vLLM."""
    root = tmp_path_factory.mktemp("vllm")
    written: dict[tuple[str, str, ExpertLayout], tuple[Planned, dict[str, Any]]] = {}
    requests = []
    for case in CASES:
        place = root / case.model / case.experts
        target = place / case.preset
        key = (case.model, case.preset, case.experts)
        if not place.exists():
            config = tiny_config(case.model, **MODELS[case.model])
            write_checkpoint(place / "source", config, experts=case.experts)
        if key not in written:
            written[key] = _written(place / "source", target, case)
        values = str(root / f"{case.name}.safetensors") if case.preset in DATA_FREE else None
        requests.append({"directory": str(target), "draft": case.draft, "values": values})
    said = ask("serve", "vllm_configuration.py", requests, work=root, timeout_s=280)
    out = {}
    for case, request, one in zip(CASES, requests, said, strict=True):
        planned, block = written[case.model, case.preset, case.experts]
        place = Path(str(request["directory"]))
        out[case.name] = Answer(planned, block, one, place, Path(str(request["values"])))
    return out


def _written(source: Path, target: Path, case: Case) -> tuple[Planned, dict[str, Any]]:
    """Our checkpoint, or for what cannot be written yet its configuration alone."""
    chosen = load_recipe(case.preset)
    config = tiny_config(case.model, **MODELS[case.model])
    architecture = find(config)
    assert architecture is not None
    if case.preset in DATA_FREE:
        planned = quantize_directory(source, target, chosen).planned
    else:
        planned = plan_directory(source, chosen)
        target.mkdir(parents=True)
        write_companions(target, config)
    present = (line.role for line in planned.plan.roles)
    ours = quantized_model_config(config, architecture, chosen, present)
    if case.preset in CALIBRATED:
        write_json(target / CONFIG_FILE, ours)
    block: dict[str, Any] = ours["quantization_config"]
    return planned, block


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


@pytest.mark.parametrize("case", READ, ids=[case.name for case in READ])
def test_the_block_holds_expressions_and_never_a_list_of_modules(
    case: Case, answers: dict[str, Answer]
) -> None:
    block = answers[case.name].block
    targets = [target for group in block["config_groups"].values() for target in group["targets"]]
    names = [e for e in (*targets, *block["ignore"]) if not e.startswith("re:")]
    assert names == ["lm_head"]
    cache = answers[case.name].said["kvCache"]
    assert (cache is not None) is (case.preset in CALIBRATED)


LOADED = [case for case in READ if case.preset in DATA_FREE]


@pytest.mark.parametrize("case", LOADED, ids=[case.name for case in LOADED])
def test_the_loader_fills_every_parameter_and_merged_scales_are_equal(
    case: Case, answers: dict[str, Answer]
) -> None:
    said = answers[case.name].said
    missing = [name for name in said["unloaded"] if not any(p in name for p in _PLACEHOLDERS)]
    assert missing == []
    assert said["parameters"] > 10
    assert said["unequalGlobalScales"] == []
    assert (said["globalScales"] > 0) is (case.preset.startswith("nvfp4") and not case.draft)


NVFP4 = [case for case in LOADED if case.preset.startswith("nvfp4") and not case.draft]


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
        if formats[runtime_name(name)] is Format.NVFP4A16
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
    assert not scheme["static"]
    chosen = scheme["class"].removeprefix("CompressedTensors").removesuffix("MoEMethod")
    if chosen in {"W4A4Fp4", "W4A4Nvfp4"}:
        return Format.NVFP4A16 if scheme["use_a16"] else Format.NVFP4
    return {
        ("W8A8Fp8", "channel"): Format.FP8_DYNAMIC,
        ("W8A8Fp8", "block"): Format.FP8_BLOCK,
        ("W8A16Fp8", "block"): Format.FP8_BLOCK_A16,
    }[chosen, scheme["strategy"]]
