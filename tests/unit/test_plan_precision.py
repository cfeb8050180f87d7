"""Which format each tensor gets, which groups a server merges, and what is refused by name."""

import pytest

from halftone.checkpoint.architectures import find
from halftone.checkpoint.architectures.table import Architecture
from halftone.checkpoint.headers import TensorEntry
from halftone.plan.precision import assigned_format, fused_groups
from halftone.plan.tensors import LogicalTensor
from halftone.spec.documents import Group
from halftone.spec.dtypes import Dtype
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import Format
from halftone.spec.job import Recipe, RolePrecision
from halftone.spec.names import Reason
from halftone.spec.roles import QUANTIZABLE_ROLES, Role

LAYER = "model.language_model.layers.3"


def table(model_type: str = "qwen3_5_moe") -> Architecture:
    found = find({"model_type": model_type})
    assert found is not None
    return found


def entry(name: str, shape: tuple[int, ...], dtype: Dtype = Dtype.BF16) -> TensorEntry:
    return TensorEntry(name, dtype, shape, "a.safetensors", 0, dtype.nbytes(shape))


def recipe(**formats: Format) -> Recipe:
    lines = tuple(RolePrecision(role=Role(role), format=fmt) for role, fmt in formats.items())
    return Recipe(name="mine", precision=lines)


EVERYTHING = recipe(**{role.value: Format.NVFP4A16 for role in sorted(QUANTIZABLE_ROLES)})


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        (f"{LAYER}.self_attn.q_proj.weight", (64, 128), Format.NVFP4A16),
        (f"{LAYER}.mlp.experts.7.down_proj.weight", (64, 128), Format.NVFP4A16),
        (f"{LAYER}.mlp.experts.gate_up_proj", (8, 64, 128), Format.NVFP4A16),
        (f"{LAYER}.mlp.shared_expert.up_proj.weight", (64, 128), Format.NVFP4A16),
        (f"{LAYER}.linear_attn.in_proj_qkv.weight", (64, 128), Format.NVFP4A16),
        (f"{LAYER}.self_attn.q_proj.bias", (64,), None),
        (f"{LAYER}.mlp.gate.weight", (8, 128), None),
        (f"{LAYER}.input_layernorm.weight", (128,), None),
        (f"{LAYER}.linear_attn.A_log", (2,), None),
        ("model.language_model.embed_tokens.weight", (512, 128), None),
        ("lm_head.weight", (512, 128), None),
        ("model.visual.blocks.0.mlp.linear_fc1.weight", (64, 64), None),
        ("mtp.layers.0.self_attn.q_proj.weight", (64, 128), None),
        ("model.something.unheard.of", (7,), None),
    ],
)
def test_a_recipe_for_everything_takes_matrices_of_the_trunk_and_nothing_else(
    name: str, shape: tuple[int, ...], expected: Format | None
) -> None:
    place = table().place(name)

    assert assigned_format(entry(name, shape), place, EVERYTHING) is expected


@pytest.mark.parametrize(
    ("shape", "dtype", "reason", "words"),
    [
        ((64, 100), Dtype.BF16, Reason.ShapeNotQuantizable, "100 columns, but NVFP4A16 needs a"),
        ((64,), Dtype.BF16, Reason.ShapeNotQuantizable, "has shape [64]"),
        ((2, 64, 64), Dtype.BF16, Reason.ShapeNotQuantizable, "has shape [2, 64, 64]"),
        ((0, 64), Dtype.BF16, Reason.ShapeNotQuantizable, "has shape [0, 64]"),
        ((64, 64), Dtype.F64, Reason.SourceAlreadyQuantized, "is stored as F64"),
        ((64, 64), Dtype.U8, Reason.SourceAlreadyQuantized, "is stored as U8"),
    ],
)
def test_a_matrix_that_a_format_cannot_take_is_refused(
    shape: tuple[int, ...], dtype: Dtype, reason: Reason, words: str
) -> None:
    name = f"{LAYER}.self_attn.q_proj.weight"

    with pytest.raises(RefusedInput, match="q_proj") as refused:
        assigned_format(entry(name, shape, dtype), table().place(name), EVERYTHING)

    assert refused.value.reason is reason
    assert refused.value.subject == name
    assert words in refused.value.message


def test_stacked_experts_are_not_read_from_fp8() -> None:
    name = f"{LAYER}.mlp.experts.down_proj"

    with pytest.raises(RefusedInput) as refused:
        assigned_format(entry(name, (8, 64, 128), Dtype.F8_E4M3), table().place(name), EVERYTHING)

    assert refused.value.reason is Reason.SourceAlreadyQuantized


def member(name: str, fmt: Format | None, group: str | None) -> LogicalTensor:
    return LogicalTensor(
        name, Role.Attention, fmt, group, None, Dtype.BF16, (16, 16), "a", 0, 512, None
    )


def test_groups_are_named_with_their_members_and_their_one_format() -> None:
    members = [member(f"a.{part}.weight", Format.NVFP4A16, "a.qkv_proj") for part in "qkv"]

    assert fused_groups([*members, member("a.o.weight", Format.NVFP4A16, None)]) == (
        Group("a.qkv_proj", Format.NVFP4A16, ("a.q.weight", "a.k.weight", "a.v.weight")),
    )


def test_a_lone_member_and_biases_make_no_group() -> None:
    lone = member("a.q.weight", Format.NVFP4A16, "a.qkv_proj")

    assert fused_groups([lone, member("a.q.bias", None, "a.qkv_proj")]) == ()


def test_members_in_different_formats_are_refused_with_all_of_them() -> None:
    members = [
        member("a.q.weight", Format.NVFP4A16, "a.qkv_proj"),
        member("a.k.weight", None, "a.qkv_proj"),
    ]

    with pytest.raises(RefusedInput) as refused:
        fused_groups(members)

    assert refused.value.reason is Reason.GroupMixesFormats
    assert refused.value.subject == "a.qkv_proj"
    assert "a.q.weight: NVFP4A16, a.k.weight: kept" in refused.value.message
    assert "give their roles the same format" in refused.value.message
