"""The gates that read files alone: `structure` and `WeightError`.

We test these aspects:
- an honest checkpoint passes, with the numbers that quantization measured
- each sabotage is caught, and the culprit is named
- of a calibrated one too: an input scale for each expert, a cache without scales, and two
  configurations that do not say the same, of which one is missing or cannot be read
- a listed `WeightError` replaces the one that runs unasked
"""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from halftone.checkpoint.index import read_checkpoint
from halftone.spec.documents import CheckpointDocument
from halftone.spec.gates import Metric, WeightError
from halftone.spec.reports import GateResult, Outcome
from halftone.stores import open_source
from halftone.validate.gates.structure import measure_structure
from halftone.validate.gates.weight_error import measure_weight_error
from tests.builders import drop_tensors, sabotage, set_value, write_checkpoint
from tests.commands import Made, quantize_directory
from tests.inspecting import edit_config
from tests.quantizing import recipe

LAYERS = "model.language_model.layers"
EXPERTS = f"{LAYERS}.0.mlp.experts"
MODELOPT_CONFIG = "hf_quant_config.json"
Measured = tuple[GateResult, dict[str, Any]]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made]:
    folder = tmp_path_factory.mktemp("dense")
    source = write_checkpoint(folder / "source", "qwen3_5")
    return source, quantize_directory(source, folder / "made", "nvfp4a16")


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made]:
    folder = tmp_path_factory.mktemp("experts")
    source = write_checkpoint(folder / "source", "qwen3_5_moe", experts="Fused")
    return source, quantize_directory(source, folder / "made", "nvfp4a16")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made]:
    """Experts and linear attention in ModelOpt's layout, with a measured cache."""
    folder = tmp_path_factory.mktemp("calibrated")
    source = write_checkpoint(folder / "source", "qwen3_5_moe", experts="Fused")
    roles = ("Attention", "LinearAttention", "Experts", "SharedExperts")
    fields = {"kvCache": {"format": "FP8", "scales": "Calibrated"}, "checkpointFormat": "ModelOpt"}
    chosen = recipe(fields, **dict.fromkeys(roles, "NVFP4"))
    return source, quantize_directory(source, folder / "made", chosen)


def copy_of(made: Made, target: Path, change: Callable[[Path], object]) -> Path:
    shutil.copytree(made.directory, target)
    change(target)
    return target


def exchange_modules(checkpoint: Path, one: str, other: str) -> None:
    for part in ("weight_packed", "weight_scale", "weight_global_scale"):
        sabotage.exchange(checkpoint, one + part, other + part)


def structure(
    source: Path, made: Made, checkpoint: Path, document: CheckpointDocument | None = None
) -> Measured:
    with closing(open_source(source)) as original, closing(open_source(checkpoint)) as files:
        return measure_structure(made.planned, original, files, document)


def weight_error(
    source: Path, made: Made, checkpoint: Path, gate: WeightError | None = None
) -> Measured:
    with closing(open_source(source)) as original, closing(open_source(checkpoint)) as files:
        return measure_weight_error(gate, made.planned, original, files)


@pytest.mark.parametrize("model", ["dense", "experts", "calibrated"])
def test_an_honest_checkpoint_passes_with_the_errors_that_quantization_measured(
    model: str, request: pytest.FixtureRequest
) -> None:
    source, made = request.getfixturevalue(model)

    shape, seen = structure(source, made, made.directory)
    error, roles = weight_error(source, made, made.directory)

    assert shape.outcome is Outcome.Passed, shape.message
    assert seen["defects"] == []
    assert error.outcome is Outcome.Passed, error.message
    written = {line.role: float(line.relativeError) for line in made.document.roles}
    measured = {row["role"]: row["relativeErrorServing"] for row in roles["roles"]}
    assert measured == pytest.approx(written, rel=1e-4)
    assert {row["name"] for row in roles["groups"]} == {g.name for g in made.document.groups}


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (lambda d: drop_tensors(d, "mtp."), "mtp."),
        (lambda d: sabotage.zero_row(d, "lm_head.weight", 5), "lm_head.weight"),
        (lambda d: set_value(d, f"{LAYERS}.1.input_layernorm.weight", float("nan")), "layernorm"),
        (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda d: edit_config(d, lambda c: c.pop("quantization_config")), ""),
        (lambda d: drop_tensors(d, "visual."), "visual."),
        (
            lambda d: sabotage.double_global_scale(d, [f"{LAYERS}.3.self_attn.k_proj"]),
            f"{LAYERS}.3.self_attn.",
        ),
    ],
    ids=[
        "dropped MTP",
        "zeroed lm_head row",
        "NaN",
        "lost tokenizer",
        "no quantization_config",
        "lost tower",
        "one member's scale",
    ],
)
def test_structure_names_what_is_wrong(
    dense: tuple[Path, Made], tmp_path: Path, change: Callable[[Path], object], culprit: str
) -> None:
    source, made = dense
    spoiled = copy_of(made, tmp_path / "spoiled", change)

    result, evidence = structure(source, made, spoiled)

    assert result.outcome is Outcome.Failed
    assert any(culprit in defect["tensor"] for defect in evidence["defects"]), evidence["defects"]
    assert result.culprit is not None
    assert culprit in result.culprit


@pytest.mark.parametrize(
    ("change", "culprit", "told"),
    [
        (lambda d: None, None, "are as planned"),
        (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json", "is not there"),
        (lambda d: (d / "tokenizer.json").write_bytes(b"{}"), "tokenizer.json", "changed since"),
        (lambda d: (d / "more.json").write_bytes(b"{}"), "more.json", "does not state it"),
    ],
    ids=["honest", "lost", "changed", "added"],
)
def test_the_files_are_those_that_the_document_states(
    dense: tuple[Path, Made],
    tmp_path: Path,
    change: Callable[[Path], object],
    culprit: str | None,
    told: str,
) -> None:
    source, made = dense
    copy = copy_of(made, tmp_path / "copy", lambda d: (d / "checkpoint.json").unlink())
    change(copy)

    result, evidence = structure(source, made, copy, made.document)

    assert result.outcome is (Outcome.Failed if culprit else Outcome.Passed)
    assert result.culprit == culprit
    said = [d["message"] for d in evidence["defects"] if d["kind"] == "DigestDiffers"]
    assert any(told in message for message in said or [result.message])


def each_its_own(checkpoint: Path) -> None:
    """Give every expert the input scale of its own activations, as llm-compressor's oneshot does.

    No tensor is malformed, and no expert alone is served worse for it.
    """
    for number in range(8):
        name = f"{EXPERTS}.{number}.down_proj.input_scale"
        sabotage.multiply(checkpoint, [name], 2.0 ** -(number % 3))


def edit_modelopt(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = checkpoint / MODELOPT_CONFIG
    document = json.loads(path.read_text())
    change(document["quantization"])
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (each_its_own, f"{EXPERTS}.1.down_proj.input_scale"),
        (
            lambda d: drop_tensors(d, f"{LAYERS}.3.self_attn.v_proj.v_scale"),
            f"{LAYERS}.3.self_attn.v_proj.v_scale",
        ),
        (
            lambda d: edit_config(d, lambda c: c["quantization_config"].pop("kv_cache_scheme")),
            "config.json:kv_cache_scheme",
        ),
        (
            lambda d: edit_modelopt(d, lambda said: said["exclude_modules"].append("*self_attn*")),
            MODELOPT_CONFIG,
        ),
        (
            lambda d: edit_modelopt(d, lambda said: said.pop("kv_cache_quant_algo")),
            f"{MODELOPT_CONFIG}:kv_cache_quant_algo",
        ),
        (
            lambda d: edit_modelopt(d, lambda said: said.update(kv_cache_quant_algo="NVFP4")),
            f"{MODELOPT_CONFIG}:kv_cache_quant_algo",
        ),
        (lambda d: (d / MODELOPT_CONFIG).unlink(), MODELOPT_CONFIG),
        (lambda d: (d / MODELOPT_CONFIG).write_text("{"), MODELOPT_CONFIG),
        (
            lambda d: edit_modelopt(d, lambda said: said.update(quant_algo="INT3")),
            MODELOPT_CONFIG,
        ),
        (lambda d: drop_tensors(d, "2.up_proj.input_scale"), f"{EXPERTS}.2.up_proj.input_scale"),
    ],
    ids=[
        "an input scale for each expert",
        "no scale for values",
        "no cache asked for",
        "two configurations",
        "a cache in one of them",
        "two caches",
        "one configuration",
        "a broken configuration",
        "an unknown algorithm",
        "no input scale",
    ],
)
def test_structure_names_what_is_wrong_with_measured_scales(
    calibrated: tuple[Path, Made],
    tmp_path: Path,
    change: Callable[[Path], object],
    culprit: str,
) -> None:
    source, made = calibrated
    spoiled = copy_of(made, tmp_path / "spoiled", change)

    result, _ = structure(source, made, spoiled)

    assert result.outcome is Outcome.Failed
    assert result.culprit == culprit, result.message
    if culprit.startswith(MODELOPT_CONFIG):
        assert f"'{MODELOPT_CONFIG}'" in result.message
        # One that is not there differs from nothing.
        assert ("`config.json`" in result.message) is (spoiled / MODELOPT_CONFIG).exists()


def test_a_zeroed_row_is_found_by_its_number(dense: tuple[Path, Made], tmp_path: Path) -> None:
    source, made = dense
    spoiled = copy_of(
        made, tmp_path / "spoiled", lambda d: sabotage.zero_row(d, "lm_head.weight", 5)
    )

    result, _ = structure(source, made, spoiled)

    assert "from row 5 on" in result.message


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (
            lambda d: sabotage.double_global_scale(
                d, [f"{LAYERS}.3.self_attn.{p}_proj" for p in "qkv"]
            ),
            f"{LAYERS}.3.self_attn",
        ),
        (
            lambda d: sabotage.swap_nibbles(d, f"{LAYERS}.0.mlp.down_proj"),
            f"{LAYERS}.0.mlp.down_proj.weight",
        ),
    ],
    ids=["a group's global scale doubled", "nibble order swapped"],
)
def test_weight_error_names_the_group_of_a_sabotage_that_is_well_formed(
    dense: tuple[Path, Made], tmp_path: Path, change: Callable[[Path], object], culprit: str
) -> None:
    source, made = dense
    spoiled = copy_of(made, tmp_path / "spoiled", change)

    assert structure(source, made, spoiled)[0].outcome is Outcome.Passed
    result, _ = weight_error(source, made, spoiled)

    assert result.outcome is Outcome.Failed
    assert result.culprit is not None
    assert result.culprit.startswith(culprit)


def test_exchanged_experts_and_a_turned_router_are_named(
    experts: tuple[Path, Made], tmp_path: Path
) -> None:
    source, made = experts
    names = [member for group in made.document.groups for member in group.members]
    one = next(n for n in names if ".experts.0.down_proj" in n).removesuffix("weight")
    other = one.replace(".experts.0.", ".experts.1.")
    router = one.split(".experts.")[0] + ".gate.weight"
    swapped = copy_of(made, tmp_path / "swapped", lambda d: exchange_modules(d, one, other))
    turned = copy_of(made, tmp_path / "turned", lambda d: sabotage.reverse_rows(d, router))

    in_experts, _ = weight_error(source, made, swapped)
    in_router, _ = structure(source, made, turned)

    assert structure(source, made, swapped)[0].outcome is Outcome.Passed
    assert in_experts.outcome is Outcome.Failed
    assert in_experts.culprit == f"{one}weight"
    assert in_router.outcome is Outcome.Failed
    assert in_router.culprit == router


@pytest.mark.parametrize(
    ("maximum", "outcome"), [("0.2", "Passed"), ("0.05", "Failed"), ("0", "Failed")]
)
def test_a_listed_gate_replaces_the_limits_of_formats(
    dense: tuple[Path, Made], maximum: str, outcome: str
) -> None:
    source, made = dense
    gate = WeightError(name="mine", metric=Metric.WeightError, maximum=maximum)

    result, evidence = weight_error(source, made, made.directory, gate)

    assert (result.name, result.outcome) == ("mine", outcome)
    assert {row["limit"] for row in evidence["roles"]} == {float(maximum)}
    assert (result.culprit in {row["role"] for row in evidence["roles"]}) == (outcome == "Failed")


def test_a_dequantized_source_keeps_its_values(tmp_path: Path) -> None:
    from tests.builders import write_fp8

    source = write_fp8(tmp_path / "fp8", "qwen3_5", scheme="Block").directory
    made = quantize_directory(source, tmp_path / "made", "nvfp4a16")

    shape, found = structure(source, made, made.directory)
    error, _ = weight_error(source, made, made.directory)

    same = sum(1 for t in made.planned.tensors if t.format is None and t.scale is None)
    assert found["checked"]["keptTensors"] == same
    assert (shape.outcome, error.outcome) == (Outcome.Passed, Outcome.Passed), shape.message
    with closing(open_source(made.directory)) as files:
        assert read_checkpoint(files).tensors
