"""What a Kubeflow pipeline cannot do for a job, in sentences with the way out.

    refusal = unsupported(spec, settings)

Asked with the other refusals, before anything is made. Jobs can do all of it. The limits are those
of servers of version 2.14, which are named where they are met.
"""

import json
from collections.abc import Callable, Iterator
from typing import Final

from halftone.control.acceptance import Refusal, claims
from halftone.control.kubeflow.placing import (
    CACHE_VOLUME,
    MEMORY_VOLUME,
    PLAIN_RESOURCES,
    TEMPORARY_VOLUME,
    WORK_VOLUME,
    accelerators,
)
from halftone.control.pods import chosen_resources, own_settings
from halftone.control.settings import Settings
from halftone.spec.cluster import Ended
from halftone.spec.job import JobSpec
from halftone.spec.running import StageName

# Placement of an installation that has no field in a task's `KubernetesExecutorConfig`.
_NO_FIELD: Final = ("priorityClassName", "runtimeClassName")
# Names of volumes that pods of pipelines have already: ours, the compiler's, and Argo's.
_TAKEN: Final = frozenset(
    {
        CACHE_VOLUME, TEMPORARY_VOLUME, WORK_VOLUME, MEMORY_VOLUME,
        "kfp-launcher", "ca-bundle", "gcs-scratch", "s3-scratch", "minio-scratch",
        "dot-local-scratch", "dot-cache-scratch", "dot-config-scratch",
        "var-run-argo", "tmp-dir-argo", "argo-staging", "input-artifacts",
    }
)  # fmt: skip
_VOLUME_NAME: Final = 63


def unsupported(spec: JobSpec, settings: Settings) -> Refusal | None:
    """The first reason why this job cannot run as a pipeline here, None if it can."""
    for predicate in _PREDICATES:
        for message in predicate(spec, settings):
            return Refusal(Ended.NotRunnableHere, message)
    return None


def _tasks_have_an_image(_spec: JobSpec, settings: Settings) -> Iterator[str]:
    if settings.taskImage is None:
        yield (
            "`spec.runner` asks for 'KubeflowPipelines', and this operator knows no image for its "
            "tasks; have `images.task` set in the chart, or leave `runner` out to run as Jobs."
        )


def _one_account_does_all(spec: JobSpec, _settings: Settings) -> Iterator[str]:
    own = {one.name: one.serviceAccountName for one in spec.stages}
    names = {own.get(stage) or spec.serviceAccountName for stage in StageName}
    if len(names) > 1:
        stage, name = next((stage, name) for stage, name in own.items() if name)
        yield (
            f"`spec.stages[{stage}].serviceAccountName` is '{name}', and all tasks of a Kubeflow "
            "pipeline have the same service account; set `spec.serviceAccountName` alone, or run "
            "as Jobs."
        )


def _placement_can_be_said(_spec: JobSpec, settings: Settings) -> Iterator[str]:
    for stage in StageName:
        placement = settings.stages[stage].placement
        for field in _NO_FIELD:
            if getattr(placement, field) is not None:
                yield (
                    f"This operator runs the stage '{stage}' with `{field}` "
                    f"'{getattr(placement, field)}', which a Kubeflow pipeline cannot ask for; "
                    "leave `spec.runner` out to run as Jobs, or have it taken out of the chart's "
                    "placement."
                )


def _resources_can_be_said(spec: JobSpec, settings: Settings) -> Iterator[str]:
    for stage in StageName:
        given = settings.stages[stage].resources
        requests, limits = chosen_resources(own_settings(spec, stage), given)
        devices = accelerators(stage, spec, settings)
        for name in sorted({*requests, *limits} - PLAIN_RESOURCES.keys()):
            if "/" not in name:
                yield (
                    f"The stage '{stage}' asks for '{name}', which a Kubeflow pipeline cannot ask "
                    f"for; take it out of `spec.stages[{stage}].resources` or the chart's, or run "
                    "as Jobs."
                )
        if len(devices) > 1:
            yield (
                f"The stage '{stage}' asks for {' and '.join(devices)}, and a task of a Kubeflow "
                f"pipeline can ask for one kind of device; leave one in "
                f"`spec.stages[{stage}].resources`, or run as Jobs."
            )


def _claims_can_be_volumes(spec: JobSpec, _settings: Settings) -> Iterator[str]:
    for use, name in claims(spec).items():
        if "." in name or len(name) > _VOLUME_NAME or name in _TAKEN:
            yield (
                f"The claim '{name}', which the job names for its {use.value}, cannot be mounted "
                "by a Kubeflow pipeline, whose volumes have their claims' names: at most "
                f"{_VOLUME_NAME} characters, no dot, and none of the pod's own; copy it to a claim "
                "with another name, or run as Jobs."
            )


def _no_placeholders(spec: JobSpec, _settings: Settings) -> Iterator[str]:
    for block, value in spec.model_dump(mode="json", exclude_unset=True).items():
        # In JSON itself two braces open only at once within a text.
        if "{{" in json.dumps(value, ensure_ascii=False):
            yield (
                f"`spec.{block}` holds '{{{{', which Kubeflow takes for a placeholder of its own; "
                "write it without, or run as Jobs."
            )


_PREDICATES: Final[tuple[Callable[[JobSpec, Settings], Iterator[str]], ...]] = (
    _tasks_have_an_image,
    _one_account_does_all,
    _placement_can_be_said,
    _resources_can_be_said,
    _claims_can_be_volumes,
    _no_placeholders,
)
