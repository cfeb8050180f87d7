"""What a plan says of the two layouts, and of what is measured before it can be carried out.

We test these aspects:
- a format that a layout has no words for, or experts that no server loads from it, are refused
- sizes: ModelOpt's NVFP4 has the bytes of compressed-tensors', its FP8 scales are wider
- KV scales have each layout's names, for every layer with a cache and for no other
- an FP8 cache is refused where no layer is known to have one
- missing and useless calibration data are told; blocks of odd widths are warned of
"""

from pathlib import Path
from typing import Any

import pytest

from halftone.plan.planning import Planned
from halftone.spec.documents import Method
from halftone.spec.dtypes import Dtype
from halftone.spec.formats import CheckpointFormat
from halftone.spec.names import Reason, WarningReason
from tests.builders import read_file, tiny_config, write_checkpoint, write_safetensors
from tests.commands import plan_directory
from tests.quantizing import recipe
from tests.refusals import change_config

CT, MODELOPT = CheckpointFormat.CompressedTensors, CheckpointFormat.ModelOpt
CACHE = {"kvCache": {"format": "FP8", "scales": "Calibrated"}}
DATA = {"calibration": {"dataset": {"path": "/data/rows.jsonl"}}}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    models = ("llama", "qwen3_5", "qwen3_5_moe", "gemma4_unified")
    return {model: write_checkpoint(root / model, model) for model in models}


def reasons(planned: Planned) -> set[WarningReason]:
    return {notice.reason for notice in planned.plan.warnings}


def test_blocks_with_16_bit_activations_have_no_name_in_modelopts_layout(
    sources: dict[str, Path],
) -> None:
    chosen = recipe({"checkpointFormat": MODELOPT}, Attention="FP8", Mlp="FP8_BLOCK_A16")

    refusal = plan_directory(sources["llama"], chosen).plan.refusal

    assert refusal is not None
    assert (refusal.reason, refusal.subject) == (
        Reason.NotSupported,
        "quantization.checkpointFormat",
    )
    assert "cannot express FP8_BLOCK_A16, which the recipe gives to Mlp" in refusal.message
    assert "use CompressedTensors, or give that role FP8_BLOCK" in refusal.message


@pytest.mark.parametrize("fmt", ["FP8_DYNAMIC", "FP8_BLOCK"])
def test_experts_that_no_server_loads_from_modelopts_layout_are_refused(
    fmt: str, sources: dict[str, Path]
) -> None:
    chosen = recipe({"checkpointFormat": MODELOPT}, Attention=fmt, Experts=fmt)

    refusal = plan_directory(sources["qwen3_5_moe"], chosen).plan.refusal

    assert refusal is not None
    assert f"routed experts in {fmt} from `quantization.checkpointFormat" in refusal.message
    assert "give Experts one of FP8, NVFP4, NVFP4A16" in refusal.message
    other_layout = chosen.model_copy(update={"checkpointFormat": CT})
    assert plan_directory(sources["qwen3_5_moe"], other_layout).plan.refusal is None
    assert plan_directory(sources["qwen3_5"], chosen).plan.refusal is None  # has no experts


@pytest.mark.parametrize(
    ("fmt", "more_a_row", "more_a_matrix"),
    [("NVFP4A16", 0, 0), ("NVFP4", 0, 0), ("FP8", 0, 4), ("FP8_DYNAMIC", 2, 0)],
)
def test_layouts_differ_in_size_by_the_width_of_fp8_scales(
    fmt: str, more_a_row: int, more_a_matrix: int, sources: dict[str, Path]
) -> None:
    plans = [
        plan_directory(sources["llama"], recipe({"checkpointFormat": layout}, Mlp=fmt))
        for layout in (CT, MODELOPT)
    ]

    first, second = (planned.plan.output for planned in plans)
    assert first is not None
    assert second is not None
    matrices = [t for t in plans[0].tensors if t.format is not None]
    rows = sum(t.shape[0] for t in matrices)
    assert second.bytes - first.bytes == more_a_row * rows + more_a_matrix * len(matrices)
    assert plans[0].plan.digest != plans[1].plan.digest
    for planned in plans:
        assert planned.plan.output is not None
        laid_out = sum(row.end - row.begin for shard in planned.shards for row in shard.rows)
        assert laid_out == planned.plan.output.bytes


@pytest.mark.parametrize(
    ("layout", "names", "dtype", "shape"),
    [
        (CT, ("k_scale", "v_scale"), Dtype.BF16, (1,)),
        (MODELOPT, ("k_proj.k_scale", "v_proj.v_scale"), Dtype.F32, ()),
    ],
)
@pytest.mark.parametrize(
    ("model", "layers"), [("gemma4_unified", "012345"), ("qwen3_5", "3"), ("llama", "01")]
)
def test_kv_scales_have_the_names_that_loaders_look_for(
    model: str,
    layers: str,
    layout: CheckpointFormat,
    names: tuple[str, str],
    dtype: Dtype,
    shape: tuple[int, ...],
    sources: dict[str, Path],
) -> None:
    chosen = recipe({"checkpointFormat": layout} | CACHE, Mlp="NVFP4A16")

    planned = plan_directory(sources[model], chosen)

    prefix = "model" if model == "llama" else "model.language_model"
    rows = {row.name: row for shard in planned.shards for row in shard.rows}
    scales = {name for name in rows if name.endswith((".k_scale", ".v_scale"))}
    assert scales == {
        f"{prefix}.layers.{layer}.self_attn.{name}" for layer in layers for name in names
    }
    assert {(rows[name].dtype, rows[name].shape) for name in scales} == {(dtype, shape)}
    assert planned.plan.output is not None
    assert planned.plan.output.kvScaleBytes == len(scales) * dtype.nbytes(shape)
    assert planned.plan.method is Method.Calibrated


@pytest.mark.parametrize("scales", ["Unit", "Calibrated"])
def test_a_cache_that_nobody_can_place_is_refused(scales: str, tmp_path: Path) -> None:
    """Attention in one matrix, as some families have it, of which the last table knows nothing."""
    source = write_checkpoint(tmp_path / "source", "llama", sharding="OneFile")
    change_config(source, model_type="unheard_of")
    path = source / "model.safetensors"
    tensors = read_file(path).items()
    write_safetensors(path, {n.replace(".self_attn.k_proj", ".mixer.key"): t for n, t in tensors})
    fields: dict[str, Any] = {"genericArchitecture": "Allow"}
    chosen = recipe(
        fields | {"kvCache": {"format": "FP8", "scales": scales}} | DATA, Mlp="NVFP4A16"
    )

    refusal = plan_directory(source, chosen).plan.refusal

    assert refusal is not None
    assert (refusal.reason, refusal.subject) == (Reason.NotSupported, "quantization.kvCache")
    assert "no layer of the source is known to keep keys and values" in refusal.message
    assert "or set `kvCache: null` where a preset brings it" in refusal.message
    without = recipe(fields, Mlp="NVFP4A16")
    assert plan_directory(source, without).plan.refusal is None


def test_unit_scales_are_not_written(sources: dict[str, Path]) -> None:
    chosen = recipe({"kvCache": {"format": "FP8"}, "checkpointFormat": MODELOPT}, Mlp="NVFP4A16")

    planned = plan_directory(sources["llama"], chosen)

    assert planned.plan.output is not None
    assert planned.plan.output.kvScaleBytes == 0
    assert planned.plan.method is Method.DataFree


def test_a_plan_that_measures_asks_for_data(sources: dict[str, Path]) -> None:
    missing = WarningReason.CalibrationDataMissing
    for fields, formats in ((CACHE, {"Mlp": "NVFP4A16"}), ({}, {"Mlp": "FP8"})):
        chosen = recipe(fields, **formats)
        planned = plan_directory(sources["llama"], chosen)
        assert missing in reasons(planned)
        assert any("`quantization.calibration`" in n.message for n in planned.plan.warnings)
        assert missing not in reasons(
            plan_directory(sources["llama"], recipe(fields | DATA, **formats))
        )


def test_a_plan_that_measures_nothing_says_that_data_are_useless(sources: dict[str, Path]) -> None:
    chosen = recipe(DATA, Mlp="NVFP4A16")

    planned = plan_directory(sources["llama"], chosen)

    assert planned.plan.method is Method.DataFree
    assert WarningReason.CalibrationUnused in reasons(planned)
    assert "give a role one of NVFP4, FP8" in planned.plan.warnings[-1].message


def test_a_role_that_the_model_does_not_have_makes_no_plan_calibrated(
    sources: dict[str, Path],
) -> None:
    planned = plan_directory(sources["llama"], recipe(Mlp="NVFP4A16", Experts="NVFP4"))

    assert planned.plan.method is Method.DataFree
    assert WarningReason.CalibrationDataMissing not in reasons(planned)


def test_modelopts_blocks_need_columns_in_multiples_of_128(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", tiny_config("llama", hidden_size=192))
    chosen = recipe({"checkpointFormat": MODELOPT}, Attention="FP8_BLOCK")

    (notice,) = (
        n
        for n in plan_directory(source, chosen).plan.warnings
        if n.reason is WarningReason.ServerCannotLoad
    )

    assert "has 192 columns, and of ModelOpt's blocks vLLM 0.32 takes multiples" in notice.message
    other_layout = chosen.model_copy(update={"checkpointFormat": CT})
    assert WarningReason.ServerCannotLoad not in reasons(plan_directory(source, other_layout))
