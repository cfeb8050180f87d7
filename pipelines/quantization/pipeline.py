"""resolve, plan, target, (calibrate), quantize, assemble, validate, publish: as one pipeline.

Compiled by `tools.pipelines` into `halftone.recipes`, from where the operator and `halftone
pipeline submit` render it for a job. Nothing here depends on a job: images, resources, Secrets,
volumes, placement and time limits are put into the compiled form. It must not guard `publish` by a
condition, directly or through a parent group: the stage itself refuses a report that did not pass.
"""

from kfp import dsl

from halftone.spec.documents import Method
from halftone.spec.pipelines import PIPELINE_NAME
from pipelines.components.assemble import assemble
from pipelines.components.calibrate import calibrate
from pipelines.components.conclude import conclude
from pipelines.components.plan import plan
from pipelines.components.publish import publish
from pipelines.components.quantize import quantize
from pipelines.components.resolve import resolve
from pipelines.components.split import split
from pipelines.components.target import target
from pipelines.components.validate import validate

# Where nothing else is said: a store or a node that is away for a moment fails no run.
_RETRIES = 2
# So long after its first try Argo ends the last one, however well it goes.
_NEVER = "31536000s"


def _retried(task: dsl.PipelineTask) -> dsl.PipelineTask:
    return task.set_retry(
        num_retries=_RETRIES,
        backoff_duration="30s",
        backoff_factor=1,
        backoff_max_duration=_NEVER,
    )


def _uncached(task: dsl.PipelineTask) -> None:
    """Do `task` in each run: what it looks at may have changed without its parameters."""
    _retried(task).set_caching_options(enable_caching=False)


@dsl.pipeline
def measure(job: str, source: str, work_area: str, plan_digest: str, method: str) -> None:
    """Calibrate where the plan asks for it. A pipeline of its own, which is done either way, so
    that nothing after it hangs on the condition.
    """
    with dsl.If(method == Method.Calibrated.value, name="calibrated"):
        step = calibrate(job=job, source=source, work_area=work_area, plan_digest=plan_digest)
        _uncached(step)


@dsl.pipeline(
    name=PIPELINE_NAME,
    description="Quantizes a model, proves that it is still good, and publishes it with its proof.",
)
def quantization(
    job: str, work_area: str = "", parallelism: int = 1, device: str = "", engine: str = ""
) -> None:
    """The parameters are told in `halftone.spec.pipelines.Parameter`."""
    end = conclude()
    _uncached(end)
    with dsl.ExitHandler(end, name="stages"):
        source = resolve(job=job, work_area=work_area)
        _uncached(source)
        given = {name: source.outputs[name] for name in ("job", "work_area")}
        pinned = {**given, "source": source.outputs["source"]}
        made = _retried(plan(**pinned, parallelism=parallelism))
        agreed = {"plan_digest": made.outputs["digest"]}
        asked = target(job=given["job"], **agreed)
        _uncached(asked)
        measured = measure(**pinned, **agreed, method=made.outputs["method"]).after(asked)
        parts = _retried(split(**pinned, **agreed, workers=made.outputs["workers"]))
        parts.after(measured)
        # An item holds all that its worker is told: in a loop kfp's local runner gives every
        # output from outside the value of the item.
        with dsl.ParallelFor(parts.output, name="workers") as part:
            written = quantize(
                job=part.job,
                source=part.source,
                work_area=part.work_area,
                plan_digest=part.plan_digest,
                worker=part.worker,
                workers=part.workers,
            )
            _uncached(written)
        judged = {"device": device, "engine": engine}
        whole = assemble(**given, **agreed, **judged).after(written)
        _uncached(whole)
        report = _retried(validate(**pinned, **agreed, **judged, checkpoint_digest=whole.output))
        done = publish(**given, **agreed, **judged, report_digest=report.outputs["Output"])
        _uncached(done)
