"""A job that says how large its files of weights may become.

We test these aspects:
- the plan cuts the checkpoint accordingly, and stays the same recipe;
- a size that no file could keep to is refused.
"""

from pathlib import Path

from halftone.spec.documents import Plan
from tests.conftest import ROOT
from tests.jobs import stage, write_job

SOURCE = ROOT / "examples" / "pocket-model" / "checkpoint"


def planned(folder: Path, **quantization: object) -> Plan:
    folder.mkdir()
    source = {"directory": {"path": str(SOURCE)}}
    asked = {"preset": "nvfp4a16", **quantization}
    job = write_job(folder, source=source, quantization=asked)
    ended = stage("plan", folder / "work", "--job", str(job))
    assert ended.code == 0, ended.err
    return Plan.load(folder / "work" / "plan.json")


def test_files_are_cut_as_the_job_says(tmp_path: Path) -> None:
    whole, cut = planned(tmp_path / "a"), planned(tmp_path / "b", maxShardBytes=2_000_000)
    assert whole.output is not None
    assert cut.output is not None
    assert (len(whole.output.files), len(cut.output.files)) == (1, 5)
    assert whole.recipe == cut.recipe
    assert whole.digest != cut.digest


def test_a_size_that_is_too_small_is_refused(tmp_path: Path) -> None:
    asked = {"preset": "nvfp4a16", "maxShardBytes": 999_999}
    job = write_job(tmp_path, quantization=asked)
    ended = stage("plan", tmp_path / "work", "--job", str(job))
    assert ended.code == 2
    assert "quantization.maxShardBytes" in ended.err
