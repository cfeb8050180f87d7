"""Plans a job from headers. Called by the pipeline, on the source that `resolve` pinned."""

from typing import NamedTuple

from kfp import dsl


@dsl.component(base_image="halftone-task", install_kfp_package=False)
def plan(
    job: str, source: str, work_area: str, parallelism: int, page: dsl.Output[dsl.HTML]
) -> NamedTuple("Planned", [("method", str), ("digest", str), ("workers", int)]):
    """Writes plan.json and its page; a job that cannot be carried out fails with a sentence."""
    from halftone.cli.pipeline_task import run_stage, write_plan_page

    options = {"without_target": True, "source_digest": source}
    with run_stage("plan", job, work_area, **options) as done:
        write_plan_page(done, page.path)
        made = done.result.plan
    return str(made.method), made.digest, min(parallelism, made.shards)
