"""Whose statistics a checkpoint was made from: never mixed, never mistaken, and needed to rebuild.

The statistics are made by hand (`tests.builders.statistics`), two sets for one plan.

We test these aspects:
- nothing made from other statistics is returned, resumed or passes for what these would give
- what these made is resumed, and every group can be made again from them
- a calibrated plan needs its statistics, a data-free one takes none
"""

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from halftone.checkpoint.index import read_checkpoint
from halftone.plan.planning import Planned, plan_checkpoint
from halftone.quantize.engine import quantize
from halftone.quantize.rebuilding import rebuild
from halftone.quantize.statistics import Statistics, read_statistics
from halftone.spec.documents import CheckpointDocument
from halftone.spec.errors import CheckFailed, RefusedInput
from halftone.spec.formats import CheckpointFormat
from halftone.spec.names import Reason
from halftone.stores import open_source
from tests.builders import write_checkpoint, write_statistics
from tests.builders.statistics import any_amax, caches
from tests.commands import files_of
from tests.quantizing import mixture, recipe


class Stopped(Exception):
    """Raised by a progress that ends the work."""


class StopAfter:
    """Ends the work at the first byte after so many that were done."""

    def __init__(self, nbytes: int) -> None:
        self.left = nbytes
        self.skipped = 0

    def advance(self, nbytes: int) -> None:
        self.left -= nbytes
        if self.left < 0:
            raise Stopped

    def skip(self, nbytes: int) -> None:
        self.skipped += nbytes


class Job(NamedTuple):
    """One plan of a tiny source in several shards, and two sets of statistics for it."""

    source: Path
    planned: Planned
    first: Statistics
    second: Statistics

    def carry_out(
        self, output: Path, statistics: Statistics | None, progress: StopAfter | None = None
    ) -> CheckpointDocument:
        with closing(open_source(self.source)) as opened:
            checkpoint = read_checkpoint(opened)
            return quantize(
                self.planned, checkpoint, output, statistics=statistics, progress=progress
            )

    def rebuild(self, made: Path, statistics: Statistics | None) -> int:
        """How many groups were made again; all there are."""
        with closing(open_source(self.source)) as source, closing(open_source(made)) as artifact:
            checkpoint = read_checkpoint(source)
            done = rebuild(self.planned, checkpoint, artifact, 10_000, statistics=statistics)
        assert len(done.groups) == done.of
        return done.of


@pytest.fixture(scope="module", params=list(CheckpointFormat))
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    root = tmp_path_factory.mktemp("job")
    source = write_checkpoint(root / "source", "qwen3_5_moe")
    with closing(open_source(source)) as opened:
        planned = plan_checkpoint(read_checkpoint(opened), mixture(request.param), 100_000)
    first = write_statistics(planned, root / "first")
    second = write_statistics(planned, root / "second", amax=lambda module: 2 * any_amax(module))
    assert len(planned.shards) > 3
    return Job(source, planned, *(read_statistics(one, planned) for one in (first, second)))


def test_finished_work_of_other_statistics_is_not_returned(job: Job, tmp_path: Path) -> None:
    document = job.carry_out(tmp_path / "made", job.first)
    assert document.statisticsDigest == job.first.document.digest
    assert job.carry_out(tmp_path / "made", job.first) == document

    with pytest.raises(RefusedInput) as refused:
        job.carry_out(tmp_path / "made", job.second)

    assert refused.value.reason is Reason.OutputNotEmpty
    assert "made from other statistics" in refused.value.message


def test_shards_of_other_statistics_are_not_resumed(job: Job, tmp_path: Path) -> None:
    half = sum(m.source_bytes for s in job.planned.shards for u in s.units for m in u.members) // 2
    with pytest.raises(Stopped):
        job.carry_out(tmp_path / "made", job.first, StopAfter(half))
    assert list(tmp_path.glob(".made.partial/journal/*"))

    resumed = StopAfter(4 * half)
    job.carry_out(tmp_path / "made", job.second, resumed)

    assert resumed.skipped == 0
    job.carry_out(tmp_path / "fresh", job.second)
    assert files_of(tmp_path / "made") == files_of(tmp_path / "fresh")


def test_shards_of_the_same_statistics_are_resumed(job: Job, tmp_path: Path) -> None:
    half = sum(m.source_bytes for s in job.planned.shards for u in s.units for m in u.members) // 2
    with pytest.raises(Stopped):
        job.carry_out(tmp_path / "made", job.first, StopAfter(half))

    resumed = StopAfter(4 * half)
    job.carry_out(tmp_path / "made", job.first, resumed)

    assert resumed.skipped > 0
    job.carry_out(tmp_path / "fresh", job.first)
    assert files_of(tmp_path / "made") == files_of(tmp_path / "fresh")


def test_every_group_can_be_made_again_from_its_statistics_only(job: Job, tmp_path: Path) -> None:
    job.carry_out(tmp_path / "made", job.first)

    assert job.rebuild(tmp_path / "made", job.first) > 2 * len(caches(job.planned))
    with pytest.raises(CheckFailed) as failed:
        job.rebuild(tmp_path / "made", job.second)

    assert failed.value.reason is Reason.DigestDiffers
    assert failed.value.subject.endswith(
        (".input_scale", ".input_global_scale", ".k_scale", ".v_scale")
    )


def test_a_calibrated_plan_needs_its_statistics(job: Job, tmp_path: Path) -> None:
    for attempt in (job.carry_out, job.rebuild):
        with pytest.raises(RefusedInput) as refused:
            attempt(tmp_path, None)
        assert refused.value.reason is Reason.CalibrationRequired
        assert "run `halftone calibrate`" in refused.value.message
    assert not list(tmp_path.iterdir())


def test_a_data_free_plan_takes_no_statistics(job: Job, tmp_path: Path) -> None:
    with closing(open_source(job.source)) as opened:
        checkpoint = read_checkpoint(opened)
        planned = plan_checkpoint(checkpoint, recipe(Attention="NVFP4A16"))
        with pytest.raises(RefusedInput) as refused:
            quantize(planned, checkpoint, tmp_path / "made", statistics=job.first)

    assert refused.value.reason is Reason.StatisticsDiffer
    assert "The plan is data-free" in refused.value.message


def test_statistics_that_were_read_for_another_plan_are_refused(job: Job, tmp_path: Path) -> None:
    with closing(open_source(job.source)) as opened:
        checkpoint = read_checkpoint(opened)
        planned = plan_checkpoint(checkpoint, recipe(Attention="FP8"))
        with pytest.raises(RefusedInput) as refused:
            quantize(planned, checkpoint, tmp_path / "made", statistics=job.first)

    assert refused.value.reason is Reason.StatisticsDiffer
    assert planned.plan.digest[:12] in refused.value.message
