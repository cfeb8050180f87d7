"""Every numbered example parses, is planned without a refusal, has data and names its command.

An example for a cluster is taken by what the operator would refuse it with; that the CRD takes it
is asked in `tests/api/test_submit.py`.
"""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from halftone.checkpoint.index import read_checkpoint
from halftone.control.acceptance import first_refusal
from halftone.control.observed import Observed
from halftone.plan.layout import MAX_SHARD_BYTES
from halftone.plan.planning import plan_checkpoint
from halftone.spec.documents import Method
from halftone.spec.job import Source
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
    verb = "submit" if "cluster" in path.name else "run"
    assert any(line.startswith(f"# cmd: halftone {verb} examples/{path.name}") for line in lines)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_planned(path: Path) -> None:
    job = parse_job(read_yaml(path), path.name)
    source = open_source(path.parent / _folder(job.spec.source))
    recipe = resolve(job.spec.quantization, job.metadata.name)
    size = job.spec.quantization.maxShardBytes or MAX_SHARD_BYTES
    planned = plan_checkpoint(read_checkpoint(source), recipe, size)
    plan = planned.plan
    source.close()
    assert plan.refusal is None
    assert plan.output is not None
    assert len(planned.shards) >= job.spec.parallelism, "a pod would have nothing to do"
    calibration = job.spec.quantization.calibration
    assert (calibration is not None) is (plan.method is Method.Calibrated)
    if calibration is not None:
        assert calibration.dataset.path is not None, "a remote data set needs a double here"
        rows = (path.parent / calibration.dataset.path).read_text().splitlines()
        assert len(rows) >= calibration.samples


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_for_a_cluster_can_run_there(path: Path) -> None:
    job = parse_job(read_yaml(path), path.name)
    metadata = {"name": job.metadata.name, "namespace": "halftone"}
    refusal = first_refusal(job.spec, Observed(metadata, {}, {}, datetime.now(UTC)))
    assert (refusal is None) is ("cluster" in path.name)


def _folder(source: Source) -> str:
    """Where the source lies here; a bucket `models` holds a copy of what lies beside the jobs."""
    if source.directory is not None:
        return source.directory.path
    assert source.s3 is not None, "a source on the Hub needs a double here"
    return source.s3.uri.removeprefix("s3://models/")
