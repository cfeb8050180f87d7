"""Asks a target whether it can be published to. Called by the pipeline before hours of work."""

from kfp import dsl


@dsl.component(base_image="halftone-task", install_kfp_package=False)
def target(job: str, plan_digest: str) -> None:
    """Fails where the publisher has no right, or another artifact lies that may not go."""
    from halftone.cli.pipeline_task import run_stage

    with run_stage("target", job, plan_digest=plan_digest):
        pass
