"""The statistics of a calibration, as the engine reads them: what is taken, and what is refused.

We test these aspects:
- an input group has the largest value of its members, experts of a layer of all of them
- an expert without tokens takes part, a module without tokens is refused, as is a missing one
- files that are missing, of another plan, edited, cut short or of another kind are refused
- a file that is too large, whoever says so, is refused before it is read
- NaN, infinite and negative values name their module; zero is a value like any other
- of a published artifact the file is named, and nobody is told to measure again
"""

import json
from pathlib import Path
from typing import Any

import pytest

from halftone.plan.planning import Planned
from halftone.quantize.statistics import published_statistics, read_statistics
from halftone.spec.errors import CheckFailed, RefusedInput
from halftone.spec.names import Reason
from tests.builders import write_checkpoint, write_statistics
from tests.builders.files import Tensor, write_safetensors
from tests.builders.statistics import any_amax, measured_arrays, write_document
from tests.commands import plan_directory
from tests.quantizing import recipe

MEASURED = recipe(
    {"kvCache": {"format": "FP8", "scales": "Calibrated"}},
    Attention="FP8",
    Experts="NVFP4",
    SharedExperts="NVFP4",
    LinearAttention="FP8_DYNAMIC",
)
LAYER = "model.language_model.layers.3"
DOWN = f"{LAYER}.mlp.experts.down_proj"
SHARED = f"{LAYER}.mlp.shared_expert.down_proj"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    source = write_checkpoint(tmp_path_factory.mktemp("source") / "moe", "qwen3_5_moe")
    return plan_directory(source, MEASURED)


def refused(planned: Planned, folder: Path) -> RefusedInput:
    with pytest.raises(RefusedInput) as error:
        read_statistics(folder, planned)
    return error.value


def test_a_group_has_the_largest_value_of_its_members(planned: Planned, tmp_path: Path) -> None:
    found = read_statistics(write_statistics(planned, tmp_path), planned)

    merged = [f"{LAYER}.self_attn.{part}_proj" for part in "qkv"]
    assert found.input_amax(f"{LAYER}.self_attn.qkv_proj") == max(map(any_amax, merged))
    alone = f"{LAYER}.self_attn.o_proj"
    assert found.input_amax(alone) == any_amax(alone)
    number = len(measured_arrays(planned)[f"{DOWN}.tokens"])
    assert number > 1
    for group, parts in {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)}.items():
        experts = [
            f"{LAYER}.mlp.experts.{expert}.{part}_proj"
            for expert in range(number)
            for part in parts
        ]
        assert found.input_amax(f"{LAYER}.mlp.experts.{group}") == max(map(any_amax, experts))
    keys, values = found.kv_amax(f"{LAYER}.self_attn")
    assert keys == any_amax(f"{LAYER}.self_attn.k")
    assert values == any_amax(f"{LAYER}.self_attn.v")


def test_only_what_is_quantized_and_cached_is_there(planned: Planned, tmp_path: Path) -> None:
    found = read_statistics(write_statistics(planned, tmp_path), planned)

    assert set(found.caches) == {f"{LAYER}.self_attn"}
    assert not any("linear_attn" in group for group in found.inputs)
    assert found.document.planDigest == planned.plan.digest


def test_an_expert_that_no_token_reached_shares_the_scale_of_the_others(
    planned: Planned, tmp_path: Path
) -> None:
    arrays = measured_arrays(planned)
    tokens, amax = arrays[f"{DOWN}.tokens"].copy(), arrays[f"{DOWN}.input_amax"].copy()
    tokens[0], amax[0] = 0, 0.0
    changed = {f"{DOWN}.tokens": tokens, f"{DOWN}.input_amax": amax}

    found = read_statistics(write_statistics(planned, tmp_path, changed=changed), planned)

    assert found.input_amax(DOWN) == amax.max() > 0


@pytest.mark.parametrize(
    ("changed", "module"),
    [
        ({f"{SHARED}.tokens": 0}, SHARED),
        ({f"{SHARED}.input_amax": None}, SHARED),
        ({f"{SHARED}.tokens": None}, SHARED),
        ({f"{DOWN}.tokens": [0] * 8}, DOWN),
        ({f"{DOWN}.input_amax": [1.0]}, f"{LAYER}.mlp.experts.1.down_proj"),
        ({f"{DOWN}.input_amax": None}, f"{LAYER}.mlp.experts.0.down_proj"),
        ({f"{LAYER}.self_attn.v_amax": None}, f"{LAYER}.self_attn"),
    ],
)
def test_what_was_not_measured_is_named(
    changed: dict[str, Any], module: str, planned: Planned, tmp_path: Path
) -> None:
    error = refused(planned, write_statistics(planned, tmp_path, changed=changed))

    assert (error.reason, error.subject) == (Reason.ModuleUnmeasured, module)
    assert f"`{module}` was not measured" in error.message
    assert "`halftone calibrate`" in error.message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize(
    ("array", "module"),
    [
        (f"{SHARED}.input_amax", SHARED),
        (f"{LAYER}.self_attn.k_amax", f"{LAYER}.self_attn"),
        (f"{DOWN}.input_amax", f"{LAYER}.mlp.experts.7.down_proj"),
    ],
)
def test_values_that_are_no_magnitude_are_refused(
    value: float, array: str, module: str, planned: Planned, tmp_path: Path
) -> None:
    values = measured_arrays(planned)[array].copy()
    values[-1] = value

    error = refused(planned, write_statistics(planned, tmp_path, changed={array: values}))

    assert (error.reason, error.subject) == (Reason.NonFiniteActivation, module)


@pytest.mark.parametrize(
    ("array", "counts"), [(f"{SHARED}.tokens", [-1]), (f"{DOWN}.tokens", [800] * 7 + [-1])]
)
def test_fewer_tokens_than_none_are_refused(
    array: str, counts: list[int], planned: Planned, tmp_path: Path
) -> None:
    """Seven experts with tokens do not make up for an eighth that counts less than none."""
    error = refused(planned, write_statistics(planned, tmp_path, changed={array: counts}))

    assert error.reason is Reason.StatisticsDiffer
    assert error.subject == str(tmp_path / "statistics.safetensors")
    assert f"counts -1 tokens for `{LAYER}.mlp." in error.message
    assert f"(`{array}`)" in error.message


def test_zero_is_taken(planned: Planned, tmp_path: Path) -> None:
    changed = {f"{SHARED}.input_amax": 0.0, f"{LAYER}.self_attn.k_amax": 0.0}

    found = read_statistics(write_statistics(planned, tmp_path, changed=changed), planned)

    assert found.input_amax(SHARED) == 0.0
    assert found.kv_amax(f"{LAYER}.self_attn")[0] == 0.0


@pytest.mark.parametrize("name", ["statistics.json", "statistics.safetensors"])
def test_missing_files_say_what_makes_them(name: str, planned: Planned, tmp_path: Path) -> None:
    folder = write_statistics(planned, tmp_path / "statistics")
    (folder / name).unlink()

    error = refused(planned, folder)

    assert (error.reason, error.subject) == (Reason.CalibrationRequired, str(folder / name))
    assert "run `halftone calibrate` first" in error.message


def test_statistics_of_another_plan_are_refused(planned: Planned, tmp_path: Path) -> None:
    error = refused(planned, write_statistics(planned, tmp_path, planDigest="f" * 64))

    assert error.reason is Reason.StatisticsDiffer
    assert "another plan (ffffffffffff, this one is " in error.message
    assert "`--scale-search`" in error.message


def test_an_edited_document_is_refused(planned: Planned, tmp_path: Path) -> None:
    path = write_statistics(planned, tmp_path) / "statistics.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"seed": 1}))

    error = refused(planned, tmp_path)

    assert error.reason is Reason.StatisticsDiffer
    assert "was changed after it was written" in error.message


@pytest.mark.parametrize("cut", [True, False])
def test_other_tensors_than_stated_are_refused(cut: bool, planned: Planned, tmp_path: Path) -> None:
    path = write_statistics(planned, tmp_path) / "statistics.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] if cut else data[:-1] + bytes([data[-1] ^ 1]))

    error = refused(planned, tmp_path)

    assert (error.reason, error.subject) == (Reason.StatisticsDiffer, str(path))


@pytest.mark.parametrize("text", ["", "{}", '{"kind": "Plan"}', "\udcff"])
def test_what_is_no_document_of_ours_is_refused(
    text: str, planned: Planned, tmp_path: Path
) -> None:
    path = write_statistics(planned, tmp_path) / "statistics.json"
    path.write_text(text, errors="surrogateescape")

    error = refused(planned, tmp_path)

    assert error.reason is Reason.StatisticsDiffer
    assert f"'{path}' is not a statistics.json of this version" in error.message


def test_a_file_of_another_kind_is_refused(planned: Planned, tmp_path: Path) -> None:
    write_statistics(planned, tmp_path)
    (tmp_path / "statistics.safetensors").write_bytes(b"no safetensors")
    write_document(planned, tmp_path)

    error = refused(planned, tmp_path)

    assert error.reason is Reason.StatisticsDiffer
    assert "is not safetensors" in error.message


def test_arrays_of_another_shape_or_dtype_are_refused(planned: Planned, tmp_path: Path) -> None:
    """A hostile file may state anything of an array that the reader takes for numbers."""
    write_statistics(planned, tmp_path)
    path = tmp_path / "statistics.safetensors"
    every = {
        name: Tensor("F32", (1, len(array)), array.astype("float32").tobytes())
        for name, array in measured_arrays(planned).items()
    }
    write_safetensors(path, every)
    write_document(planned, tmp_path)

    error = refused(planned, tmp_path)

    assert error.reason is Reason.StatisticsDiffer
    assert "as F32 [1, " in error.message


def test_a_document_that_points_elsewhere_is_refused(planned: Planned, tmp_path: Path) -> None:
    file = {"path": "../other.safetensors", "sizeBytes": 1, "sha256": "0" * 64}

    error = refused(planned, write_statistics(planned, tmp_path, file=file))

    assert error.reason is Reason.StatisticsDiffer
    assert "does not state statistics.safetensors" in error.message


@pytest.mark.parametrize("name", ["statistics.json", "statistics.safetensors"])
def test_a_file_larger_than_any_of_ours_is_not_read(
    name: str, planned: Planned, tmp_path: Path
) -> None:
    """Its document may say so too; 256 MiB and one byte, of which the disk holds nothing."""
    size = 256 * 2**20 + 1
    file = {"path": "statistics.safetensors", "sizeBytes": size, "sha256": "0" * 64}
    write_statistics(planned, tmp_path, file=file)
    with (tmp_path / name).open("wb") as sparse:
        sparse.truncate(size)

    error = refused(planned, tmp_path)

    assert (error.reason, error.subject) == (Reason.StatisticsDiffer, str(tmp_path / name))
    assert "holds more than the 268,435,456 bytes that it may" in error.message


def test_a_file_larger_than_its_document_says_is_not_read(planned: Planned, tmp_path: Path) -> None:
    path = write_statistics(planned, tmp_path) / "statistics.safetensors"
    stated = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"\0")

    assert f"holds more than the {stated:,} bytes that it may" in refused(planned, tmp_path).message


@pytest.mark.parametrize(
    ("changed", "fields", "reason", "subject", "said"),
    [
        (
            {f"{SHARED}.input_amax": float("nan")},
            {},
            Reason.NonFiniteActivation,
            "calibration/statistics.safetensors",
            f"`{SHARED}` is NaN, infinite or negative",
        ),
        (
            {f"{SHARED}.tokens": 0},
            {},
            Reason.ModuleUnmeasured,
            "calibration/statistics.safetensors",
            f"`{SHARED}` was not measured",
        ),
        (
            {},
            {"planDigest": "f" * 64},
            Reason.StatisticsDiffer,
            "calibration/statistics.json",
            "was measured for another plan",
        ),
    ],
)
def test_of_an_artifact_the_file_is_named(
    changed: dict[str, Any],
    fields: dict[str, Any],
    reason: Reason,
    subject: str,
    said: str,
    planned: Planned,
    tmp_path: Path,
) -> None:
    folder = write_statistics(planned, tmp_path, changed=changed, **fields)

    with pytest.raises(CheckFailed) as failed:
        published_statistics({p.name: p.read_bytes() for p in folder.iterdir()}, planned)

    assert (failed.value.reason, failed.value.subject) == (reason, subject)
    assert said in failed.value.message
    assert f"'{subject}'" in failed.value.message
    assert failed.value.message.endswith("; do not use this artifact, and tell its publisher.")
    assert str(tmp_path) not in failed.value.message


def test_an_artifacts_statistics_are_those_of_its_folder(planned: Planned, tmp_path: Path) -> None:
    folder = write_statistics(planned, tmp_path)

    found = published_statistics({p.name: p.read_bytes() for p in folder.iterdir()}, planned)

    assert found == read_statistics(folder, planned)
