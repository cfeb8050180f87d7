"""Our tensors against those of llm-compressor's `model_free_ptq`, byte for byte.

We test these aspects:
- where the library groups well (dense models, clean shards) every name, dtype, shape and byte of
  quantized and of kept tensors is the same, outliers and subnormal weights included
- where it does not (experts, linear attention) exactly the matrices differ that it gave a global
  scale of their own; ours is shared, and as a server merges them our error is that of matrices
  quantized alone, while theirs is not
- shardings and models that it refuses give the tensors that it writes for a clean sharding
- its checkpoints go through `halftone convert` as ours do
- for F16 and F32 sources, where it computes in the source's precision, ours is no worse
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from halftone.plan.planning import Planned
from halftone.spec.documents import Group
from tests import builders
from tests.builders import Tensor, as_float32, tiny_config, write_checkpoint
from tests.builders.numbers import e4m3_to_float32
from tests.commands import halftone, quantize_directory
from tests.environments import ask
from tests.quantizing import codes, recipe

pytestmark = pytest.mark.quantize_env

Tensors = dict[str, Tensor]
Floats = NDArray[np.float32]

FORMATS = ("NVFP4A16", "FP8_DYNAMIC", "FP8_BLOCK")
FOUR = ("Attention", "Mlp", "Experts", "SharedExperts")
GATES = r"re:.*(mlp\.gate|block_sparse_moe\.gate|shared_expert_gate)$"
KEPT = [
    "lm_head", "re:.*embed_tokens$", GATES, "re:.*visual.*", "re:^mtp.*",
    r"re:.*(vision_embedder|embed_vision|embed_audio)\..*",
]  # fmt: skip
LINEAR_ATTENTION = "re:.*linear_attn.*"
GROUPED_BY_THE_LIBRARY = {"self_attn.qkv_proj", "mlp.gate_up_proj"}
BLOCKS = {"moe_intermediate_size": 128, "shared_expert_intermediate_size": 128}


@dataclass(frozen=True)
class Case:
    """One source, quantized by both: `scheme` in `roles`, everything in `kept` ignored."""

    model: str
    scheme: str
    roles: tuple[str, ...] = FOUR
    kept: tuple[str, ...] = (*KEPT, LINEAR_ATTENTION)
    overrides: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    observer: str | None = None
    refusal: str | None = None

    @property
    def name(self) -> str:
        """For the names of tests and directories."""
        parts = [self.model, self.scheme, *map(str, self.source.values())]
        parts += [part for part in (self.observer,) if part]
        parts += [role for role in self.roles if role not in FOUR]
        return "-".join(parts)


def _linear_attention(*more: str) -> Case:
    kept = (*KEPT, "re:.*conv1d$", *([] if more else ["re:.*in_proj_[ab]$"]))
    return Case("qwen3_5", "NVFP4A16", (*FOUR, "LinearAttention", *more), kept)


DENSE = [Case(m, f) for m in ("llama", "qwen3", "qwen3_5") for f in FORMATS]
HARD = [Case("qwen3", f, source={"weights": w}) for w in ("Outliers", "Subnormal") for f in FORMATS]
EQUAL = [
    *DENSE,
    *HARD,
    Case("qwen3", "NVFP4A16", observer="memoryless_minmax"),
    Case("qwen3", "NVFP4A16", source={"sharding": "OneFile"}),
    Case("qwen3", "NVFP4A16", source={"sharding": "AfterQProj"}),
    Case("qwen3", "NVFP4A16", source={"dtype": "F32"}),
    Case("gemma4_unified", "FP8_DYNAMIC"),
    Case("gemma4_unified", "FP8_BLOCK"),
    Case("mixtral", "NVFP4A16"),  # w1 and w3 are in the library's table, gate and up are not
    Case("mixtral", "FP8_DYNAMIC"),
    Case("qwen3_5_moe", "FP8_DYNAMIC"),
    Case("qwen3_5_moe", "FP8_BLOCK", overrides=BLOCKS),
]
UNEQUAL = [
    Case("qwen3_moe", "NVFP4A16"),
    Case("qwen3_5_moe", "NVFP4A16"),
    Case("qwen3_5_moe", "NVFP4A16", source={"experts": "Fused"}),
    _linear_attention(),
    _linear_attention("LinearAttentionGate"),
]
REFUSED = [
    *(
        Case("qwen3", "NVFP4A16", source={"sharding": sharding}, refusal=refusal)
        for sharding, refusal in {
            "AllQProjTogether": "twice before completing set",
            "PartnersAlone": "twice before completing set",
            "OneTensorAFile": "Could not find inverse_weight_map",
        }.items()
    ),
    Case("gemma4_unified", "NVFP4A16", refusal="v_proj.weight not found in weight map"),
]
OTHER_PRECISION = [
    Case("qwen3", "NVFP4A16", source={"dtype": "F16"}),
    *(Case("qwen3", f, source={"dtype": d}) for f in FORMATS[1:] for d in ("F16", "F32")),
]
CASES = [*EQUAL, *UNEQUAL, *REFUSED, *OTHER_PRECISION]


@dataclass(frozen=True)
class Outcome:
    """What both wrote for one source; `error` is the library's refusal."""

    source: Tensors
    ours: Tensors
    theirs: Tensors
    planned: Planned
    error: str | None
    folder: Path


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Every case, quantized by us and, in one process, by the library."""
    root = tmp_path_factory.mktemp("equal")
    plans, requests = [], []
    for case in CASES:
        place = root / case.name
        config = tiny_config(case.model, **case.overrides)
        source = write_checkpoint(place / "source", config, **case.source)
        formats = dict.fromkeys(case.roles, case.scheme)
        chosen = recipe({"blockScale": "Free"}, **formats)
        plans.append(quantize_directory(source, place / "ours", chosen).planned)
        request = {
            "source": str(source),
            "target": str(place / "theirs"),
            "scheme": case.scheme,
            "ignore": case.kept,
        }
        requests.append(request | ({"observer": case.observer} if case.observer else {}))
    errors = ask(
        "quantize", "model_free_ptq.py", requests, work=root, timeout_s=280, options=["--cases"]
    )
    outcomes = {}
    for case, planned, error in zip(CASES, plans, errors, strict=True):
        read = [
            builders.read_checkpoint(root / case.name / w) for w in ("source", "ours", "theirs")
        ]
        folder = root / case.name
        outcomes[case.name] = Outcome(read[0], read[1], read[2], planned, error, folder)
    return outcomes


def named(cases: Iterable[Case]) -> pytest.MarkDecorator:
    """A test for each case, under the case's name."""
    return pytest.mark.parametrize("name", [case.name for case in cases])


@named(EQUAL)
def test_every_tensor_is_the_librarys_bit_for_bit(name: str, outcomes: dict[str, Outcome]) -> None:
    both = outcomes[name]
    assert both.error is None
    assert both.ours.keys() == both.theirs.keys()
    assert [key for key in both.ours if both.ours[key] != both.theirs[key]] == []
    quantized = [t for t in both.planned.tensors if t.format is not None]
    assert len(quantized) >= 14  # or nothing was compared


@named([case for case in DENSE if case.model == "qwen3"])
def test_the_librarys_checkpoint_goes_into_modelopts_layout_as_ours_does(
    name: str, outcomes: dict[str, Outcome], tmp_path: Path
) -> None:
    """Its configuration names classes and lists; ours is made of the architecture's table."""
    for who in ("ours", "theirs"):
        done = halftone("convert", outcomes[name].folder / who, tmp_path / who, "--to", "ModelOpt")
        assert done.code == 0, done.err

    ours, theirs = (builders.read_checkpoint(tmp_path / who) for who in ("ours", "theirs"))
    assert ours == theirs
    said = [(tmp_path / who / "hf_quant_config.json").read_text() for who in ("ours", "theirs")]
    assert said[0] == said[1]
    assert halftone("inspect", tmp_path / "theirs").code == 0


@named(UNEQUAL)
def test_exactly_the_matrices_with_a_global_scale_of_their_own_differ(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    both = outcomes[name]
    assert both.error is None
    assert both.ours.keys() == both.theirs.keys()
    own_scale = set()
    for group in quantized_groups(both.planned):
        theirs = [global_scale(both.theirs, member) for member in group.members]
        shared = {global_scale(both.ours, member) for member in group.members}
        assert shared == {min(theirs)}  # a divisor: the smallest belongs to the largest maximum
        own_scale |= {m for m, s in zip(group.members, theirs, strict=True) if s != min(theirs)}
        assert (len(set(theirs)) == 1) is (kind(group) in GROUPED_BY_THE_LIBRARY), group.name
    different = {key for key in both.ours if both.ours[key] != both.theirs[key]}
    assert {f"{module(key)}.weight" for key in different} == own_scale
    assert own_scale


@named(UNEQUAL)
def test_as_a_server_merges_them_ours_is_at_the_unfused_bound_and_theirs_is_not(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    both = outcomes[name]
    errors: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for group in quantized_groups(both.planned):
        members = {member: as_float32(sources(both)[member]) for member in group.members}
        alone = error(members, both.theirs, {})
        errors[kind(group)].append(
            (
                alone,
                error(members, both.ours, served_scale(both.ours, group)),
                error(members, both.theirs, served_scale(both.theirs, group)),
            )
        )
    damaged = set()
    for of_kind, found in errors.items():
        alone, ours, theirs = np.mean(found, axis=0)
        assert ours <= 1.01 * alone, of_kind
        damaged |= {of_kind} if theirs > 1.1 * alone else set()
    assert damaged == errors.keys() - GROUPED_BY_THE_LIBRARY


@named(REFUSED)
def test_what_the_library_refuses_we_write(name: str, outcomes: dict[str, Outcome]) -> None:
    case = next(one for one in REFUSED if one.name == name)
    both = outcomes[name]
    assert str(case.refusal) in str(both.error)
    assert not both.theirs
    if case.source:  # the sharding alone was refused
        clean = outcomes[Case(case.model, case.scheme).name].theirs
        assert both.ours == clean


@named(OTHER_PRECISION)
def test_a_source_in_another_precision_is_quantized_no_worse_than_by_the_library(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    """The library computes in the source's precision and stores its scales in it; we in float32."""
    both = outcomes[name]
    assert both.error is None
    assert both.ours.keys() == both.theirs.keys()
    assert {k: t.shape for k, t in both.ours.items()} == {
        k: t.shape for k, t in both.theirs.items()
    }
    matrices = {t.name: t.format for t in both.planned.tensors}
    kept = [name for name, fmt in matrices.items() if fmt is None]
    assert [key for key in kept if both.ours[key] != both.theirs[key]] == []
    members = {key: as_float32(both.source[key]) for key, fmt in matrices.items() if fmt}
    assert error(members, both.ours, {}) <= 1.001 * error(members, both.theirs, {})


def quantized_groups(planned: Planned) -> list[Group]:
    """The groups that share a global scale."""
    return [group for group in planned.plan.groups if group.format is not None]


def kind(group: Group) -> str:
    """What a group is, whichever its layer and expert: `mlp.experts.*.gate_up_proj`."""
    return re.sub(r"\b\d+\b", "*", group.name.partition(".layers.")[2]).removeprefix("*.")


def sources(both: Outcome) -> Tensors:
    """The source's matrices by the names that both write: stacked experts taken apart."""
    if any(name.endswith("experts.gate_up_proj") for name in both.source):
        return unstacked(both.source)
    return both.source


def unstacked(tensors: Tensors) -> Tensors:
    """`tensors` with `[experts, rows, columns]` as a matrix for each expert and projection."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        if len(tensor.shape) != 3 or ".experts." not in name:
            out[name] = tensor
            continue
        parent, _, leaf = name.rpartition(".")
        parts = ["gate_proj", "up_proj"] if leaf == "gate_up_proj" else ["down_proj"]
        values = as_float32(tensor)
        for expert, stacked in enumerate(values):
            for part, rows in zip(parts, np.split(stacked, len(parts)), strict=True):
                out[f"{parent}.{expert}.{part}.weight"] = builders.encode(rows, tensor.dtype)
    return out


def module(tensor: str) -> str:
    """The module that a stored tensor belongs to."""
    return tensor.rpartition(".")[0]


def global_scale(stored: Tensors, member: str) -> float:
    """The divisor that is stored for a matrix."""
    return float(as_float32(stored[f"{module(member)}.weight_global_scale"])[0])


def served_scale(stored: Tensors, group: Group) -> dict[str, float]:
    """The divisor that vLLM 0.32 uses for all members: of experts the gate's, else the largest."""
    scales = [global_scale(stored, member) for member in group.members]
    gate = next((m for m in group.members if "gate_proj" in m and ".experts." in m), None)
    served = max(scales) if gate is None else global_scale(stored, gate)
    return dict.fromkeys(group.members, served)


def error(members: dict[str, Floats], stored: Tensors, served: dict[str, float]) -> float:
    """||W - W'|| / ||W|| over `members`; `served` replaces stored global scales."""
    weight = difference = 0.0
    for name, values in members.items():
        result = dequantized(stored, module(name), served.get(name))
        weight += np.square(values, dtype=np.float64).sum()
        difference += np.square(values - result, dtype=np.float64).sum()
    return float(np.sqrt(difference / weight))


def dequantized(stored: Tensors, name: str, served: float | None = None) -> Floats:
    """The weights that a module stores, in plain NumPy."""
    scale = stored[f"{name}.weight_scale"]
    packed = stored.get(f"{name}.weight_packed")
    if packed is None:
        weight = as_float32(stored[f"{name}.weight"])
        rows, columns = weight.shape
        spread = as_float32(scale)
        if spread.shape != (rows, 1):
            spread = spread.repeat(128, axis=0)[:rows].repeat(128, axis=1)[:, :columns]
        return weight * spread
    nibbles = np.stack([codes(packed) & 15, codes(packed) >> 4], axis=-1)
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    values = np.where(nibbles & 8, -table[nibbles & 7], table[nibbles & 7])
    divisor = np.float32(served or as_float32(stored[f"{name}.weight_global_scale"])[0])
    steps = e4m3_to_float32(codes(scale)) / divisor
    weights: Floats = values.reshape(*scale.shape, 16) * steps[..., None]
    return weights.reshape(scale.shape[0], -1)
