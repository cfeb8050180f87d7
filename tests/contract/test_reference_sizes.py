"""Plans of the full-size bases have the exact sizes of the reference table, from headers alone.

The files are sparse: real headers and real sizes, no data on disk.
"""

from pathlib import Path
from typing import Literal

import pytest

from halftone.plan.planning import Planned
from halftone.spec.documents import Method
from halftone.spec.job import MultiTokenPrediction
from halftone.spec.names import Reason
from tests.builders import full_size_config, write_sparse
from tests.commands import plan_directory

BASES: dict[str, tuple[str, Literal["PerExpert", "Fused"]]] = {
    "27B": ("27B", "PerExpert"),
    "35B-A3B": ("35B-A3B", "PerExpert"),
    "35B-A3B-stacked": ("35B-A3B", "Fused"),
    "Gemma-12B": ("Gemma-12B", "PerExpert"),
}

# Bytes of tensor data, KV scales apart. Each was computed independently of this program.
SIZES = {
    "nvfp4a16": {"27B": 28_551_539_168, "35B-A3B": 25_025_868_128, "Gemma-12B": 8_250_787_104},
    "fp8-dynamic": {"27B": 36_778_108_384, "35B-A3B": 39_481_900_768, "Gemma-12B": 13_023_993_856},
    "fp8-block": {"27B": 36_774_667_744, "35B-A3B": 39_296_912_608, "Gemma-12B": 13_020_843_392},
    "fp8-block-a16": {
        "27B": 36_774_667_744,
        "35B-A3B": 39_296_912_608,
        "Gemma-12B": 13_020_843_392,
    },
    "nvfp4-mlp": {"27B": 30_963_264_480, "Gemma-12B": 11_710_104_704},
    "nvfp4-language": {
        "27B": 20_592_849_504,
        "35B-A3B": 23_578_957_488,
        "Gemma-12B": 8_250_788_416,
    },
}
WITHOUT_HEAD = {"27B": 19_743_450_720, "35B-A3B": 21_889_675_952}


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {
        name: write_sparse(
            root / name, full_size_config(size), experts=experts, layer_scalars=False
        )
        for name, (size, experts) in BASES.items()
    }


def planned(directory: Path, recipe: str, *, drop: bool = False) -> Planned:
    changes = {"multiTokenPrediction": MultiTokenPrediction.Drop} if drop else {}
    return plan_directory(directory, recipe, **changes)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("recipe", SIZES)
def test_output_bytes_are_those_of_the_reference_table(
    bases: dict[str, Path], base: str, recipe: str
) -> None:
    expected = SIZES[recipe].get(base.removesuffix("-stacked"))
    plan = planned(bases[base], recipe).plan
    if expected is None:
        assert plan.refusal is not None
        assert plan.refusal.reason is Reason.NothingToQuantize
        assert "Mlp" in plan.refusal.message
        assert plan.output is None
        return
    assert plan.refusal is None
    assert plan.output is not None
    assert plan.output.bytes == expected


@pytest.mark.parametrize("base", ["27B", "35B-A3B", "35B-A3B-stacked"])
def test_dropping_the_prediction_head_saves_its_bytes(bases: dict[str, Path], base: str) -> None:
    plan = planned(bases[base], "nvfp4-language", drop=True).plan
    assert plan.output is not None
    assert plan.output.bytes == WITHOUT_HEAD[base.removesuffix("-stacked")]


@pytest.mark.parametrize("base", BASES)
def test_both_ways_of_counting_agree(bases: dict[str, Path], base: str) -> None:
    result = planned(bases[base], "nvfp4a16")
    output = result.plan.output
    assert output is not None
    rows = [row for shard in result.shards for row in shard.rows]
    assert sum(row.end - row.begin for row in rows) == output.bytes + output.kvScaleBytes
    assert sum(line.bytesAfter for line in result.plan.roles) == output.bytes
    assert output.fileBytes == sum(f.sizeBytes for f in output.files)


def test_calibrated_recipes_are_planned_without_data_and_count_kv_scales_apart(
    bases: dict[str, Path],
) -> None:
    plan = planned(bases["Gemma-12B"], "nvfp4-mlp").plan
    assert plan.method is Method.Calibrated
    assert plan.output is not None
    assert plan.output.kvScaleBytes == 48 * 2 * 4  # layers, k and v, F32


def test_expert_layouts_plan_to_the_same_output(bases: dict[str, Path]) -> None:
    per_expert = planned(bases["35B-A3B"], "nvfp4a16").plan.output
    stacked = planned(bases["35B-A3B-stacked"], "nvfp4a16").plan.output
    assert per_expert is not None
    assert stacked is not None
    assert per_expert.files == stacked.files
