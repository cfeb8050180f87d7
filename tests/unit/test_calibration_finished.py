"""Finished statistics, held against a plan, a source and data before they are believed.

We test these aspects:
- whole statistics of the same plan and source are returned; where nothing lies there is nothing
- those of another plan or source, edited ones and those without their tensors are refused, and the
  sentence says what to remove
- the stamp of a source follows each shard's time of change, and is nothing for a pinned revision
- data are the same by their rows and coders, wherever they lie
- data that cannot be looked at are told from data that were found wanting
"""

import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from halftone.checkpoint.index import read_checkpoint
from halftone.plan.planning import Planned
from halftone.quantize.calibration.finished import (
    earlier,
    is_out_of_reach,
    refuse_other_data,
    source_stamp,
    unopened,
)
from halftone.spec.calibration import Dataset
from halftone.spec.errors import EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.statistics import StatisticsDocument
from halftone.stores import open_source
from halftone.stores.directory import DirectorySource
from tests.builders import write_checkpoint, write_statistics
from tests.commands import plan_directory
from tests.quantizing import recipe

WAY_OUT = "remove statistics.json and statistics.safetensors there to measure anew."


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("finished") / "source", "llama")


@pytest.fixture(scope="module")
def planned(source: Path) -> Planned:
    return plan_directory(source, recipe(Mlp="NVFP4"))


def finished(planned: Planned, output: Path) -> str:
    """Statistics in `output`, with a stamp, which is no part of their digest; the plan's digest."""
    path = write_statistics(planned, output) / "statistics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sourceStamp": "s"}))
    return planned.plan.digest


def test_what_is_whole_is_returned(planned: Planned, tmp_path: Path) -> None:
    assert earlier(tmp_path, planned.plan.digest, "s") is None

    digest = finished(planned, tmp_path)

    found = earlier(tmp_path, digest, "s")
    assert found == StatisticsDocument.load(tmp_path / "statistics.json")


def edit(folder: Path) -> None:
    path = folder / "statistics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 7}))


def lose_tensors(folder: Path) -> None:
    (folder / "statistics.safetensors").unlink()


def spoil_tensors(folder: Path) -> None:
    with (folder / "statistics.safetensors").open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize(
    ("damage", "reason", "said"),
    [
        (edit, "StatisticsDiffer", "was changed after it was written (its digest differs)"),
        (lose_tensors, "OutputNotEmpty", "is missing or is not the file that was written"),
        (spoil_tensors, "OutputNotEmpty", "is missing or is not the file that was written"),
    ],
)
def test_what_is_not_as_it_was_written_is_refused(
    damage: Callable[[Path], None], reason: str, said: str, planned: Planned, tmp_path: Path
) -> None:
    digest = finished(planned, tmp_path)
    damage(tmp_path)

    with pytest.raises(RefusedInput) as refused:
        earlier(tmp_path, digest, "s")

    assert refused.value.reason == reason
    assert said in refused.value.message
    assert refused.value.message.endswith(WAY_OUT)


def test_what_is_of_another_plan_or_source_is_refused(planned: Planned, tmp_path: Path) -> None:
    digest = finished(planned, tmp_path)

    with pytest.raises(RefusedInput, match="holds statistics of another plan;"):
        earlier(tmp_path, "0" * 64, "s")
    with pytest.raises(RefusedInput, match="before the source's shards were written anew"):
        earlier(tmp_path, digest, "t")


def stamp(source: Path) -> str | None:
    with closing(open_source(source)) as opened:
        return source_stamp(read_checkpoint(opened))


def test_the_stamp_follows_the_shards(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "llama")
    before = stamp(source)
    os.utime(source / "README.md", (1, 1))
    assert stamp(source) == before is not None

    write_checkpoint(tmp_path / "other", "llama", seed=1)
    shard = min(source.glob("*.safetensors"))
    shard.write_bytes((tmp_path / "other" / shard.name).read_bytes())

    assert stamp(source) != before


def test_a_pinned_revision_needs_no_stamp(source: Path) -> None:
    class Pinned(DirectorySource):
        @property
        def revision(self) -> str:
            return "c0ffee"

    with closing(Pinned(source)) as opened:
        assert source_stamp(read_checkpoint(opened)) is None


@pytest.mark.parametrize(
    "moved", [{"uri": "s3://elsewhere/rows"}, {"revision": "a-later-commit"}, {"usable": 9000}]
)
def test_equal_rows_are_the_same_data_wherever_they_lie(
    moved: dict[str, object], planned: Planned, tmp_path: Path
) -> None:
    finished(planned, tmp_path)
    document = StatisticsDocument.load(tmp_path / "statistics.json")

    refuse_other_data(tmp_path, document, [one.model_copy(update=moved) for one in document.data])


@pytest.mark.parametrize("changed", [{"sha256": "2" * 64}, {"coders": "3" * 64}, {"samples": 7}])
def test_other_rows_or_coders_are_refused(
    changed: dict[str, object], planned: Planned, tmp_path: Path
) -> None:
    finished(planned, tmp_path)
    document = StatisticsDocument.load(tmp_path / "statistics.json")
    data = [one.model_copy(update=changed) for one in document.data]

    with pytest.raises(RefusedInput) as refused:
        refuse_other_data(tmp_path, document, data)

    assert refused.value.reason is Reason.OutputNotEmpty
    assert refused.value.subject == str(tmp_path / "statistics.json")
    assert "then read from 'file:///data.jsonl'" in refused.value.message
    assert refused.value.message.endswith(WAY_OUT)


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (EnvironmentFault(Reason.StoreUnavailable, "s3", "..."), True),
        (RefusedInput(Reason.AccessDenied, "s3", "..."), True),
        (RefusedInput(Reason.SourceNotFound, "rows", "..."), True),
        (RefusedInput(Reason.DatasetNotFound, "rows", "..."), True),
        (RefusedInput(Reason.DatasetUnusable, "rows", "..."), False),
        (RefusedInput(Reason.TooFewSamples, "samples", "..."), False),
    ],
)
def test_data_out_of_reach_are_told_from_others(error: HalftoneError, away: bool) -> None:
    assert is_out_of_reach(error) is away


def test_whether_data_are_there_is_found_by_opening_them(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    dataset = Dataset(path=str(rows))
    gone = unopened(dataset)
    rows.write_text("whatever")

    assert gone is not None
    assert "rows.jsonl" in gone.message
    assert unopened(dataset) is None
