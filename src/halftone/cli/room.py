"""Whether what a stage will write fits where a pod has its work directory.

Called by `pod_stages` and `handing_on` before hours of work. On a laptop the engine asks for
itself, and speaks of a directory; here it has to be said which field of the job gives more.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from halftone.spec.errors import EnvironmentFault
from halftone.spec.job import QuantizationJob
from halftone.spec.names import Reason


def require_room(workdir: Path, needed: int, job: QuantizationJob, stage: str) -> None:
    """Raise EnvironmentFault(OutOfSpace) unless `needed` more bytes fit below `workdir`."""
    workdir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(workdir).free
    if free >= needed:
        return
    place, field, way_out = _place(job)
    raise EnvironmentFault(
        Reason.OutOfSpace,
        field,
        f"The stage `{stage}` writes {needed:,} more bytes, and {place} has {free:,} free; "
        f"{way_out}.",
    )


def used(folder: Path) -> int:
    """Bytes of the files below `folder`, 0 where it is not there.

    Other workers write there: a file that has another name by now, or has gone, is left out.
    """
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(place, name).stat().st_size
    return total


def _place(job: QuantizationJob) -> tuple[str, str, str]:
    """How the place is called, the field that chose it, and what to raise."""
    volume = job.spec.workVolume
    if volume is not None and volume.claimName is not None:
        return (
            f"the claim '{volume.claimName}'",
            "workVolume.claimName",
            "free some space in it or make it larger, or name a larger one",
        )
    if volume is not None and volume.storageClassName is not None:
        return (
            f"the work volume of {volume.size}",
            "workVolume.size",
            "raise `workVolume.size`, or expand the claim that was made of it",
        )
    return (
        "the pod's own disk",
        "stages",
        "raise `ephemeral-storage` in `resources` of that stage in `spec.stages`, so that its "
        "pod gets a node with more, or set `workVolume` to a claim",
    )
