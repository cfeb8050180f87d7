"""The health rules of docs/health-rules.md, as far as a real API server can judge them.

Its admission policies evaluate the same language as Flux does, here against the status of a real
job. We test these aspects:
- Flux's expressions, in its order, say the right thing of each state that a job can be in;
- the commands for scripts wait for what they say;
- the rules name our API, and the words of our conditions.
"""

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from halftone.spec.cluster import Condition, Doing, Ended, Waiting
from halftone.spec.names import API_VERSION, JOB_KIND, Reason
from tests.cluster.answers import job
from tests.cluster.chart import ROOT
from tests.cluster.client import MERGE, Client, jobs_path
from tests.cluster.control_plane import ControlPlane

Object = dict[str, Any]
TEXT = (ROOT / "docs" / "health-rules.md").read_text()
BLOCKS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
(FLUX,) = next(block for block in BLOCKS if block["kind"] == "Kustomization")["spec"][
    "healthCheckExprs"
]
EXPRESSIONS = {name: FLUX[name] for name in ("inProgress", "failed", "current")}
POLICY = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
NAME = "health-rules.test"


def status(summary: str | None, reason: str = "Pending") -> Object:
    """A job's status with this summary; with no conditions if None."""
    if summary is None:
        return {"source": "s3://models/source"}
    told = [(Condition.Accepted, "True", "Accepted"), (Condition.Succeeded, summary, reason)]
    rows = [
        {
            "type": kind.value,
            "status": state,
            "reason": reason,
            "message": "It is so.",
            "lastTransitionTime": "2026-11-21T10:00:00Z",
            "observedGeneration": 1,
        }
        for kind, state, reason in told
    ]
    return {"observedGeneration": 1, "conditions": rows}


CASES = [
    (status(None), "inProgress"),
    (status("Unknown", Doing.Planning), "inProgress"),
    (status("Unknown", Doing.Suspended), "inProgress"),
    (status("Unknown", Waiting.Unschedulable), "inProgress"),
    (status("True", Ended.Published), "current"),
    (status("False", Reason.GateFailed), "failed"),
]


@pytest.fixture(scope="module")
def asked(client: Client) -> Iterator[str]:
    """A namespace where the API server warns of each expression that does not hold."""
    namespace = client.namespace("health-rules")
    client.create(jobs_path(namespace), job("mine", namespace))
    rules = [
        {
            "expression": inside(text),
            "message": f"{name} does not hold",
        }
        for name, text in EXPRESSIONS.items()
    ]
    jobs = {
        "apiGroups": ["halftone.dev"],
        "apiVersions": ["v1alpha1"],
        "operations": ["UPDATE"],
        "resources": ["quantizationjobs/status"],
    }
    spec = {"matchConstraints": {"resourceRules": [jobs]}, "validations": rules}
    client.create(POLICY, {"metadata": {"name": NAME}, "spec": spec})
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    bound = {
        "policyName": NAME,
        "validationActions": ["Warn"],
        "matchResources": {"namespaceSelector": selector},
    }
    client.create(BINDINGS, {"metadata": {"name": NAME}, "spec": bound})
    done = status("True", Ended.Published)
    client.wait("the rules", lambda: judged(client, namespace, done) != "inProgress")
    yield namespace
    client.delete(f"{BINDINGS}/{NAME}")
    client.delete(f"{POLICY}/{NAME}")


def judged(client: Client, namespace: str, wanted: Object) -> str:
    """What Flux would say of a status, which is not kept: the first expression that holds."""
    path = f"{jobs_path(namespace)}/mine/status"
    answer = client.http.patch(
        path, json={"status": wanted}, headers=MERGE, params={"dryRun": "All"}
    ).raise_for_status()
    warnings = answer.headers.get_list("warning")
    for name, text in EXPRESSIONS.items():
        faults = [one for one in warnings if f"{inside(text)}' resulted in error" in one]
        assert faults == []
        if not any(f"{name} does not hold" in one for one in warnings):
            return name
    return "none"


def inside(expression: str) -> str:
    """An expression of Flux as the API server has it, where the object has a name."""
    return re.sub(r"\bstatus\.conditions", "object.status.conditions", expression)


@pytest.mark.parametrize(("wanted", "expected"), CASES)
def test_the_first_expression_of_flux_that_holds_is_the_right_one(
    client: Client, asked: str, wanted: Object, expected: str
) -> None:
    assert judged(client, asked, wanted) == expected


def test_the_commands_for_scripts_wait(
    cluster: ControlPlane, client: Client, namespace: str
) -> None:
    client.create(jobs_path(namespace), job("my-job", namespace))
    path = f"{jobs_path(namespace)}/my-job/status"
    commands = re.findall(r"(?m)^kubectl (wait .*) --timeout=12h (.*)$", TEXT)
    assert len(commands) == 2

    def run(command: tuple[str, str], seconds: int) -> str:
        words = [word.strip("'") for word in re.sub(r"='(.*)'", r"=\1", command[0]).split()]
        return cluster.kubectl(*words, f"--timeout={seconds}s", command[1], "-n", namespace)

    client.patch(path, {"status": status("False", Reason.GateFailed)})
    for command in commands:
        with pytest.raises(subprocess.SubprocessError, match="timed out"):
            run(command, 1)
    artifact = {"uri": "s3://models/out", "digest": "c" * 64, "sizeBytes": 1}
    client.patch(path, {"status": {**status("True", Ended.Published), "artifact": artifact}})
    for command in commands:
        assert "condition met" in run(command, 60)


def test_the_rules_are_for_our_api() -> None:
    assert (FLUX["apiVersion"], FLUX["kind"]) == (API_VERSION, JOB_KIND)
    (settings,) = (block for block in BLOCKS if block["kind"] == "ConfigMap")
    group = API_VERSION.partition("/")[0]
    (rule,) = settings["data"]
    assert rule == f"resource.customizations.health.{group}_{JOB_KIND}"
    quoted = set(re.findall(r'== "(\w+)"', settings["data"][rule]))
    assert quoted == {Condition.Succeeded.value, Doing.Suspended.value, "True", "False"}
