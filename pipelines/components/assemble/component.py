"""Makes one checkpoint of all shards. Called by the pipeline after its loop, never cached."""

from kfp import dsl


@dsl.component(base_image="halftone-task", install_kfp_package=False)
def assemble(job: str, work_area: str, plan_digest: str, device: str, engine: str) -> str:
    """Writes shards that are missing, then the rest; gives the checkpoint's digest."""
    from halftone.cli.pipeline_task import run_stage

    told = {"plan_digest": plan_digest, "device": device, "engine": engine}
    with run_stage("assemble", job, work_area, **told) as done:
        return done.result.checkpoint.digest
