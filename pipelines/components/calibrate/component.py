"""Measures activations. Called by the pipeline for plans that ask for it."""

from kfp import dsl


@dsl.component(base_image="halftone-task", install_kfp_package=False)
def calibrate(job: str, source: str, work_area: str, plan_digest: str) -> None:
    """Writes statistics.json and its tensors. `source` is only what it is cached by."""
    from halftone.cli.pipeline_task import run_stage

    with run_stage("calibrate", job, work_area, plan_digest=plan_digest):
        pass
