"""What a stage in a pod finds and leaves in a work area in S3, where no volume carries the work.

Called by `pod_stages`. A table says what each stage needs and gives; nothing else crosses.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from halftone.spec.documents import CheckpointDocument
from halftone.spec.job import QuantizationJob
from halftone.spec.names import (
    ARTIFACT_FILE,
    CHECKPOINT_DIRECTORY,
    CHECKPOINT_FILE,
    CREDENTIALS_PREFIX,
    EVIDENCE_DIRECTORY,
    PLAN_FILE,
    REPORT_FILE,
    REPORT_PAGE,
    STATISTICS_FILE,
    STATISTICS_TENSORS,
    WORK_AREA,
)

if TYPE_CHECKING:
    from halftone.stores.s3_work_area import S3WorkArea

_MEASURED: Final = (STATISTICS_FILE, STATISTICS_TENSORS)
_NEEDS: Final = {
    "calibrate": (PLAN_FILE, *_MEASURED),
    "quantize": (PLAN_FILE, *_MEASURED),
    "assemble": (PLAN_FILE, *_MEASURED),
    "validate": (PLAN_FILE, *_MEASURED, CHECKPOINT_FILE),
    "publish": (PLAN_FILE, *_MEASURED, CHECKPOINT_FILE, REPORT_FILE, ARTIFACT_FILE),
}
_GIVES: Final = {
    "plan": (PLAN_FILE,),
    "calibrate": _MEASURED,
    "assemble": (CHECKPOINT_FILE,),
    "validate": (REPORT_FILE, REPORT_PAGE),
    "publish": (ARTIFACT_FILE,),
}
_NEED_CHECKPOINT: Final = frozenset({"validate", "publish"})


@contextmanager
def work_area(job: QuantizationJob, plan_digest: str) -> "Iterator[S3WorkArea | None]":
    """The work area of this pod's plan; None where a volume carries the work."""
    uri = os.environ.get(WORK_AREA)
    target = job.spec.publish and job.spec.publish.s3
    if not uri or not plan_digest:
        yield None
        return
    from halftone.stores.s3_work_area import S3WorkArea

    credentials = os.environ.get(f"{CREDENTIALS_PREFIX}WORK")
    endpoint = target.endpointUrl if target else None
    with closing(S3WorkArea(uri, plan_digest, endpoint, credentials)) as area:
        yield area


def take(area: "S3WorkArea", stage: str, workdir: Path) -> None:
    """Bring what `stage` needs into `workdir`."""
    area.pull(workdir, _NEEDS.get(stage, ()))
    if stage == "publish":
        area.pull_folder(workdir, EVIDENCE_DIRECTORY)
    if stage in _NEED_CHECKPOINT and not (workdir / ARTIFACT_FILE).is_file():
        document = CheckpointDocument.load(workdir / CHECKPOINT_FILE)
        area.pull_checkpoint(workdir, document.files)


def leave(area: "S3WorkArea", stage: str, workdir: Path) -> None:
    """Put what `stage` wrote into the area; the document last that says it is done."""
    if stage == "assemble":
        document = CheckpointDocument.load(workdir / CHECKPOINT_FILE)
        area.push_checkpoint(workdir / CHECKPOINT_DIRECTORY, document.files)
    if stage == "validate":
        folder = workdir / EVIDENCE_DIRECTORY
        evidence = sorted(path for path in folder.rglob("*") if path.is_file())
        area.push(workdir, [str(path.relative_to(workdir)) for path in evidence])
    given = [name for name in _GIVES.get(stage, ()) if (workdir / name).is_file()]
    area.push(workdir, given)
    if stage == "publish":
        area.remove_checkpoint()
