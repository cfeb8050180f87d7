"""Publishes what a report opens. Called by the pipeline last, and never from a cache."""

from kfp import dsl


@dsl.component(base_image="halftone-task", install_kfp_package=False)
def publish(
    job: str, work_area: str, plan_digest: str, report_digest: str, device: str, engine: str
) -> None:
    """Refuses a report that did not pass or is another; without a target it only looks at it."""
    from halftone.cli.pipeline_task import run_stage

    told = {"plan_digest": plan_digest, "report_digest": report_digest}
    with run_stage("publish", job, work_area, **told, device=device, engine=engine):
        pass
