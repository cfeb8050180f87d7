"""Runs the gates. Called by the pipeline on the checkpoint that `assemble` made."""

from kfp import dsl


@dsl.component(base_image="halftone-task", install_kfp_package=False)
def validate(
    job: str,
    source: str,
    work_area: str,
    plan_digest: str,
    checkpoint_digest: str,
    device: str,
    engine: str,
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Writes the report; gives its digest, or fails with what the first failed gate says."""
    from halftone.cli.pipeline_task import run_stage, write_report_page

    told = {"plan_digest": plan_digest, "checkpoint_digest": checkpoint_digest}
    with run_stage("validate", job, work_area, **told, device=device, engine=engine) as done:
        metrics.metadata.update(write_report_page(done, page.path, metrics.path))
        return done.result.report.digest
