"""`halftone inspect` as people and programs call it: exit codes, and JSON that is only JSON."""

import json
from pathlib import Path

import pytest

from tests.builders import drop_tensors, set_value, write_checkpoint
from tests.commands import halftone

pytestmark = pytest.mark.timeout(120)  # the first test of a fresh machine compiles kernels


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("sound") / "x", "qwen3_5")


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    directory = write_checkpoint(tmp_path / "spoiled", "qwen3_5")
    set_value(directory, "lm_head.weight", float("nan"))
    drop_tensors(directory, "mtp.")
    return directory


def test_a_sound_checkpoint_ends_in_zero_and_says_so(sound: Path) -> None:
    ended = halftone("inspect", str(sound))
    assert (ended.code, ended.err) == (0, "")
    assert "no defects found" in ended.out
    assert "LinearAttention" in ended.out


def test_defects_end_in_one_and_are_told(spoiled: Path) -> None:
    ended = halftone("inspect", str(spoiled))
    assert ended.code == 1
    assert "`lm_head.weight` (BF16) holds NaN" in ended.out
    assert "MultiTokenPredictionMissing" in ended.out
    assert ended.err == f"halftone: Defects found (2) in '{spoiled}'.\n"


@pytest.mark.parametrize("is_sound", [True, False])
def test_json_is_alone_on_standard_output(sound: Path, spoiled: Path, is_sound: bool) -> None:
    ended = halftone("inspect", str(sound if is_sound else spoiled), "--json")
    document = json.loads(ended.out)
    assert ended.code == (0 if is_sound else 1)
    assert [d["kind"] for d in document["defects"]] == (
        [] if is_sound else ["MultiTokenPredictionMissing", "NotFinite"]
    )
    assert document["architecture"] == "qwen3_5"
    assert {"role", "format", "tensors", "parameters", "bytes"} <= document["roles"][0].keys()


def test_a_source_adds_errors(sound: Path) -> None:
    ended = halftone("inspect", str(sound), "--source", str(sound))
    assert ended.code == 0
    assert "SERVED" in ended.out


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    ended = halftone("inspect", str(tmp_path / "nowhere"), "--json")
    assert (ended.code, ended.out) == (2, "")
    assert "nowhere" in ended.err
