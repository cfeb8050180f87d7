"""Which format each tensor gets, which groups a server merges, and what is refused by name."""

from typing import Any

import pytest

from halftone.checkpoint.architectures import GENERIC, find
from halftone.checkpoint.architectures.table import Architecture
from halftone.checkpoint.headers import MAX_TENSORS, TensorEntry
from halftone.plan.precision import assigned_format, fused_groups
from halftone.plan.tensors import LogicalTensor, refuse_unbounded
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
        ((0, 64), Dtype.BF16, Reason.ShapeNotQuantizable, "holds no weights to quantize"),
        ((64, 0), Dtype.BF16, Reason.ShapeNotQuantizable, "has shape [64, 0] and so holds no"),
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


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"num_experts": 8}, "num_experts"),
        ({"text_config": {"num_local_experts": 8}}, "num_local_experts"),
    ],
)
def test_a_stack_of_more_experts_than_the_configuration_has_is_refused(
    config: dict[str, Any], key: str
) -> None:
    stack = entry(f"{LAYER}.mlp.experts.gate_up_proj", (9, 2, 16))
    row = table().place(stack.name).row
    assert row is not None
    with pytest.raises(RefusedInput) as refused:
        refuse_unbounded(stack, row, config, others=0)
    assert refused.value.reason is Reason.MalformedCheckpoint
    assert str(refused.value) == (
        f"`{stack.name}` stacks 9 experts, but `{key}` of `config.json` is 8; fetch both of one "
        "revision."
    )
    refuse_unbounded(stack, row, {"num_experts": 9}, others=0)


def test_a_stack_may_not_hold_more_experts_than_headers_hold_tensors() -> None:
    experts = MAX_TENSORS // 2
    stack = entry(f"{LAYER}.mlp.experts.gate_up_proj", (experts, 2, 16))
    row = table().place(stack.name).row
    assert row is not None
    refuse_unbounded(stack, row, {"num_experts": experts}, others=0)
    with pytest.raises(RefusedInput) as refused:
        refuse_unbounded(stack, row, {"num_experts": experts}, others=1)
    assert str(refused.value) == (
        f"With the {experts} experts of `{stack.name}` the checkpoint holds {MAX_TENSORS + 1} "
        f"tensors, and {MAX_TENSORS} are allowed; fetch the file again."
    )


def gated(model_type: str, name: str, columns: int, fmt: Format | None) -> LogicalTensor:
    """A gate or up projection as that family's table places it."""
    place = (table(model_type) if model_type else GENERIC).place(name)
    return LogicalTensor(
        name, place.role, fmt, place.group, place.row, Dtype.BF16, (16, columns), "a", 0, 512, None
    )


GATE, UP = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"


def test_members_with_different_columns_are_refused_with_both_names() -> None:
    members = [
        gated("llama", GATE, 128, Format.NVFP4A16),
        gated("llama", UP, 144, Format.NVFP4A16),
    ]

    with pytest.raises(RefusedInput) as refused:
        fused_groups(members)

    assert refused.value.reason is Reason.ShapeNotQuantizable
    assert f"`{GATE}` has 128 columns and `{UP}` has 144" in refused.value.message


@pytest.mark.parametrize("name", [GATE, UP])
def test_half_of_gate_and_up_is_refused_in_a_family_that_has_both(name: str) -> None:
    with pytest.raises(RefusedInput) as refused:
        fused_groups([gated("llama", name, 128, Format.NVFP4A16)])

    assert refused.value.reason is Reason.MalformedCheckpoint
    assert refused.value.subject == name
    assert f"but the source has `{name}` alone" in refused.value.message


def test_an_mlp_without_a_gate_is_taken_where_no_table_says_more() -> None:
    assert fused_groups([gated("", UP, 128, Format.NVFP4A16)]) == ()


def test_half_of_gate_and_up_may_be_kept_as_it_is() -> None:
    assert fused_groups([gated("llama", UP, 128, None)]) == ()
