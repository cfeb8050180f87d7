"""`halftone inspect` as people and programs call it: exit codes, and JSON that is only JSON."""

import json
from pathlib import Path

import pytest

from halftone.cli.main import main
from tests.builders import drop_tensors, set_value, write_checkpoint

pytestmark = pytest.mark.timeout(60)  # the first test of a fresh machine compiles kernels


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as ended:
        main(["inspect", *arguments])
    out, err = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return code, out, err


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("sound") / "x", "qwen3_5")


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    directory = write_checkpoint(tmp_path / "spoiled", "qwen3_5")
    set_value(directory, "lm_head.weight", float("nan"))
    drop_tensors(directory, "mtp.")
    return directory


def test_a_sound_checkpoint_ends_in_zero_and_says_so(
    sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, str(sound))
    assert (code, err) == (0, "")
    assert "no defects found" in out
    assert "LinearAttention" in out


def test_defects_end_in_one_and_are_told(spoiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, str(spoiled))
    assert code == 1
    assert "`lm_head.weight` (BF16) holds NaN" in out
    assert "MultiTokenPredictionMissing" in out
    assert err == f"halftone: 2 defects found in '{spoiled}'.\n"


@pytest.mark.parametrize("is_sound", [True, False])
def test_json_is_alone_on_standard_output(
    sound: Path, spoiled: Path, capsys: pytest.CaptureFixture[str], is_sound: bool
) -> None:
    code, out, _ = run(capsys, str(sound if is_sound else spoiled), "--json")
    document = json.loads(out)
    assert code == (0 if is_sound else 1)
    assert [d["kind"] for d in document["defects"]] == (
        [] if is_sound else ["MultiTokenPredictionMissing", "NotFinite"]
    )
    assert document["architecture"] == "qwen3_5"
    assert {"role", "format", "tensors", "parameters", "bytes"} <= document["roles"][0].keys()


def test_a_source_adds_errors(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, str(sound), "--source", str(sound))
    assert code == 0
    assert "SERVED" in out


def test_what_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, str(tmp_path / "nowhere"), "--json")
    assert (code, out) == (2, "")
    assert "nowhere" in err
