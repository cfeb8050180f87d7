"""What a plan says although it goes on: each warning with its subject, and none without cause."""

from pathlib import Path
from typing import Any

import pytest

from halftone.plan.planning import Planned
from halftone.spec.documents import Notice
from halftone.spec.job import GenericArchitecture, MultiTokenPrediction
from halftone.spec.names import WarningReason
from tests.builders import (
    Tensor,
    drop_tensors,
    read_file,
    write_checkpoint,
    write_fp8,
    write_safetensors,
)
from tests.commands import plan_directory
from tests.refusals import change_config


def planned(source: Path, preset: str = "fp8-dynamic", **changes: Any) -> Planned:
    return plan_directory(source, preset, **changes)


def warnings(source: Path, preset: str = "fp8-dynamic", **changes: Any) -> dict[str, Notice]:
    plan = planned(source, preset, **changes).plan
    assert plan.refusal is None
    return {notice.reason: notice for notice in plan.warnings}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source", "qwen3_5", sharding="OneFile")


def test_a_model_with_every_role_and_licence_is_planned_without_a_word(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3")

    assert warnings(source, "nvfp4a16-mlp") == {}


def test_roles_that_a_model_does_not_have_are_listed(source: Path) -> None:
    notice = warnings(source)[WarningReason.RoleAbsent]

    assert notice.subject == "Experts"
    assert "gives Experts the format FP8_DYNAMIC, but this model has none" in notice.message


def test_a_missing_licence_is_told(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3", licence=None)

    assert "find out what you may do" in warnings(source)[WarningReason.LicenceMissing].message


def test_an_fp8_source_is_told_with_the_number_of_its_matrices(tmp_path: Path) -> None:
    fp8 = write_fp8(tmp_path / "source", "qwen3", scheme="Channel")

    notice = warnings(fp8.directory)[WarningReason.SourceDequantized]

    assert "The source is FP8 (14 matrices)" in notice.message


def test_a_generic_table_says_that_it_guesses(source: Path) -> None:
    change_config(source, model_type="unheard_of")

    found = warnings(source, genericArchitecture=GenericArchitecture.Allow)

    assert "were guessed" in found[WarningReason.GenericArchitecture].message
    assert WarningReason.UnlistedTensors not in found


def test_tensors_that_the_table_does_not_list_are_kept_and_told(source: Path) -> None:
    path = source / "model.safetensors"
    write_safetensors(
        path, read_file(path) | {"model.novelty.weight": Tensor("BF16", (1,), b"\0\0")}
    )

    notice = warnings(source)[WarningReason.UnlistedTensors]

    assert notice.subject == "model.novelty.weight"
    assert "1 tensors are not in the table of qwen3_5 and are kept" in notice.message


def test_a_promised_head_that_is_not_there_is_told_until_it_is_dropped(source: Path) -> None:
    drop_tensors(source, "mtp.")

    assert WarningReason.MultiTokenPredictionAbsent in warnings(source)
    dropped = warnings(source, multiTokenPrediction=MultiTokenPrediction.Drop)
    assert WarningReason.MultiTokenPredictionAbsent not in dropped


def test_a_dropped_head_is_neither_written_nor_counted(source: Path) -> None:
    kept = planned(source)
    dropped = planned(source, multiTokenPrediction=MultiTokenPrediction.Drop)

    names = {tensor.name for tensor in kept.tensors} - {tensor.name for tensor in dropped.tensors}
    assert names
    assert all(name.startswith("mtp.") for name in names)
    assert kept.plan.output is not None
    assert dropped.plan.output is not None
    assert dropped.plan.output.bytes < kept.plan.output.bytes
    assert dropped.plan.digest != kept.plan.digest


def test_files_in_folders_are_told(source: Path) -> None:
    (source / "images").mkdir()
    (source / "images" / "logo.png").write_bytes(b"logo")

    notice = warnings(source)[WarningReason.FilesLeftBehind]

    assert notice.subject == "images/logo.png"
    assert planned(source).plan.digest == _digest_without_folder(source)


def _digest_without_folder(source: Path) -> str:
    (source / "images" / "logo.png").unlink()
    return planned(source).plan.digest
