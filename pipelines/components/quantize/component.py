"""Writes the shards of one worker. Called by the pipeline in its loop."""

from kfp import dsl


@dsl.component(base_image="halftone-task", install_kfp_package=False)
def quantize(
    job: str, source: str, work_area: str, plan_digest: str, worker: int, workers: int
) -> None:
    """Writes every `workers`-th shard, from `worker` on. `source` is only what it is cached by."""
    from halftone.cli.pipeline_task import run_stage

    part = {"plan_digest": plan_digest, "worker": worker, "workers": workers}
    with run_stage("quantize", job, work_area, **part):
        pass
