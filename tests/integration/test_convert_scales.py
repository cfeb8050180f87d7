"""`halftone convert` of checkpoints whose merged matrices have scales of their own.

A server keeps one scale for q, k and v, and for gate and up, and of unequal ones another in each
layout. We test these aspects:
- input scales become the widest range of the group, in every format and either way, experts' gates
  and ups too; the report names those that were narrower, and nothing else is touched
- a range that BF16 cannot hold stays float32 in all members
- global scales of weights that differ are refused by name, those of experts too
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.builders import Tensor, as_float32, encode, read_checkpoint, write_checkpoint
from tests.commands import halftone, quantize_directory
from tests.inspecting import spoiled
from tests.quantizing import recipe

Stored = dict[str, Tensor]
CT, MODELOPT = LAYOUTS = ("CompressedTensors", "ModelOpt")
MODELS = {
    "dense": ("qwen3", {"Attention": "NVFP4", "Mlp": "FP8"}),
    "experts": ("qwen3_moe", {"Experts": "NVFP4"}),
    "fp8 experts": ("qwen3_moe", {"Experts": "FP8"}),
}
ATTENTION = tuple(f"model.layers.1.self_attn.{part}_proj" for part in "qkv")
MLP = tuple(f"model.layers.0.mlp.{part}_proj" for part in ("gate", "up"))
EXPERT = tuple(f"model.layers.1.mlp.experts.3.{part}_proj" for part in ("gate", "up"))
GROUPS = [("dense", ATTENTION), ("dense", MLP), ("experts", EXPERT), ("fp8 experts", EXPERT)]
BOTH_WAYS = [LAYOUTS, LAYOUTS[::-1]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Every model in both layouts, by name and layout."""
    root = tmp_path_factory.mktemp("scales")
    found = {}
    for name, (model, formats) in MODELS.items():
        source = write_checkpoint(root / f"{name}-source", model)
        for layout in LAYOUTS:
            place = root / f"{name}-{layout}"
            quantize_directory(source, place, recipe({"checkpointFormat": layout}, **formats))
            found[name, layout] = place
    return found


def input_scale(stored: Stored, module: str) -> str:
    (name,) = {f"{module}.input_scale", f"{module}.input_global_scale"} & stored.keys()
    return name


def widths(stored: Stored, modules: tuple[str, ...]) -> dict[str, float]:
    """By the scale's name what an input is divided by: a divisor's inverse is the range."""
    names = [input_scale(stored, module) for module in modules]
    values = {name: as_float32(stored[name]).reshape(-1)[0] for name in names}
    return {
        name: float(np.float32(1) / value if "global" in name else value)
        for name, value in values.items()
    }


def widened(checkpoint: Path, target: Path, module: str, factor: float) -> Path:
    """A copy in which `module` was measured with a range of `factor` times its own."""

    def change(stored: Stored) -> None:
        name = input_scale(stored, module)
        times = 1 / factor if "global" in name else factor
        values = as_float32(stored[name]) * np.float32(times)
        stored[name] = encode(values.astype(np.float32), stored[name].dtype)

    return spoiled(checkpoint, target, change)


@pytest.mark.parametrize("factor", [4, 0.25])
@pytest.mark.parametrize(("before", "after"), BOTH_WAYS)
@pytest.mark.parametrize(("model", "members"), GROUPS)
def test_the_widest_range_of_a_merged_matrix_becomes_that_of_all_its_members(
    made: dict[tuple[str, str], Path],
    tmp_path: Path,
    model: str,
    members: tuple[str, ...],
    before: str,
    after: str,
    factor: float,
) -> None:
    theirs = widened(made[model, before], tmp_path / "theirs", members[1], factor)
    widest = max(widths(read_checkpoint(theirs), members).values())

    done = halftone("convert", theirs, tmp_path / "out", "--to", after, "--json")

    assert done.code == 0, done.err
    stored, plain = read_checkpoint(tmp_path / "out"), read_checkpoint(made[model, after])
    assert set(widths(stored, members).values()) == {widest}
    others = set(members) - {members[1]} if factor > 1 else {members[1]}
    narrower = {input_scale(stored, module) for module in others}
    assert set(json.loads(done.out)["widenedScales"]) == narrower
    scales = {input_scale(stored, module) for module in members}
    assert {n for n in stored if stored[n] != plain[n]} == (scales if factor > 1 else set())
    assert halftone("inspect", tmp_path / "out").code == 0


def test_the_report_says_how_many_and_names_one(
    made: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    theirs = widened(made["dense", MODELOPT], tmp_path / "theirs", ATTENTION[2], 4)

    done = halftone("convert", theirs, tmp_path / "out", "--to", CT)

    first = f"`{ATTENTION[1]}.input_global_scale`"
    assert f"2 got the widest of theirs, the first of them {first}." in done.out


def test_experts_keep_the_range_of_their_own_inputs(
    made: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    """Servers take the widest range of all experts of a layer by themselves."""
    theirs = widened(made["experts", CT], tmp_path / "theirs", EXPERT[0].replace("gate", "down"), 4)

    done = halftone("convert", theirs, tmp_path / "out", "--to", MODELOPT, "--json")

    assert json.loads(done.out)["widenedScales"] == []
    stored, plain = read_checkpoint(tmp_path / "out"), read_checkpoint(made["experts", MODELOPT])
    changed = {name for name in stored if stored[name] != plain[name]}
    assert changed == {EXPERT[0].replace("gate", "down") + ".input_scale"}


def test_a_range_that_bf16_cannot_hold_is_float32_in_all_members(
    made: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    theirs = widened(made["dense", MODELOPT], tmp_path / "theirs", MLP[0], 1.001)

    done = halftone("convert", theirs, tmp_path / "out", "--to", CT, "--json")

    assert json.loads(done.out)["widenedScales"] == [f"{MLP[1]}.input_scale"]
    own = read_checkpoint(theirs)[f"{MLP[0]}.input_scale"]
    stored, expected = read_checkpoint(tmp_path / "out"), Tensor("F32", (1,), own.data)
    assert {stored[f"{module}.input_scale"] for module in MLP} == {expected}


# Weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), BOTH_WAYS)
@pytest.mark.parametrize(
    ("model", "members", "merged"),
    [("dense", ATTENTION, "self_attn.qkv_proj"), ("experts", EXPERT, "experts.3.gate_up_proj")],
)
def test_codes_of_different_global_scales_are_refused(
    made: dict[tuple[str, str], Path],
    tmp_path: Path,
    model: str,
    members: tuple[str, ...],
    merged: str,
    before: str,
    after: str,
) -> None:
    part = "weight_global_scale" if before == CT else "weight_scale_2"

    def change(stored: Stored) -> None:
        name = f"{members[1]}.{part}"
        stored[name] = encode(as_float32(stored[name]) * np.float32(1.5), "F32")

    theirs = spoiled(made[model, before], tmp_path / "theirs", change)

    done = halftone("convert", theirs, tmp_path / "out", "--to", after)

    assert (done.code, done.out) == (2, "")
    assert f"`{members[1]}.{part}` is " in done.err
    assert f"a server merges both into `model.layers.1.{'mlp.' * (model != 'dense')}" in done.err
    assert f"{merged}` and decodes them with one of the two" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
