"""The stage `quantize` taken apart: workers write shards, and one makes a checkpoint of them.

Called by `pod_stages`. On a laptop one process does both, and this is not needed.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from halftone.cli.opening import opened_checkpoint
from halftone.cli.progress import progress
from halftone.cli.quantize import bytes_to_read, default_workers
from halftone.cli.stages import measured, planned_again
from halftone.cli.workdir import read_job
from halftone.spec.names import CHECKPOINT_DIRECTORY, CHECKPOINT_FILE

if TYPE_CHECKING:
    from halftone.quantize.shards import Depot


def quantize_part(workdir: Path, part: int, parts: int, depot: "Depot | None") -> None:
    """Write the shards of one worker."""
    from halftone.quantize.engine import quantize_part as carry_out

    job = read_job(workdir)
    with opened_checkpoint(job.spec.source) as checkpoint:
        planned = planned_again(job, checkpoint, workdir)
        with progress("quantize", bytes_to_read(planned, part, parts)) as shown:
            carry_out(
                planned,
                checkpoint,
                workdir.absolute() / CHECKPOINT_DIRECTORY,
                part,
                parts,
                statistics=measured(workdir, planned),
                workers=default_workers(),
                progress=shown,
                depot=depot,
            )


def assemble(workdir: Path, depot: "Depot | None") -> None:
    """Make a checkpoint of all shards, and write `checkpoint.json`."""
    from halftone.quantize.engine import assemble as carry_out

    job = read_job(workdir)
    with opened_checkpoint(job.spec.source) as checkpoint:
        planned = planned_again(job, checkpoint, workdir)
        carry_out(
            planned,
            checkpoint,
            workdir.absolute() / CHECKPOINT_DIRECTORY,
            statistics=measured(workdir, planned),
            document_path=workdir.absolute() / CHECKPOINT_FILE,
            depot=depot,
        )
