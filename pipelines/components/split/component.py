"""Says which worker writes what. Called by the pipeline before its loop."""

from kfp import dsl


@dsl.component(base_image="halftone-task", install_kfp_package=False)
def split(job: str, source: str, work_area: str, plan_digest: str, workers: int) -> list:
    """Gives one item a worker, which holds all that the worker is told."""
    told = {"job": job, "source": source, "work_area": work_area, "plan_digest": plan_digest}
    return [{**told, "worker": worker, "workers": workers} for worker in range(workers)]
