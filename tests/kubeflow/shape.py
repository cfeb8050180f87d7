"""A pipeline with the shape of ours, whose tasks do nothing: what the recordings are runs of.

Called by `recording` and by the tests of the shape. The names of tasks are those of Halftone's, so
that its readers of a run can be tested with the recordings. `fail` names a task that ends with 1.
Runs with the same `device` share what is cached.
"""

from typing import Any, NamedTuple

import yaml
from kfp import compiler, dsl

IMAGE = "halftone-task"
_OWN: dict[str, Any] = {"install_kfp_package": False, "base_image": IMAGE}


@dsl.component(**_OWN)
def resolve(job: str, device: str, fail: str) -> NamedTuple(
    "Resolved", [("job", str), ("source", str)]
):
    """Two outputs."""
    from collections import namedtuple

    if fail == "resolve":
        raise SystemExit(1)
    return namedtuple("Resolved", "job source")(job, device)


@dsl.component(**_OWN)
def target(job: str) -> None:
    """No output."""


@dsl.component(**_OWN)
def plan(job: str, source: str, page: dsl.Output[dsl.HTML]) -> NamedTuple(
    "Planned", [("method", str), ("digest", str)]
):
    """A page, and what a condition depends on."""
    from collections import namedtuple
    from pathlib import Path

    Path(page.path).write_text("<p>A plan.</p>")
    return namedtuple("Planned", "method digest")(job, "1" * 16)


@dsl.component(**_OWN)
def calibrate(plan_digest: str) -> None:
    """Runs where the condition holds."""


@dsl.component(**_OWN)
def split(plan_digest: str) -> list:
    """What a loop runs over."""
    return [{"plan_digest": plan_digest, "worker": worker} for worker in range(2)]


@dsl.component(**_OWN)
def quantize(plan_digest: str, worker: int) -> None:
    """An iteration, which may be tried again."""


@dsl.component(**_OWN)
def assemble(plan_digest: str) -> str:
    """After a loop."""
    return "2" * 16


@dsl.component(**_OWN)
def validate(
    checkpoint: str, device: str, page: dsl.Output[dsl.HTML], metrics: dsl.Output[dsl.Metrics]
) -> str:
    """A page and metrics."""
    from pathlib import Path

    Path(page.path).write_text("<p>A report.</p>")
    metrics.log_metric("perplexity", 1.5)
    return "3" * 16


@dsl.component(**_OWN)
def publish(report: str, fail: str) -> None:
    """The last one."""
    if fail == "publish":
        raise SystemExit(1)


@dsl.component(**_OWN)
def conclude(status: dsl.PipelineTaskFinalStatus) -> None:
    """What the exit handler runs."""
    print(status.state)


@dsl.pipeline
def measure(method: str, plan_digest: str) -> None:
    """A condition in a pipeline of its own, so that nothing after it hangs on it."""
    with dsl.If(method == "Calibrated"):
        calibrate(plan_digest=plan_digest)


@dsl.pipeline(name="shape")
def shape(job: str, device: str = "", fail: str = "") -> None:
    """All that our pipeline uses of Kubeflow."""
    ending = conclude()
    ending.set_caching_options(False)
    with dsl.ExitHandler(ending, name="stages"):
        resolved = resolve(job=job, device=device, fail=fail).set_caching_options(False)
        planned = plan(job=resolved.outputs["job"], source=resolved.outputs["source"])
        allowed = target(job=resolved.outputs["job"]).set_caching_options(False).after(planned)
        digest = planned.outputs["digest"]
        measured = measure(method=planned.outputs["method"], plan_digest=digest).after(allowed)
        work = split(plan_digest=digest).after(measured)
        with dsl.ParallelFor(work.output, parallelism=2) as item:
            quantized = quantize(plan_digest=item.plan_digest, worker=item.worker)
            quantized.set_caching_options(False).set_retry(1)
        assembled = assemble(plan_digest=digest).after(quantized).set_caching_options(False)
        report = validate(checkpoint=assembled.output, device=device)
        publish(report=report.outputs["Output"], fail=fail).set_caching_options(False)


def compiled(image: str, folder: Any) -> dict[str, Any]:
    """The pipeline's specification, its tasks run by `image`; written to `folder` on the way."""
    path = folder / "shape.yaml"
    compiler.Compiler().compile(shape, str(path))
    specification: dict[str, Any] = next(yaml.safe_load_all(path.read_text()))
    for executor in specification["deploymentSpec"]["executors"].values():
        executor["container"]["image"] = image
    return specification
