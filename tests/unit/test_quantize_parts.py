"""A checkpoint that several workers write.

We test these aspects:
- however many parts, the digest is that of one worker's, on a shared disk and through a depot;
- a part that ran already is not run again, and a part that failed leaves the others' work;
- assembling before every shard is there is refused, naming one;
- two processes cannot hold one part, and one that is alone excludes all parts;
- what tidying up meets after a failure does not hide the failure;
- parts without a shard do nothing, and what parts tell of their progress adds up to the whole;
- shards in a depot that were made of a source as it was before are made again;
- a depot that is slower than the work holds it up: two shards are on the disk at once.
"""

import json
import os
import shutil
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from halftone.checkpoint.index import Checkpoint, read_checkpoint
from halftone.cli.quantize import bytes_to_read
from halftone.plan.planning import Planned, plan_checkpoint
from halftone.quantize.engine import assemble, quantize, quantize_part
from halftone.quantize.workspace import Workspace
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.recipes import load_recipe
from halftone.stores import open_source
from tests.builders import write_checkpoint

SHARD_BYTES = 60_000


class FolderDepot:
    """A depot in a directory; what it was given is counted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kept: list[str] = []
        root.mkdir(exist_ok=True)

    def entry(self, file: str) -> dict[str, Any] | None:
        path = self.root / f"{file}.json"
        found: dict[str, Any] | None = json.loads(path.read_bytes()) if path.exists() else None
        return found

    def keep(self, path: Path, entry: dict[str, Any]) -> None:
        shutil.copy(path, self.root / path.name)
        (self.root / f"{path.name}.json").write_text(json.dumps(entry))
        self.kept.append(path.name)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("parts")
    source = open_source(write_checkpoint(folder / "source", "qwen3"))
    checkpoint = read_checkpoint(source)
    planned = plan_checkpoint(checkpoint, load_recipe("nvfp4a16"), max_shard_bytes=SHARD_BYTES)
    assert len(planned.shards) >= 4
    return planned, checkpoint, quantize(planned, checkpoint, folder / "whole").digest


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_on_one_disk_give_the_checkpoint_of_one_worker(
    job: Any, tmp_path: Path, parts: int
) -> None:
    planned, checkpoint, digest = job
    for part in reversed(range(parts)):
        quantize_part(planned, checkpoint, tmp_path / "out", part, parts)
    assert assemble(planned, checkpoint, tmp_path / "out").digest == digest
    assert assemble(planned, checkpoint, tmp_path / "out").digest == digest  # and once more
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_parts_without_a_common_disk_hand_shards_to_the_depot(job: Any, tmp_path: Path) -> None:
    planned, checkpoint, digest = job
    depot = FolderDepot(tmp_path / "depot")
    for part in range(2):
        here = tmp_path / f"pod-{part}"
        here.mkdir()
        quantize_part(planned, checkpoint, here / "out", part, 2, depot=depot)
    assert sorted(depot.kept) == sorted(shard.file for shard in planned.shards)
    again = FolderDepot(tmp_path / "depot")
    (tmp_path / "late").mkdir()
    quantize_part(planned, checkpoint, tmp_path / "late" / "out", 1, 2, depot=again)
    assert again.kept == []
    (tmp_path / "last").mkdir()
    document = assemble(planned, checkpoint, tmp_path / "last" / "out", depot=depot)
    assert document.digest == digest
    shards = {shard.file for shard in planned.shards}
    assert not shards & {path.name for path in (tmp_path / "last" / "out").iterdir()}
    assert shards <= {file.path for file in document.files}


def test_assembling_too_early_names_a_shard_and_keeps_what_there_is(
    job: Any, tmp_path: Path
) -> None:
    planned, checkpoint, digest = job
    quantize_part(planned, checkpoint, tmp_path / "out", 0, 2)
    with pytest.raises(EnvironmentFault) as refusal:
        assemble(planned, checkpoint, tmp_path / "out")
    assert refusal.value.reason is Reason.WorkdirInconsistent
    assert planned.shards[1].file in refusal.value.message
    quantize_part(planned, checkpoint, tmp_path / "out", 1, 2)
    assert assemble(planned, checkpoint, tmp_path / "out").digest == digest


def test_a_part_and_the_whole_have_one_holder_each(job: Any, tmp_path: Path) -> None:
    planned, _, _ = job
    output = tmp_path / "out"
    with Workspace(output, planned.plan, {}, 0), Workspace(output, planned.plan, {}, 1):
        for part in (0, None):
            with (
                pytest.raises(EnvironmentFault, match="Another process"),
                Workspace(output, planned.plan, {}, part),
            ):
                pass
    with (
        Workspace(output, planned.plan, {}),
        pytest.raises(EnvironmentFault, match="Another process"),
        Workspace(output, planned.plan, {}, 0),
    ):
        pass


def fail_with_a_shard_that_stays(output: Path, planned: Planned) -> None:
    """A folder in a shard's place stands for a disk that lets nothing be removed any more."""
    with Workspace(output, planned.plan, {}, 0) as workspace:
        workspace.partial_path("a.safetensors").mkdir()
        raise RefusedInput(Reason.NonFiniteWeight, "a.weight", "`a.weight` holds NaN.")


def test_what_ended_the_work_is_told_and_not_what_tidying_up_met(job: Any, tmp_path: Path) -> None:
    planned, _, _ = job
    with pytest.raises(RefusedInput, match="holds NaN"):
        fail_with_a_shard_that_stays(tmp_path / "out", planned)
    with (
        pytest.raises(EnvironmentFault, match="cannot be the output") as fault,
        Workspace(tmp_path / "out", planned.plan, {}, 0) as workspace,
    ):
        workspace.require_space(0, ["a.safetensors"])
    assert fault.value.reason is Reason.StorageFailed


class Counted:
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, nbytes: int) -> None:
        self.done += nbytes

    def skip(self, nbytes: int) -> None:
        self.done += nbytes


def test_more_parts_than_shards_leave_some_idle_and_add_up(job: Any, tmp_path: Path) -> None:
    planned, checkpoint, digest = job
    parts = len(planned.shards) + 2
    told = []
    for part in [*range(parts), 0]:  # the first once more, when all of it is done
        counted = Counted()
        quantize_part(planned, checkpoint, tmp_path / "out", part, parts, progress=counted)
        told.append(counted.done)
    assert told[-3:] == [0, 0, told[0]]
    assert sum(told[:-1]) == bytes_to_read(planned)
    assert assemble(planned, checkpoint, tmp_path / "out").digest == digest


def test_a_depot_gives_nothing_that_was_made_of_another_source(tmp_path: Path) -> None:
    """Headers may be the same where weights are not; of a file the time of its last write tells."""
    source = write_checkpoint(tmp_path / "source", "qwen3")
    planned, checkpoint = opened(source)
    depot = FolderDepot(tmp_path / "depot")
    for part in range(2):
        (tmp_path / f"{part}").mkdir()
        quantize_part(planned, checkpoint, tmp_path / f"{part}" / "out", part, 2, depot=depot)
    shard = next(source.glob("*.safetensors"))
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
    (tmp_path / "last").mkdir()

    planned, checkpoint = opened(source)
    with pytest.raises(EnvironmentFault, match="is not written yet"):
        assemble(planned, checkpoint, tmp_path / "last" / "out", depot=depot)
    again = FolderDepot(tmp_path / "depot")
    quantize_part(planned, checkpoint, tmp_path / "0" / "out", 0, 1, depot=again)

    assert len(again.kept) == len(planned.shards)
    assemble(planned, checkpoint, tmp_path / "last" / "out", depot=again)


def opened(source: Path) -> tuple[Planned, Checkpoint]:
    checkpoint = read_checkpoint(open_source(source))
    recipe = load_recipe("nvfp4a16")
    return plan_checkpoint(checkpoint, recipe, max_shard_bytes=SHARD_BYTES), checkpoint


class SlowDepot(FolderDepot):
    """Takes a shard only after a while; `there` is how many lay on the worker's disk each time."""

    def __init__(self, root: Path, workdir: Path) -> None:
        super().__init__(root)
        self.workdir = workdir
        self.there: list[int] = []

    def keep(self, path: Path, entry: dict[str, Any]) -> None:
        sleep(0.1)  # many times what a shard of this size takes to write
        shards = [file for file in self.workdir.rglob("*.safetensors*") if file.is_file()]
        self.there.append(sum(1 for file in shards if file.suffix != ".json"))
        super().keep(path, entry)


def test_a_slow_depot_never_has_more_than_two_shards_wait(job: Any, tmp_path: Path) -> None:
    planned, checkpoint, digest = job
    depot = SlowDepot(tmp_path / "depot", tmp_path / "pod")
    quantize_part(planned, checkpoint, tmp_path / "pod" / "out", 0, 1, depot=depot)
    assert len(depot.there) == len(planned.shards)
    assert max(depot.there) == 2
    document = assemble(planned, checkpoint, tmp_path / "last" / "out", depot=depot)
    assert document.digest == digest
