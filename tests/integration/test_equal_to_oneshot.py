"""Our calibrated checkpoints against those of llm-compressor's `oneshot`, on the same samples.

We test these aspects:
- dense models: every tensor of the checkpoint is the same byte for byte, so the scales of inputs,
  of keys and of values are, and 4-bit codes too
- FP8 with measured inputs: the scale of each input is the same
- experts and linear attention: what a server merges or runs together has one scale of ours, the
  widest of theirs, and theirs differ; `inspect` names where, and finds nothing in ours. Of linear
  attention only the weights: its merged matrices are fed one tensor, so their inputs agree anyway
- Gemma-4 with a calibrated cache, which it refuses: ours runs, and gives what it gives once the
  check of its configuration is switched off
- images and text together, where only its pipeline for whole models runs
- Qwen3-MoE layer by layer, where its copy of the configuration loses the causal mask: ours keeps it
"""

import json
import shutil
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from halftone.checkpoint.index import read_checkpoint
from halftone.plan.measurements import measurements
from halftone.plan.planning import Planned, plan_checkpoint
from halftone.quantize.engine import quantize
from halftone.quantize.statistics import read_statistics
from halftone.spec.job import Recipe
from halftone.stores import open_source
from tests import builders
from tests.builders import Tensor, as_float32, write_checkpoint
from tests.commands import halftone
from tests.conftest import ROOT
from tests.environments import ask
from tests.quantizing import recipe

pytestmark = pytest.mark.quantize_env

Tensors = dict[str, Tensor]

LAYERS = r"re:model\.(language_model\.)?layers\.\d+\."
TARGETS = {
    "Attention": rf"{LAYERS}self_attn\.[qkvo]_proj$",
    "Mlp": rf"{LAYERS}mlp\.(gate|up|down)_proj$",
    "Experts": rf"{LAYERS}mlp\.experts\.\d+\.(gate|up|down)_proj$",
    "SharedExperts": rf"{LAYERS}mlp\.shared_expert\.(gate|up|down)_proj$",
    "LinearAttention": rf"{LAYERS}linear_attn\.(in_proj_qkv|in_proj_z|out_proj)$",
    "LinearAttentionGate": rf"{LAYERS}linear_attn\.in_proj_[ab]$",
}
SENTENCES = (
    "The moon is 384,400 km away, give or take; light needs 1.28 seconds.",
    "Rain. ",
    "0123456789 and once more 9876543210: nothing here is ever said twice, except this is.",
)
PICTURES = ("chart.png", "shapes.png")
CACHES = (".k_scale", ".v_scale")


@dataclass(frozen=True)
class Case:
    """One source, calibrated by both: each role in its format, keys and values too."""

    name: str
    model: str
    formats: dict[str, str]
    imageText: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def schemes(self) -> dict[str, list[str]]:
        """The library's targets by preset."""
        found: dict[str, list[str]] = {}
        for role, preset in self.formats.items():
            found.setdefault(preset, []).append(TARGETS[role])
        return found


def nvfp4(*roles: str) -> dict[str, str]:
    """Four bits for `roles`."""
    return dict.fromkeys(roles, "NVFP4")


DENSE = [
    Case("llama", "llama", nvfp4("Attention", "Mlp")),
    Case("qwen3", "qwen3", nvfp4("Mlp")),
    Case("qwen3_5", "qwen3_5", nvfp4("Attention", "Mlp"), imageText=True),
]
FP8 = Case("fp8", "qwen3", {"Attention": "FP8", "Mlp": "FP8"})
LINEAR = Case(
    "linear-attention",
    "qwen3_5",
    nvfp4("Attention", "Mlp", "LinearAttention", "LinearAttentionGate"),
    imageText=True,
)
EXPERTS = [
    Case("qwen3_moe", "qwen3_moe", nvfp4("Attention", "Experts"), options={"pipeline": "basic"}),
    Case("qwen3_5_moe", "qwen3_5_moe", nvfp4("Experts", "SharedExperts"), imageText=True),
]
MASKLESS = Case("qwen3_moe-layer-by-layer", "qwen3_moe", nvfp4("Attention", "Experts"))
REFUSED = Case("gemma", "gemma4_unified", nvfp4("Mlp"), imageText=True)
PERMITTED = Case(
    "gemma-permitted", "gemma4_unified", nvfp4("Mlp"), True, {"perLayerAttributes": True}
)
MIXED = Case("images", "qwen3_5", nvfp4("Attention", "Mlp"), True, {"pipeline": "basic"})
CASES = [*DENSE, FP8, LINEAR, *EXPERTS, MASKLESS, REFUSED, PERMITTED, MIXED]


@dataclass(frozen=True)
class Outcome:
    """What both wrote for one source, and where; `error` is the library's refusal."""

    place: Path
    ours: Tensors
    theirs: Tensors
    planned: Planned
    error: str | None


def calibrated(case: Case, data: Path) -> Recipe:
    """Our recipe for a case, in the library's layout."""
    modalities = ["Text", "Image"] if case is MIXED else ["Text"]
    calibration = {
        "dataset": {"path": str(data)},
        "samples": len(PICTURES) if case is MIXED else len(SENTENCES),
        "modalities": modalities,
    }
    fields: dict[str, Any] = {
        "kvCache": {"format": "FP8", "scales": "Calibrated"},
        "calibration": calibration,
        "checkpointFormat": "CompressedTensors",
    }
    return recipe(fields, **case.formats)


def write_data(folder: Path) -> Path:
    """Rows of text, and rows of a picture with a question."""
    rows: list[dict[str, Any]] = [{"text": text} for text in SENTENCES]
    for name in PICTURES:
        shutil.copy(ROOT / "src/halftone/validate/prompts" / name, folder)
        asked = [{"type": "image"}, {"type": "text", "text": f"What is in {name}?"}]
        rows.append({"messages": [{"role": "user", "content": asked}], "images": [name]})
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_ours(place: Path, chosen: Recipe) -> Planned:
    """Quantize with the statistics that lie in `place`."""
    with closing(open_source(place / "source")) as source:
        checkpoint = read_checkpoint(source)
        planned = plan_checkpoint(checkpoint, chosen)
        measured = read_statistics(place / "statistics", planned)
        quantize(planned, checkpoint, place / "ours", statistics=measured)
    return planned


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Every case, measured by us in one process and by the library in another."""
    root = tmp_path_factory.mktemp("oneshot")
    data = write_data(root)
    ours, theirs = [], []
    for case in CASES:
        place = root / case.name
        source = write_checkpoint(place / "source", case.model)
        chosen = calibrated(case, data).model_dump(mode="json")
        same: dict[str, Any] = {"source": str(source), "samples": str(place / "samples")}
        ours.append(same | {"recipe": chosen, "output": str(place / "statistics")})
        asked = {"target": str(place / "theirs"), "schemes": case.schemes, "cache": True}
        theirs.append(same | asked | {"imageText": case.imageText} | case.options)
    measured = ask("quantize", "calibration_samples.py", ours, work=root, timeout_s=280)
    assert [answer["error"] for answer in measured] == [None] * len(CASES)
    answers = ask("quantize", "oneshot.py", theirs, work=root, timeout_s=280)
    outcomes = {}
    for case, answer in zip(CASES, answers, strict=True):
        place = root / case.name
        planned = write_ours(place, calibrated(case, data))
        written = [
            builders.read_checkpoint(place / which) if (place / which).exists() else {}
            for which in ("ours", "theirs")
        ]
        outcomes[case.name] = Outcome(place, written[0], written[1], planned, answer["error"])
    return outcomes


def named(cases: Iterable[Case]) -> pytest.MarkDecorator:
    """A test for each case, under the case's name."""
    return pytest.mark.parametrize("name", [case.name for case in cases])


@named([*DENSE, PERMITTED, MIXED])
def test_every_tensor_of_a_dense_model_is_the_librarys(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    both = outcomes[name]
    assert both.error is None
    assert both.ours.keys() == both.theirs.keys()
    assert [key for key in both.ours if both.ours[key] != both.theirs[key]] == []
    kinds = {key.rpartition(".")[2] for key in both.ours if key.endswith("_scale")}
    weights = {"weight_global_scale", "weight_scale"}
    assert kinds == {"input_global_scale", "k_scale", "v_scale", *weights}
    for measured in ((".input_global_scale",), CACHES):  # each by itself, so they differ
        assert len(set(ending(both.ours, *measured).values())) > 1


def test_fp8_inputs_have_the_librarys_scales(outcomes: dict[str, Outcome]) -> None:
    both = outcomes[FP8.name]
    assert both.error is None
    ours, theirs = (ending(one, ".input_scale", *CACHES) for one in (both.ours, both.theirs))
    assert len(theirs) == 2 * (7 + 2)  # two layers
    assert len(set(theirs.values())) > 2 * 4  # so many inputs, for some matrices are fed one
    assert ours == theirs


@named([LINEAR, *EXPERTS])
def test_what_is_fed_together_has_one_scale_of_ours_the_widest_of_theirs(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    both = outcomes[name]
    assert both.error is None
    groups = input_groups(both.planned)
    assert_shared(both, groups)
    apart = {kind(group) for group in spread(both.theirs, groups)}
    assert apart == ({"mlp.experts.down_proj"} if name != LINEAR.name else set())
    caches = ending(both.theirs, *CACHES)
    assert len(set(caches.values())) > 1
    assert ending(both.ours, *CACHES) == caches


def test_what_linear_attention_merges_has_one_scale_of_ours_for_its_weights(
    outcomes: dict[str, Outcome],
) -> None:
    both = outcomes[LINEAR.name]
    groups = weight_groups(both.planned)
    assert_shared(both, groups)
    apart = spread(both.theirs, groups)
    assert {kind(group) for group in apart} == {
        "linear_attn.in_proj_qkvz",
        "linear_attn.in_proj_ba",
    }
    assert len(apart) == 2 * 3  # three of four layers


def test_inspect_names_what_linear_attention_merges_in_theirs_and_nothing_in_ours(
    outcomes: dict[str, Outcome],
) -> None:
    both = outcomes[LINEAR.name]
    assert inspected(both.place / "ours") == (0, [])
    code, found = inspected(both.place / "theirs")
    assert code == 1
    groups = weight_groups(both.planned)
    wrong = [one["tensor"] for one in found if one.get("kind") == "UnequalGlobalScales"]
    named = [group for group, members in groups.items() if set(members) & set(wrong)]
    assert len(named) == len(wrong)
    assert named == list(spread(both.theirs, groups))


@named(EXPERTS)
def test_inspect_remarks_experts_with_input_scales_of_their_own_in_theirs_and_not_in_ours(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    both = outcomes[name]
    assert inspected(both.place / "ours") == (0, [])
    _, found = inspected(both.place / "theirs")
    [remark] = [one for one in found if one.get("reason") == "UnequalInputScales"]
    groups = input_groups(both.planned)
    apart = spread(both.theirs, groups)
    experts = [group for group in groups if ".experts." in group]
    widest = max(apart, key=lambda group: apart[group])
    assert remark["subject"] == widest
    assert f"The experts of {len(apart)} of {len(experts)} layers" in remark["message"]
    assert f"by up to {apart[widest]:.2f} times" in remark["message"]


def test_the_library_loses_the_causal_mask_of_a_traced_model_and_we_do_not(
    outcomes: dict[str, Outcome],
) -> None:
    """Only what attention has touched differs, from its first output on; its keys do later."""
    whole, traced = outcomes[EXPERTS[0].name], outcomes[MASKLESS.name]
    assert traced.error is None
    assert traced.ours == whole.ours
    measured = [key for key in traced.theirs if key.endswith((".input_global_scale", *CACHES))]
    first = [key for key in measured if ".layers.0.self_attn." in key]
    different = [key for key in first if traced.theirs[key] != whole.theirs[key]]
    assert different == ["model.layers.0.self_attn.o_proj.input_global_scale"]


def test_a_calibrated_cache_of_gemma_is_refused_by_the_library_and_measured_by_us(
    outcomes: dict[str, Outcome],
) -> None:
    refused, permitted = outcomes[REFUSED.name], outcomes[PERMITTED.name]
    assert "'num_key_value_heads' is a per-layer attribute" in str(refused.error)
    assert not refused.theirs
    assert refused.ours == permitted.ours
    keys = [key for key in refused.ours if key.endswith(".k_scale")]
    assert len(keys) == 6  # every layer, of either number of heads


def input_groups(planned: Planned) -> dict[str, list[str]]:
    """Stored input scales by the group that shares one."""
    assert planned.plan.recipe is not None
    groups = measurements(planned.tensors, planned.plan.recipe).inputs
    return {
        group: [f"{member}.input_global_scale" for member in members]
        for group, members in groups.items()
    }


def weight_groups(planned: Planned) -> dict[str, list[str]]:
    """Stored global scales of weights by the group that a server merges."""
    return {
        group.name: [
            f"{name.removesuffix('.weight')}.weight_global_scale" for name in group.members
        ]
        for group in planned.plan.groups
        if group.format is not None
    }


def assert_shared(both: Outcome, groups: dict[str, list[str]]) -> None:
    """Ours are one number a group: of their divisors the smallest, which has the widest range."""
    assert groups
    for group, members in groups.items():
        widest = min(scale(both.theirs, member) for member in members)
        assert {scale(both.ours, member) for member in members} == {widest}, group


def spread(stored: Tensors, groups: dict[str, list[str]]) -> dict[str, float]:
    """Groups whose members have scales of their own, with the largest by the smallest."""
    found = {group: [scale(stored, name) for name in names] for group, names in groups.items()}
    return {group: max(own) / min(own) for group, own in found.items() if len(set(own)) > 1}


def ending(stored: Tensors, *suffixes: str) -> Tensors:
    """The tensors whose names end so."""
    return {name: tensor for name, tensor in stored.items() if name.endswith(suffixes)}


def kind(group: str) -> str:
    """What a group is, whichever its layer: `mlp.experts.down_proj`."""
    return group.rpartition(".layers.")[2].partition(".")[2]


def scale(stored: Tensors, name: str) -> float:
    """A stored scalar."""
    return float(as_float32(stored[name])[0])


def inspected(checkpoint: Path) -> tuple[int, list[dict[str, Any]]]:
    """The exit code of `inspect`, its defects and its warnings."""
    told = halftone("inspect", checkpoint, "--json")
    found = json.loads(told.out)
    return told.code, [*found["defects"], *found["warnings"]]
