"""What a Kubeflow pipeline cannot do for a job: refused in a sentence with the way out.

We test these aspects:
- a job that Jobs and pipelines can both do is not refused, whatever Secrets and claims it names
- everything that a run cannot say to a server of version 2.14 is refused by name
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as runs

from halftone.control.kubeflow.unsupported import unsupported
from halftone.control.settings import Settings
from halftone.spec.cluster import Ended
from halftone.spec.job import JobSpec
from tests.control_cases import spec
from tests.control_specs import specs
from tests.pipeline_cases import GPU, installed


def refused(blocks: dict[str, Any] | None = None, settings: Settings | None = None) -> str:
    """The sentence, "" for none."""
    found = unsupported(JobSpec.model_validate(spec(**(blocks or {}))), settings or installed())
    if found is None:
        return ""
    assert (found.reason, found.waits) == (Ended.NotRunnableHere, False)
    return found.message


@runs(max_examples=20)
@given(blocks=specs())
def test_any_job_with_secrets_and_claims_can_run(blocks: dict[str, Any]) -> None:
    assert refused({**blocks, "stages": [GPU], "serviceAccountName": "ours"}) == ""


def stage(**settings: Any) -> dict[str, Any]:
    return {"stages": [{"name": "Quantize", **settings}]}


def limits(**sizes: Any) -> dict[str, Any]:
    return {"resources": {"limits": sizes}}


def source(claim: str) -> dict[str, Any]:
    return {"source": {"directory": {"path": "in", "claimName": claim}}}


CASES: dict[str, tuple[dict[str, Any], Settings, str]] = {
    "no image for tasks": (
        {},
        installed(taskImage=None),
        "`spec.runner` asks for 'KubeflowPipelines', and this operator knows no image for its "
        "tasks; have `images.task` set in the chart, or leave `runner` out to run as Jobs.",
    ),
    "accounts of stages": (
        {**stage(serviceAccountName="writers"), "serviceAccountName": "ours"},
        installed(),
        "`spec.stages[Quantize].serviceAccountName` is 'writers', and all tasks of a Kubeflow "
        "pipeline have the same service account; set `spec.serviceAccountName` alone, or run as "
        "Jobs.",
    ),
    "the account of one stage": (
        stage(serviceAccountName="writers"),
        installed(),
        "`spec.stages[Quantize].serviceAccountName` is 'writers', and all tasks",
    ),
    "a priority": (
        {},
        installed(Validate={"placement": {"priorityClassName": "low"}}),
        "This operator runs the stage 'Validate' with `priorityClassName` 'low', which a Kubeflow "
        "pipeline cannot ask for; leave `spec.runner` out to run as Jobs, or have it taken out of "
        "the chart's placement.",
    ),
    "a runtime": (
        {},
        installed(Calibrate={"placement": {"runtimeClassName": "nvidia"}}),
        "This operator runs the stage 'Calibrate' with `runtimeClassName` 'nvidia'",
    ),
    "disk": (
        stage(**limits(**{"ephemeral-storage": "9Gi"})),
        installed(),
        "The stage 'Quantize' asks for 'ephemeral-storage', which a Kubeflow pipeline cannot ask "
        "for; take it out of `spec.stages[Quantize].resources` or the chart's, or run as Jobs.",
    ),
    "two kinds of devices": (
        stage(**limits(**{"nvidia.com/gpu": 1, "example.com/nic": 2})),
        installed(),
        "The stage 'Quantize' asks for example.com/nic and nvidia.com/gpu, and a task of a "
        "Kubeflow pipeline can ask for one kind of device; leave one in "
        "`spec.stages[Quantize].resources`, or run as Jobs.",
    ),
    "a claim with a dot": (
        source("models.v1"),
        installed(),
        "The claim 'models.v1', which the job names for its source, cannot be mounted by a "
        "Kubeflow pipeline, whose volumes have their claims' names: at most 63 characters, no dot, "
        "and none of the pod's own; copy it to a claim with another name, or run as Jobs.",
    ),
    "a long claim": (source("m" * 64), installed(), f"The claim '{'m' * 64}', which the job"),
    "a claim with the name of a volume of the pod": (
        source("kfp-launcher"),
        installed(),
        "The claim 'kfp-launcher', which the job names for its source, cannot be mounted",
    ),
    "a placeholder": (
        {"publish": {"s3": {"uri": "s3://models/{{workflow.name}}"}}},
        installed(),
        "`spec.publish` holds '{{', which Kubeflow takes for a placeholder of its own; write it "
        "without, or run as Jobs.",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_cannot_be_said_is_refused(case: Any) -> None:
    blocks, settings, sentence = case
    said = refused(blocks, settings)
    assert said.startswith(sentence)
    assert sentence.endswith(".") <= (said == sentence)


def test_one_account_named_by_all_stages_is_one() -> None:
    names = ("Plan", "Calibrate", "Quantize", "Validate", "Publish")
    blocks = {"stages": [{"name": name, "serviceAccountName": "ours"} for name in names]}
    assert refused(blocks) == ""
    assert refused(stage(**limits(**{"nvidia.com/gpu": 1, "example.com/nic": 0}))) == ""
