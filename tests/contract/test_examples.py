"""Every numbered example parses, is planned without a refusal, has data and names its command."""

from pathlib import Path

import pytest

from halftone.checkpoint.index import read_checkpoint
from halftone.plan.planning import plan_checkpoint
from halftone.spec.documents import Method
from halftone.spec.recipes import parse_job, read_yaml, resolve
from halftone.stores import open_source
from tests.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.yaml"))


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_names_its_command(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 40
    assert any(line.startswith(f"# cmd: halftone run examples/{path.name}") for line in lines)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_planned(path: Path) -> None:
    job = parse_job(read_yaml(path), path.name)
    assert job.spec.source.directory is not None, "a remote source needs a double here"
    source = open_source(path.parent / job.spec.source.directory.path)
    plan = plan_checkpoint(
        read_checkpoint(source), resolve(job.spec.quantization, job.metadata.name)
    ).plan
    source.close()
    assert plan.refusal is None
    assert plan.output is not None
    calibration = job.spec.quantization.calibration
    assert (calibration is not None) is (plan.method is Method.Calibrated)
    if calibration is not None:
        assert calibration.dataset.path is not None, "a remote data set needs a double here"
        rows = (path.parent / calibration.dataset.path).read_text().splitlines()
        assert len(rows) >= calibration.samples
