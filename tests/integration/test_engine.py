"""What the engine writes, on every tiny family: the planned bytes, and always the same ones.

We test these aspects:
- every tensor of every shard is where the plan says, and the reference reader agrees
- the result does not depend on workers, sharding, expert layout or store
- what is kept is unchanged; what is quantized has the error that `checkpoint.json` states
"""

import hashlib
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from halftone.checkpoint import reference
from halftone.plan.layout import MAX_SHARD_BYTES
from halftone.spec.documents import CheckpointDocument
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import Format
from halftone.spec.names import Reason
from halftone.spec.recipes import presets
from tests.builders import (
    TINY,
    Sharding,
    Tensor,
    as_float32,
    make_tensors,
    read_checkpoint,
    read_header,
    tiny_config,
    write_checkpoint,
)
from tests.commands import Made, files_of, quantize_directory, wide_config, write_recipe
from tests.doubles.hub import HubDouble
from tests.doubles.s3 import S3Double

PRESETS = tuple(presets())
FUSED = ("qwen3_5_moe", "qwen3_5_moe_text")
LAYOUTS = [*product(TINY, ["PerExpert"]), *product(FUSED, ["Fused"])]
WITHOUT_MLP = {"qwen3_5_moe", "qwen3_5_moe_text", "qwen3_moe", "mixtral"}
SHARDINGS: list[Sharding] = [
    "OneFile", "BetweenLayers", "AfterQProj", "InsideGroups", "AllQProjTogether", "PartnersAlone",
    "OneTensorAFile", 7, 200,
]  # fmt: skip


def assert_written_as_planned(made: Made) -> None:
    """Every shard has the planned header, and every tensor lies at its planned place."""
    rows = {row.name: row for row in made.planned.full_document().layout}
    seen: set[str] = set()
    for shard in made.planned.shards:
        path = made.directory / shard.file
        entries, start = read_header(path)
        head = path.read_bytes()[:start]
        assert hashlib.sha256(head).hexdigest() == shard.header_sha256
        assert path.stat().st_size == shard.size_bytes
        with safe_open(path, "numpy") as opened:
            assert set(opened.keys()) == entries.keys()
            for name, entry in entries.items():
                row = rows[name]
                assert (row.file, row.dtype, list(row.shape)) == (
                    shard.file,
                    entry["dtype"],
                    entry["shape"],
                )
                assert [row.begin, row.end] == entry["data_offsets"]
                assert (start + row.begin) * 8 % row.dtype.bits == 0
                assert tuple(opened.get_slice(name).get_shape()) == row.shape
        seen |= entries.keys()
    assert seen == rows.keys()


def as_written(stored: dict[str, Tensor], member: str, fmt: Format) -> reference.Floats:
    """What a server dequantizes for the matrix `member`, by the NumPy reference."""
    module = member.removesuffix("weight")
    scale = stored[f"{module}weight_scale"]
    if fmt is Format.NVFP4A16:
        packed = stored[f"{module}weight_packed"]
        shared = np.frombuffer(stored[f"{module}weight_global_scale"].data, np.float32)[0]
        return reference.nvfp4_dequantize(codes(packed), codes(scale), shared)
    weight = stored[member]
    scales = as_float32(scale)
    block = (1, weight.shape[1]) if fmt is Format.FP8_DYNAMIC else (128, 128)
    return reference.fp8_dequantize(codes(weight), scales, block)


def codes(tensor: Tensor) -> reference.Codes:
    return np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape)


def stored_tensors(made: Made) -> dict[str, Tensor]:
    return read_checkpoint(made.directory)


def assert_errors_hold(made: Made, originals: dict[str, Tensor]) -> None:
    """Each group's error in the document is that of its bytes."""
    stored = stored_tensors(made)
    for group in made.document.groups:
        error = weight = 0.0
        for member in group.members:
            before = as_float32(originals[member]).astype(np.float64)
            after = as_written(stored, member, group.format)
            error += float(np.sum((before - after) ** 2))
            weight += float(np.sum(before**2))
        assert float(group.relativeError) == pytest.approx((error / weight) ** 0.5, abs=3e-6)


@pytest.mark.parametrize(("model", "experts"), LAYOUTS)
def test_every_preset_writes_exactly_what_it_planned(
    model: str, experts: str, tmp_path: Path
) -> None:
    source = write_checkpoint(tmp_path / "source", model, experts=experts)  # type: ignore[arg-type]
    for preset in PRESETS:
        if preset.endswith("-mlp") and model in WITHOUT_MLP:
            with pytest.raises(RefusedInput) as refused:
                quantize_directory(source, tmp_path / preset, preset)
            assert refused.value.reason is Reason.NothingToQuantize
            continue
        made = quantize_directory(source, tmp_path / preset, preset)
        assert_written_as_planned(made)
        assert {file.path for file in made.document.files} | {"checkpoint.json"} == {
            path.name for path in made.directory.iterdir()
        }
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("max_shard_bytes", [1, 20_000, 300_000, MAX_SHARD_BYTES])
def test_shards_of_any_size_hold_whole_groups_and_add_up(
    max_shard_bytes: int, tmp_path: Path
) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3_5_moe", experts="Fused")
    made = quantize_directory(source, tmp_path / "output", max_shard_bytes=max_shard_bytes)

    assert_written_as_planned(made)
    places = {row.name: row.file for row in made.planned.full_document().layout}
    for shard in made.planned.shards:
        assert len(shard.units) == 1 or sum(u.nbytes for u in shard.units) <= max_shard_bytes
        for unit in shard.units:
            assert {places[p.name] for stored in unit.parts for p in stored} == {shard.file}
    index = made.directory / "model.safetensors.index.json"
    assert index.exists() == (len(made.planned.shards) > 1)
    if index.exists():
        document = json.loads(index.read_text())
        assert document["weight_map"] == places
        data = sum(row.end - row.begin for row in made.planned.full_document().layout)
        assert document["metadata"]["total_size"] == data


@pytest.mark.parametrize("preset", ["nvfp4a16", "nvfp4-mlp", "fp8-dynamic", "fp8-block"])
def test_the_number_of_workers_changes_no_byte(
    preset: str, wide_source: Path, tmp_path: Path
) -> None:
    made = [
        quantize_directory(wide_source, tmp_path / str(n), preset, workers=n) for n in (1, 2, 5)
    ]

    assert_written_as_planned(made[0])
    assert files_of(made[1].directory) == files_of(made[0].directory)
    assert files_of(made[2].directory) == files_of(made[0].directory)


def test_a_second_run_writes_identical_files(tiny_made: Made, tiny_source: Path) -> None:
    again = quantize_directory(tiny_source, tiny_made.directory.with_name("again"))

    assert files_of(again.directory) == files_of(tiny_made.directory)


def test_a_run_on_a_finished_output_touches_nothing(tiny_made: Made, tiny_source: Path) -> None:
    before = {path.name: path.stat() for path in tiny_made.directory.iterdir()}

    again = quantize_directory(tiny_source, tiny_made.directory)

    assert again.document == tiny_made.document
    assert again.document == CheckpointDocument.load(tiny_made.directory / "checkpoint.json")
    after = {path.name: path.stat() for path in tiny_made.directory.iterdir()}
    assert {name: (s.st_ino, s.st_mtime_ns) for name, s in after.items()} == {
        name: (s.st_ino, s.st_mtime_ns) for name, s in before.items()
    }


@pytest.mark.parametrize("model", ["qwen3_5", "qwen3_5_moe", "gemma4_unified", "mixtral"])
def test_sharding_of_the_source_changes_no_digest(model: str, tmp_path: Path) -> None:
    digests = set()
    for how in SHARDINGS:
        source = write_checkpoint(tmp_path / f"source-{how}", model, sharding=how)
        digests.add(quantize_directory(source, tmp_path / f"output-{how}").document.digest)

    assert len(digests) == 1


@pytest.mark.parametrize("preset", ["nvfp4a16", "fp8-dynamic", "fp8-block"])
@pytest.mark.parametrize("model", FUSED)
def test_both_expert_layouts_give_one_digest(model: str, preset: str, tmp_path: Path) -> None:
    fused = write_checkpoint(tmp_path / "fused", model, experts="Fused", sharding="OneFile")
    apart = write_checkpoint(tmp_path / "apart", model, experts="PerExpert")

    first = quantize_directory(fused, tmp_path / "first", preset)
    second = quantize_directory(apart, tmp_path / "second", preset)

    assert first.document.digest == second.document.digest


def test_experts_that_are_kept_keep_their_layout(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3_5_moe", experts="Fused")
    recipe = write_recipe(tmp_path / "recipe.yaml", precision={"Attention": "NVFP4A16"})

    made = quantize_directory(source, tmp_path / "output", recipe)

    assert_written_as_planned(made)
    before, after = read_checkpoint(source), stored_tensors(made)
    stacked = [name for name in before if name.endswith("experts.gate_up_proj")]
    assert stacked
    assert all(after[name] == before[name] for name in stacked)


@pytest.mark.parametrize("preset", PRESETS)
def test_kept_tensors_are_byte_for_byte_those_of_the_source(preset: str, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3_5_text")

    made = quantize_directory(source, tmp_path / "output", preset)

    before, after = read_checkpoint(source), stored_tensors(made)
    kept = [row.name for row in made.planned.full_document().tensors if row.format is None]
    assert kept
    assert all(after[name] == before[name] for name in kept)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("preset", ["nvfp4a16", "fp8-dynamic", "fp8-block"])
def test_the_stated_error_is_that_of_the_written_bytes(
    preset: str, dtype: str, tmp_path: Path
) -> None:
    config = tiny_config("qwen3_5_moe_text")
    source = write_checkpoint(tmp_path / "source", config, dtype=dtype, weights="Outliers")

    made = quantize_directory(source, tmp_path / "output", preset)

    assert_written_as_planned(made)
    assert_errors_hold(made, make_tensors(config, dtype=dtype, weights="Outliers"))


@pytest.mark.parametrize("model", ["qwen3_5_moe_text", "wide"])
def test_members_of_a_group_share_the_scale_of_their_largest_weight(
    model: str, tmp_path: Path
) -> None:
    config = wide_config(layers=1) if model == "wide" else tiny_config(model)
    source = write_checkpoint(tmp_path / "source", config)

    made = quantize_directory(source, tmp_path / "output")

    originals, stored = make_tensors(config), stored_tensors(made)
    assert any(len(group.members) == 3 for group in made.document.groups)
    for group in made.document.groups:
        largest = max(float(np.abs(as_float32(originals[name])).max()) for name in group.members)
        scale = reference.nvfp4_global_scale(largest)
        assert float(group.globalScale or "nan") == scale
        for name in group.members:
            module = name.removesuffix("weight")
            assert stored[f"{module}weight_global_scale"].data == scale.tobytes()
            weights = np.frombuffer(originals[name].data, np.uint16).reshape(originals[name].shape)
            blocks = reference.nvfp4_min_max_codes(weights, scale)
            assert stored[f"{module}weight_scale"].data == blocks.tobytes()
            packed = reference.nvfp4_quantize(weights, blocks, scale)
            assert stored[f"{module}weight_packed"].data == packed.tobytes()


@pytest.mark.parametrize("search", ["MinMax", "MeanSquaredError", "Exhaustive"])
def test_each_search_states_its_error_and_the_gain_over_min_max(
    search: str, tmp_path: Path
) -> None:
    config = tiny_config("qwen3")
    source = write_checkpoint(tmp_path / "source", config)
    precision = {"Mlp": "NVFP4A16"}
    recipe = write_recipe(tmp_path / "recipe.yaml", precision=precision, scaleSearch=search)

    made = quantize_directory(source, tmp_path / "output", recipe)

    assert_errors_hold(made, make_tensors(config))
    for group in made.document.groups:
        assert (group.minMaxError is None) == (search == "MinMax")
        assert float(group.minMaxError or "inf") > float(group.relativeError)


def test_groups_of_many_tiles_state_the_error_of_their_bytes(tmp_path: Path) -> None:
    config = wide_config(layers=1)
    source = write_checkpoint(tmp_path / "source", config)

    made = quantize_directory(source, tmp_path / "output")

    assert max(u.nbytes for s in made.planned.shards for u in s.units) > 3 << 20
    assert_errors_hold(made, make_tensors(config))


@pytest.mark.parametrize("preset", ["nvfp4a16", "fp8-dynamic", "fp8-block"])
def test_large_finite_weights_are_no_nan(preset: str, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3", dtype="F32")
    enlarge(source, 1e30)

    made = quantize_directory(source, tmp_path / "output", preset)

    assert all(0 < float(group.relativeError) < 0.2 for group in made.document.groups)


def enlarge(directory: Path, factor: float) -> None:
    """Multiply every F32 matrix of the source."""
    for path in directory.glob("*.safetensors"):
        _, start = read_header(path)
        data = path.read_bytes()
        values = np.frombuffer(data[start:], np.float32) * np.float32(factor)
        path.write_bytes(data[:start] + values.tobytes())


def test_s3_gives_the_digest_of_a_directory(
    tiny_made: Made, tiny_source: Path, s3_bucket: S3Double, tmp_path: Path
) -> None:
    for name, data in files_of(tiny_source).items():
        s3_bucket.put("models", f"base/{name}", data)

    remote = quantize_directory("s3://models/base", tmp_path / "output")

    assert remote.document.digest == tiny_made.document.digest


def test_the_hub_gives_the_digest_of_a_directory(
    wide_source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    local = quantize_directory(wide_source, tmp_path / "local")
    with HubDouble(wide_source) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        remote = quantize_directory(hub.uri, tmp_path / "remote")

    assert remote.document.digest == local.document.digest
    assert remote.planned.plan.source is not None
    assert remote.planned.plan.source.revision == hub.commit


def test_an_output_may_be_named_by_a_link_to_an_empty_directory(
    tiny_made: Made, tiny_source: Path, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")

    made = quantize_directory(tiny_source, tmp_path / "link")

    assert made.document.digest == tiny_made.document.digest
    assert files_of(tmp_path / "disk") == files_of(tiny_made.directory)
