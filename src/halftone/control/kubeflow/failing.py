"""Why a run failed, in a reason and a sentence with the way out.

Called by `running`. The server leaves its own field for errors empty where a component failed, so
the failing pod is asked first.
"""

from collections.abc import Iterable
from typing import Final

from halftone.control.failures import Failed, Memory, of_pod, own_result, what_is_known
from halftone.control.kubeflow.task_table import TASKS
from halftone.control.kubeflow.tasks_seen import TasksSeen
from halftone.control.observed import ObservedPod
from halftone.control.pods import chosen_resources, own_settings
from halftone.control.settings import Settings
from halftone.spec.cluster import RETRY_ANNOTATION, Ended
from halftone.spec.job import JobSpec
from halftone.spec.pipelines import Run, RunError, Task

_AGAIN: Final = f"then set the annotation `{RETRY_ANNOTATION}`."
_SAID: Final = 512


def explain(
    run: Run,
    tasks: TasksSeen,
    task: Task | None,
    spec: JobSpec,
    settings: Settings,
    plan_bytes: int | None,
    url: str,
) -> Failed:
    """Why `run` failed at `task`, None where nobody says which it was."""
    if task is None:
        said = _said([run.error])
        return Failed(Ended.PipelineRunFailed, f"The run failed{said} See {url}, {_AGAIN}")
    pods = tasks.failed_pods(task)
    if pods:
        memory = _memory(task, spec, settings, plan_bytes)
        found = of_pod(task.value, TASKS[task].settings, pods[-1], memory)
        return found or _unexplained(task, pods[-1], url)
    said = _said([*(detail.error for detail in tasks.details(task)), run.error])
    return Failed(Ended.PipelineRunFailed, f"The task `{task}` failed{said} See {url}, {_AGAIN}")


def terminated(url: str) -> Failed:
    """Somebody ended the run, and it was not the operator."""
    return Failed(
        Ended.PipelineRunTerminated,
        f"The run was terminated in Kubeflow Pipelines ({url}); finished work is kept: to go on, "
        f"set the annotation `{RETRY_ANNOTATION}`.",
    )


def refused(words: str) -> Failed:
    """The server does not take the run."""
    return Failed(
        Ended.PipelineRunRefused,
        f"Kubeflow Pipelines refused the run: {words.strip()[:_SAID].rstrip('.')}. Mend what it "
        f"names, {_AGAIN}",
    )


def untold(namespace: str, url: str) -> Failed:
    """It succeeded, and nobody says what it found."""
    return Failed(
        Ended.StageFailed,
        f"The run succeeded ({url}), and none of its pods in '{namespace}' says what was found; if "
        "they are in another namespace, have `kubeflowPipelines.podNamespace` of the chart set, "
        f"{_AGAIN}",
    )


def _unexplained(task: Task, pod: ObservedPod, url: str) -> Failed:
    return Failed(
        Ended.StageFailed,
        f"The stage `{task}` failed: {what_is_known(pod).rstrip('.')}. See {url}, {_AGAIN}",
        own_result(task.value, pod),
    )


def _said(errors: Iterable[RunError | None]) -> str:
    """The first words that the server has, if it has any."""
    texts = (error.message.strip() for error in errors if error is not None)
    text = next(filter(None, texts), "")
    return f": {text[:_SAID].rstrip('.')}." if text else "."


def _memory(task: Task, spec: JobSpec, settings: Settings, plan_bytes: int | None) -> Memory:
    name = TASKS[task].settings
    requests, limits = chosen_resources(own_settings(spec, name), settings.stages[name].resources)
    request, limit = str(requests.get("memory", "")), str(limits.get("memory", ""))
    return Memory(plan_bytes, request, limit, "it")
