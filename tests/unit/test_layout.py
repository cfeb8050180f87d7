"""The exact layout of the output: no holes, no overlaps, everything aligned, no group torn apart.

The rules are properties, held over random models; a few fixed cases show what they look like.
"""

import json
from math import prod
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halftone.checkpoint.headers import parse_header
from halftone.plan.layout import (
    OutputShard,
    StoredPart,
    lay_out,
    natural_key,
    shard_names,
)
from halftone.plan.tensors import LogicalTensor
from halftone.spec.dtypes import Dtype
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import (
    FORMATS,
    CheckpointFormat,
    Format,
    stored_bytes,
    stored_tensors,
)
from halftone.spec.roles import Role

KEPT_DTYPES = (Dtype.BF16, Dtype.F32, Dtype.F16, Dtype.I64, Dtype.U8, Dtype.BOOL, Dtype.F64)


def tensor(
    name: str,
    shape: tuple[int, ...] = (128, 64),
    *,
    fmt: Format | None = None,
    group: str | None = None,
    dtype: Dtype = Dtype.BF16,
) -> LogicalTensor:
    """A tensor of some source; where it lies there does not matter here."""
    nbytes = dtype.nbytes(shape)
    return LogicalTensor(
        name, Role.Attention, fmt, group, None, dtype, shape, "in.safetensors", 0, nbytes, None
    )


@st.composite
def models(draw: st.DrawFn) -> list[LogicalTensor]:
    """Some layers with fused groups of one to four members in any format, and kept tensors."""
    found = []
    for layer in range(draw(st.integers(0, 12))):
        fmt = draw(st.sampled_from([None, *Format]))
        columns = 16 * draw(st.integers(1, 40))
        for member in range(draw(st.integers(1, 4))):
            rows = draw(st.integers(1, 300))
            found.append(
                tensor(
                    f"model.layers.{layer}.part{member}.weight",
                    (rows, columns),
                    fmt=fmt,
                    group=f"model.layers.{layer}.fused",
                )
            )
    for number in range(draw(st.integers(1, 8))):
        dtype = draw(st.sampled_from(KEPT_DTYPES))
        shape = tuple(draw(st.lists(st.integers(0, 50), max_size=3)))
        found.append(tensor(f"model.kept.{number}", shape, dtype=dtype))
    return draw(st.permutations(found))


SHARD_BYTES = st.integers(1, 300_000)


@pytest.mark.parametrize("first", [0, 1])
def test_a_tensor_with_the_name_of_a_fused_group_is_refused(first: int) -> None:
    fused = "model.layers.0.self_attn.qkv_proj"
    pair = [
        tensor("model.layers.0.self_attn.q_proj.weight", fmt=Format.NVFP4A16, group=fused),
        tensor(fused, (4, 4)),
    ]
    with pytest.raises(RefusedInput, match=f"holds a tensor `{fused}`"):
        lay_out([pair[first], pair[1 - first]])


@settings(max_examples=40)
@given(models(), SHARD_BYTES)
def test_tensors_fill_each_shard_without_hole_or_overlap(
    tensors: list[LogicalTensor], shard_bytes: int
) -> None:
    for shard in lay_out(tensors, max_shard_bytes=shard_bytes):
        end = 0
        for row in shard.rows:
            assert row.begin == end
            end = row.end
            assert row.end - row.begin == row.dtype.nbytes(row.shape)
        assert shard.size_bytes == len(shard.header) + end


@settings(max_examples=40)
@given(models(), SHARD_BYTES)
def test_every_tensor_is_aligned_to_its_dtype(
    tensors: list[LogicalTensor], shard_bytes: int
) -> None:
    for shard in lay_out(tensors, max_shard_bytes=shard_bytes):
        assert len(shard.header) % 8 == 0
        for offset, row in zip(shard.offsets().values(), shard.rows, strict=True):
            assert offset * 8 % row.dtype.bits == 0


@settings(max_examples=40)
@given(models(), SHARD_BYTES, st.sampled_from(CheckpointFormat))
def test_each_tensor_is_stored_once_as_its_format_says(
    tensors: list[LogicalTensor], shard_bytes: int, layout: CheckpointFormat
) -> None:
    tensors = [t for t in tensors if t.format is None or layout in FORMATS[t.format].layouts]
    shards = lay_out(tensors, max_shard_bytes=shard_bytes, layout=layout)
    stored = {row.name: row for shard in shards for row in shard.rows}
    assert len(stored) == sum(len(shard.rows) for shard in shards)
    for one in tensors:
        if one.format is None:
            row = stored.pop(one.name)
            assert (row.dtype, row.shape) == (one.dtype, one.shape)
            continue
        rows, columns = one.shape
        parts = [
            stored.pop(one.name.removesuffix("weight") + part.suffix)
            for part in stored_tensors(one.format, layout)
        ]
        assert sum(r.end - r.begin for r in parts) == stored_bytes(
            one.format, layout, rows, columns
        )
    assert stored == {}


@settings(max_examples=40)
@given(models(), SHARD_BYTES)
def test_a_group_is_never_torn_and_only_a_single_unit_overfills_a_shard(
    tensors: list[LogicalTensor], shard_bytes: int
) -> None:
    shards = lay_out(tensors, max_shard_bytes=shard_bytes)
    places: dict[str, str] = {}
    for shard in shards:
        assert len(shard.units) == 1 or sum(u.nbytes for u in shard.units) <= shard_bytes
        for unit in shard.units:
            for member in unit.members:
                key = member.group if member.format and member.group else member.name
                assert places.setdefault(key, shard.file) == shard.file


@settings(max_examples=40)
@given(models(), SHARD_BYTES, st.randoms(use_true_random=False))
def test_the_order_of_the_source_changes_no_byte(
    tensors: list[LogicalTensor], shard_bytes: int, random: Random
) -> None:
    shuffled = random.sample(tensors, len(tensors))

    assert heads(lay_out(tensors, max_shard_bytes=shard_bytes)) == heads(
        lay_out(shuffled, max_shard_bytes=shard_bytes)
    )


def test_names_that_count_alike_have_an_order_of_their_own() -> None:
    one, other = tensor("model.layers.1.weight"), tensor("model.layers.01.weight")

    assert lay_out([one, other]) == lay_out([other, one])


def heads(shards: tuple[OutputShard, ...]) -> list[tuple[str, bytes]]:
    return [(shard.file, shard.header) for shard in shards]


@settings(max_examples=40)
@given(models(), SHARD_BYTES)
def test_our_own_reader_accepts_every_header(
    tensors: list[LogicalTensor], shard_bytes: int
) -> None:
    for shard in lay_out(tensors, max_shard_bytes=shard_bytes):
        read = parse_header(shard.file, shard.size_bytes, shard.header)
        assert read.sha256 == shard.header_sha256
        assert read.metadata == {"format": "pt"}
        for name, entry in read.tensors.items():
            assert entry.offset == shard.offsets()[name]


def test_global_scales_lie_together_right_behind_the_header() -> None:
    members = [
        tensor(f"model.layers.{n}.{p}.weight", (256, 512), fmt=Format.NVFP4A16, group=f"g{n}")
        for n in range(20)
        for p in ("gate_proj", "up_proj")
    ]
    [shard] = lay_out([tensor("model.embed_tokens.weight", (512, 512)), *members])

    names = [row.name for row in shard.rows]
    assert all(name.endswith("weight_global_scale") for name in names[: len(members)])
    assert not any(name.endswith("weight_global_scale") for name in names[len(members) :])


def test_layers_come_in_the_order_of_their_numbers() -> None:
    tensors = [tensor(f"model.layers.{n}.norm.weight", (8,)) for n in (10, 2, 0, 11, 1)]

    shards = lay_out(tensors, max_shard_bytes=1)

    assert [shard.rows[0].name.split(".")[2] for shard in shards] == ["0", "1", "2", "10", "11"]
    assert natural_key("a.2.b") < natural_key("a.10.b")


def test_one_shard_has_the_name_that_readers_look_for_first() -> None:
    assert shard_names(1) == ["model.safetensors"]
    assert shard_names(12)[10] == "model-00011-of-00012.safetensors"


def test_scales_of_a_kv_cache_are_laid_out_beside_their_layer() -> None:
    scale = StoredPart("model.layers.0.self_attn.k_scale", Dtype.BF16, (1,), 2)

    [shard] = lay_out([tensor("model.norm.weight", (8,))], [scale])

    assert {row.name for row in shard.rows} == {"model.norm.weight", scale.name}
    header = json.loads(shard.header[8:])
    assert header[scale.name] == {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}


def test_the_members_of_a_group_that_is_kept_may_lie_apart() -> None:
    tensors = [tensor(f"model.layers.0.{p}.weight", group="fused") for p in ("q_proj", "k_proj")]

    shards = lay_out(tensors, max_shard_bytes=prod((128, 64)) * 2)

    assert len(shards) == 2
