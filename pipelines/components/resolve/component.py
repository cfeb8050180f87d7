"""Pins the source that a job names. Called by the pipeline, first, and never from a cache."""

from typing import NamedTuple

from kfp import dsl


@dsl.component(base_image="halftone-task", install_kfp_package=False)
def resolve(job: str, work_area: str) -> NamedTuple(
    "Resolved", [("job", str), ("source", str), ("work_area", str)]
):
    """Gives the job with its source pinned, what tells this source from another, and the area."""
    from halftone.cli.pipeline_task import pinned, run_stage

    with run_stage("resolve", job, work_area) as done:
        found = done.result.source
    return pinned(job, found), found.digest, f"{work_area}#{found.work}"
