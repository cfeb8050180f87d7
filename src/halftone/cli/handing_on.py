"""What a stage in a pod finds and leaves in a work area in S3, where no volume carries the work.

Called by `pod_stages`. A table says what each stage needs and gives; nothing else crosses. A
document that says that something is done goes after what it speaks of, so a stage that was killed
while it left its work is run again.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from halftone.cli.room import require_room
from halftone.spec.documents import CheckpointDocument
from halftone.spec.job import QuantizationJob
from halftone.spec.names import (
    ARTIFACT_FILE,
    CHECKPOINT_DIRECTORY,
    CHECKPOINT_FILE,
    EVIDENCE_DIRECTORY,
    PLAN_FILE,
    REPORT_FILE,
    REPORT_PAGE,
    STATISTICS_FILE,
    STATISTICS_TENSORS,
    WORK_AREA,
)
from halftone.stores.credentials import GivenFor, given

if TYPE_CHECKING:
    from halftone.stores.s3_work_area import S3WorkArea

MEASURED: Final = (STATISTICS_FILE, STATISTICS_TENSORS)
JUDGED: Final = (REPORT_FILE, REPORT_PAGE)
# Without these a stage cannot begin, ...
_NEEDS: Final = {
    "calibrate": (PLAN_FILE,),
    "quantize": (PLAN_FILE,),
    "assemble": (PLAN_FILE,),
    "validate": (PLAN_FILE, CHECKPOINT_FILE),
    "publish": (PLAN_FILE, CHECKPOINT_FILE, REPORT_FILE),
}
# ... and with these, where they are there, it has less to do, or nothing.
_TAKES: Final = {
    "calibrate": MEASURED,
    "quantize": MEASURED,
    "assemble": MEASURED,
    "validate": (*MEASURED, *JUDGED),
    "publish": MEASURED,
}
# In this order: the last says that all of them are there.
_GIVES: Final = {
    "plan": (PLAN_FILE,),
    "calibrate": (STATISTICS_TENSORS, STATISTICS_FILE),
    "assemble": (CHECKPOINT_FILE,),
    "validate": (REPORT_PAGE, REPORT_FILE),
    "publish": (ARTIFACT_FILE,),
}
_READ_CHECKPOINT: Final = frozenset({"validate", "publish"})
# What depends on where and with what gates ran.
_OF_GATES: Final = frozenset({*JUDGED, ARTIFACT_FILE})


@dataclass(frozen=True)
class Areas:
    """Where the work of one plan lies, and where what gates said of it: the same place, but in a
    pipeline, in which another device must not be given what this one measured.
    """

    work: "S3WorkArea"
    judged: "S3WorkArea"

    def require(self, workdir: Path, names: Iterable[str]) -> None:
        """See `S3WorkArea.require`."""
        for name in names:
            self._of(name).require(workdir, (name,))

    def pull(self, workdir: Path, names: Iterable[str]) -> list[str]:
        """See `S3WorkArea.pull`."""
        return [name for name in names if self._of(name).pull(workdir, (name,))]

    def push(self, workdir: Path, names: Iterable[str]) -> None:
        """See `S3WorkArea.push`."""
        for name in names:
            self._of(name).push(workdir, (name,))

    def _of(self, name: str) -> "S3WorkArea":
        return self.judged if name in _OF_GATES else self.work


@contextmanager
def work_area(job: QuantizationJob, plan_digest: str, gates: str = "") -> "Iterator[Areas | None]":
    """The work area of this pod's plan; None where a volume carries the work.

    `gates` names where, below it, what depends on gates lies.
    """
    uri = os.environ.get(WORK_AREA)
    if not uri or not plan_digest:
        yield None
        return
    from halftone.stores.s3_work_area import S3WorkArea

    target = job.spec.publish and job.spec.publish.s3
    endpoint = target.endpointUrl if target else None
    area = job.spec.workVolume and job.spec.workVolume.s3
    ref = area.credentialsSecretRef if area else None
    credentials = given(GivenFor.Work, ref, "workVolume.s3.credentialsSecretRef")
    work = S3WorkArea(uri, plan_digest, endpoint, credentials)
    try:
        yield Areas(work, work.below(gates) if gates else work)
    finally:
        work.close()


def take(areas: Areas, stage: str, workdir: Path, job: QuantizationJob) -> None:
    """Bring what `stage` needs into `workdir`.

    Raises RefusedInput(WorkdirInconsistent) for work that is not there, and
    EnvironmentFault(OutOfSpace) where it would not fit.
    """
    areas.require(workdir, _NEEDS.get(stage, ()))
    # Where nothing is to be published, a report is all that is looked at.
    unread = stage == "publish" and (
        job.spec.publish is None or (workdir / ARTIFACT_FILE).is_file()
    )
    if stage in _READ_CHECKPOINT and not unread:
        _take_checkpoint(areas.work, stage, workdir, job)
    # After the checkpoint: a report is believed that is newer than what it judges.
    areas.pull(workdir, _TAKES.get(stage, ()))
    if stage in _READ_CHECKPOINT:
        areas.judged.pull_folder(workdir, EVIDENCE_DIRECTORY)


def _take_checkpoint(area: "S3WorkArea", stage: str, workdir: Path, job: QuantizationJob) -> None:
    files = CheckpointDocument.load(workdir / CHECKPOINT_FILE).files
    folder = workdir / CHECKPOINT_DIRECTORY
    needed = sum(file.sizeBytes for file in files if not (folder / file.path).is_file())
    require_room(workdir, needed, job, stage)
    area.pull_checkpoint(workdir, files)


def leave(areas: Areas, stage: str, workdir: Path) -> None:
    """Put what `stage` wrote into the area; the document last that says it is done."""
    if stage == "assemble":
        document = CheckpointDocument.load(workdir / CHECKPOINT_FILE)
        areas.work.push_checkpoint(workdir / CHECKPOINT_DIRECTORY, document.files)
    if stage == "validate":
        folder = workdir / EVIDENCE_DIRECTORY
        evidence = sorted(path for path in folder.rglob("*") if path.is_file())
        areas.judged.push(workdir, [str(path.relative_to(workdir)) for path in evidence])
    given_now = [name for name in _GIVES.get(stage, ()) if (workdir / name).is_file()]
    areas.push(workdir, given_now)
    if stage == "publish" and given_now:
        areas.work.remove_checkpoint()
