"""A run of the pipeline for one job: the compiled pipeline with images, resources, places.

    request = render(ir, metadata, spec, settings, name)

Called by `running`, by `halftone pipeline submit` and by tests. Pure: the same input gives the same
bytes, and nothing that is given is changed. It knows the compiled pipeline by the names of its
tasks (`halftone.spec.pipelines.Task`) and needs no kfp. What cannot be said to a server is refused
by `unsupported`, before.
"""

import hashlib
import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Final

from halftone.control.inside import hands_on_in_s3, job_inside, work_area
from halftone.control.kubeflow.placing import (
    accelerators,
    container_resources,
    environment,
    executor_config,
)
from halftone.control.kubeflow.task_table import TASKS, dag_tasks
from halftone.control.pods import stage_image
from halftone.control.settings import Settings
from halftone.spec.documents import canonical_json
from halftone.spec.job import JobSpec
from halftone.spec.pipelines import Parameter, RunRequest, Task
from halftone.spec.running import StageName

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_BY_DIGEST: Final = re.compile(r".+@sha256:[0-9a-f]{64}")
# What they write lies in S3 and is checked there; in a volume nothing would be there the next time.
_CACHED_IN_S3: Final = frozenset({Task.Calibrate, Task.Quantize})
# As the Job controller waits: 10 s, then twice as long each time, but no wait beyond minutes. Argo
# has no bound for that, so whoever wants more tries than these gets them evenly spaced.
_DOUBLED_AT_MOST: Final = 6
_DOUBLING: Final = {"backoffDuration": "10s", "backoffFactor": 2.0}
_EVEN: Final = {"backoffDuration": "60s", "backoffFactor": 1.0}
# Counts from the first try's start, and Argo ends the last try at it in the middle of its work: the
# SDK's hour would kill whatever takes longer. So it is the longest deadline that a job may have.
_LONGEST: Final = "31536000s"
_DIGITS: Final = 16


def render(
    ir: Mapping[str, Any],
    metadata: Mapping[str, Any],
    spec: JobSpec,
    settings: Settings,
    name: str,
) -> RunRequest:
    """Everything that a run of `ir` named `name` is made of, for this job and installation.

    Raises ValueError where `ir` has a task that `Task` does not name.
    """
    pipeline = deepcopy(dict(ir))
    images = {task: task_image(task, spec, settings) for task in Task}
    executors = pipeline["deploymentSpec"]["executors"]
    config: dict[str, Any] = {}
    for found, task, label in dag_tasks(pipeline):
        if label is None:
            _set_caching(task, on=_is_on(task) and _by_digest(images))
            continue
        kind = Task(found)
        container = executors[label]["container"]
        container["image"] = images[kind]
        container["env"] = environment(kind, metadata, spec)
        container["resources"] = container_resources(TASKS[kind].settings, spec, settings)
        _set_caching(task, on=_is_cached(kind, task, spec, settings) and _by_digest(images))
        _set_retry(task, settings.backoffLimit)
        config[label] = executor_config(kind, metadata, spec, settings, name)
    kubeflow = settings.kubeflowPipelines
    return RunRequest(
        display_name=name,
        description=f"QuantizationJob {metadata['namespace']}/{metadata['name']}, "
        f"generation {metadata.get('generation', 1)}",
        pipeline_spec=pipeline,
        platform_spec={"platforms": {"kubernetes": {"deploymentSpec": {"executors": config}}}},
        parameters=parameters(metadata, spec, settings),
        pipeline_root=kubeflow.pipelineRoot if kubeflow else None,
        service_account=service_account(spec, settings),
    )


def parameters(
    metadata: Mapping[str, Any], spec: JobSpec, settings: Settings
) -> dict[str, str | int]:
    """The pipeline's inputs for this job; what tasks are cached by, beside their images."""
    validate = settings.stages[StageName.Validate]
    engine = {"image": task_image(Task.Validate, spec, settings), "engine": validate.engineImage}
    return {
        Parameter.Job.value: job_inside(str(metadata["name"]), spec),
        Parameter.WorkArea.value: work_area(metadata, spec) or "",
        Parameter.Parallelism.value: spec.parallelism,
        Parameter.Device.value: _device(spec, settings),
        Parameter.Engine.value: _short_digest(engine),
    }


def task_image(task: Task, spec: JobSpec, settings: Settings) -> str:
    """The image of a task; calibration, and gates with a server, have their stage's own."""
    stage = TASKS[task]
    defaults = settings.stages[stage.settings]
    own = stage_image(spec, stage.child, defaults)
    engine = task is Task.Validate and spec.validation.needs_engine
    return own if task is Task.Calibrate or engine else settings.taskImage or own


def service_account(spec: JobSpec, settings: Settings) -> str | None:
    """Of all tasks of a run, for a server takes one: the job's own, else the installation's."""
    own = next((one.serviceAccountName for one in spec.stages if one.serviceAccountName), None)
    kubeflow = settings.kubeflowPipelines
    given = kubeflow.serviceAccountName if kubeflow else None
    return own or spec.serviceAccountName or given


def _device(spec: JobSpec, settings: Settings) -> str:
    """What decides on which hardware gates run, "" if nothing does."""
    placement = settings.stages[StageName.Validate].placement
    decides = {
        "nodeSelector": dict(placement.nodeSelector),
        "tolerations": [dict(one) for one in placement.tolerations],
        "runtimeClassName": placement.runtimeClassName or "",
        "accelerators": accelerators(StageName.Validate, spec, settings),
    }
    return _short_digest(decides) if any(decides.values()) else ""


def _is_cached(task: Task, compiled: Mapping[str, Any], spec: JobSpec, settings: Settings) -> bool:
    """Whether a server may take the task's outputs from an earlier run with the same inputs."""
    if task in _CACHED_IN_S3:
        return hands_on_in_s3(spec) and (task is not Task.Calibrate or _is_pinned(spec))
    if task is Task.Validate and accelerators(StageName.Validate, spec, settings):
        # A count of devices says nothing of their model: only a node's label does.
        return _is_on(compiled) and bool(settings.stages[StageName.Validate].placement.nodeSelector)
    return _is_on(compiled)


def _is_pinned(spec: JobSpec) -> bool:
    """Whether the calibration data stay what they are: `resolve` pins the source alone."""
    calibration = spec.quantization.calibration
    if calibration is None:
        return True
    on_hub = calibration.dataset.huggingFace
    return on_hub is not None and _COMMIT.fullmatch(on_hub.revision) is not None


def _is_on(compiled: Mapping[str, Any]) -> bool:
    return bool(compiled.get("cachingOptions", {}).get("enableCache", False))


def _set_caching(compiled: dict[str, Any], *, on: bool) -> None:
    """Off is an empty message, as the SDK writes it."""
    if on or "cachingOptions" in compiled:
        compiled["cachingOptions"] = {"enableCache": True} if on else {}


def _by_digest(images: Mapping[Task, str]) -> bool:
    """A name that can be moved to other code is no part of a key."""
    return all(_BY_DIGEST.fullmatch(image) for image in images.values())


def _set_retry(compiled: dict[str, Any], limit: int) -> None:
    compiled.pop("retryPolicy", None)
    if limit:
        compiled["retryPolicy"] = {
            "maxRetryCount": limit,
            **(_DOUBLING if limit <= _DOUBLED_AT_MOST else _EVEN),
            "backoffMaxDuration": _LONGEST,
        }


def _short_digest(of: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(of)).hexdigest()[:_DIGITS]
