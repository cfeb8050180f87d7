"""`halftone logs` against a real API server, with a stand-in for the kubelet's logs.

We test these aspects:
- the stage that runs is shown, all its workers with their names before each line;
- of stages that ended the newest is shown, and any by `--stage`;
- a pod that has not begun says what it waits for, and pods that are gone are said to be;
- `--follow` goes on with pods that begin later, until the job ends;
- a missing right is named.
"""

from pathlib import Path
from typing import Any

from halftone.control.naming import labels
from halftone.spec.cluster import ChildStage
from tests.cluster.answers import job
from tests.cluster.client import Client, jobs_path, pods_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_logs import NODE, KubeletLogs
from tests.cluster.verbs import ended, next_line, running, verb


def test_the_stage_that_runs_is_shown_with_all_its_workers(
    cluster: ControlPlane, client: Client, namespace: str
) -> None:
    client.create(jobs_path(namespace), job("small", namespace))
    with KubeletLogs(cluster, client) as logs:
        _pod(client, namespace, "small-plan-1", ChildStage.Plan, "Succeeded")
        for worker in ("small-quantize-1-0", "small-quantize-1-1"):
            _pod(client, namespace, worker, ChildStage.Quantize, "Running")
            logs.say(worker, f"I am {worker}", over=True)
        _pod(client, namespace, "small-quantize-1-2", ChildStage.Quantize, "Pending", node=None)
        logs.say("small-plan-1", "planned", over=True)
        told = verb(cluster, "logs", "small", "-n", namespace)
        planned = verb(cluster, "logs", "small", "-n", namespace, "--stage", "plan")
    assert told.code == 0
    assert told.out.splitlines() == [
        f"[{worker}] I am {worker}" for worker in ("small-quantize-1-0", "small-quantize-1-1")
    ]
    assert told.err.startswith("halftone: pod small-quantize-1-2 has not begun (Unschedulable: ")
    assert (planned.code, planned.out) == (0, "planned\n")
    assert planned.err == "halftone: pod small-plan-1\n"


def test_follow_goes_on_with_later_pods_until_the_job_ends(
    cluster: ControlPlane, client: Client, namespace: str
) -> None:
    client.create(jobs_path(namespace), job("small", namespace))
    with KubeletLogs(cluster, client) as logs:
        _pod(client, namespace, "small-plan-1", ChildStage.Plan, "Succeeded")
        _pod(client, namespace, "small-quantize-1", ChildStage.Quantize, "Running")
        logs.say("small-quantize-1", "half done")
        with running(cluster, "logs", "small", "-n", namespace, "--follow") as following:
            assert following.stdout is not None
            assert following.stdout.readline() == "[small-quantize-1] half done\n"
            _pod(client, namespace, "small-validate-1", ChildStage.Validate, "Pending", node=None)
            assert next_line(following).startswith("halftone: pod small-validate-1 has not begun")
            logs.say("small-quantize-1", "done", over=True)
            assert following.stdout.readline() == "[small-quantize-1] done\n"
            _pod(client, namespace, "small-publish-1", ChildStage.Publish, "Running")
            logs.say("small-publish-1", "it is out", over=True)
            assert following.stdout.readline() == "[small-publish-1] it is out\n"
            _end(client, namespace)
            told = ended(following)
    assert (told.code, told.out, told.err) == (0, "", "")


def test_without_a_log_it_is_said_why(
    cluster: ControlPlane, client: Client, namespace: str
) -> None:
    missing = verb(cluster, "logs", "small", "-n", namespace)
    assert missing.code == 2
    assert f"There is no QuantizationJob 'small' in the namespace '{namespace}'" in missing.err
    client.create(jobs_path(namespace), job("small", namespace))
    alone = verb(cluster, "logs", "small", "-n", namespace)
    assert (alone.code, "no operator has looked at it" in alone.err) == (2, True)
    _pod(client, namespace, "small-plan-1", ChildStage.Plan, "Pending", node=None)
    waits = verb(cluster, "logs", "small", "-n", namespace)
    assert waits.code == 2
    assert "'small' has no log yet: pod small-plan-1 has not begun (Unschedulable: " in waits.err
    client.delete(f"{pods_path(namespace)}/small-plan-1")
    _end(client, namespace)
    gone = verb(cluster, "logs", "small", "-n", namespace, "--follow")
    assert gone.code == 2
    assert "The pods of 'small' are gone, and their logs with them." in gone.err
    assert gone.err.endswith("What they found is kept: Published: It is there.\n")


def test_a_missing_right_is_named(
    cluster: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> None:
    client.create(jobs_path(namespace), job("small", namespace))
    _pod(client, namespace, "small-plan-1", ChildStage.Plan, "Running")
    cluster.kubectl("create", "serviceaccount", "reader", "-n", namespace)
    resources = "--resource=quantizationjobs.halftone.dev,pods"
    cluster.kubectl("create", "role", "reader", "-n", namespace, "--verb=get,list", resources)
    whom = ("--role=reader", f"--serviceaccount={namespace}:reader")
    cluster.kubectl("create", "rolebinding", "reader", "-n", namespace, *whom)
    kubeconfig = cluster.write_token_kubeconfig(tmp_path / "kubeconfig", namespace, "reader")
    for follow in ((), ("--follow",)):
        told = verb(kubeconfig, "logs", "small", "-n", namespace, *follow)
        assert told.code == 2
        assert f'User "system:serviceaccount:{namespace}:reader" cannot get resource' in told.err
        assert '"pods/log"' in told.err


def _pod(
    client: Client,
    namespace: str,
    name: str,
    stage: ChildStage,
    phase: str,
    node: str | None = NODE,
) -> None:
    """A pod as the Job controller makes them, in a phase; one without a node stays where it is."""
    container = {"name": "stage", "image": "registry.test/halftone/worker"}
    spec: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": 0}
    metadata = {"name": name, "labels": labels("small", stage, 1)}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    if node is not None:
        client.create(pods_path(namespace), {**body, "spec": {**spec, "nodeName": node}})
        client.patch(f"{pods_path(namespace)}/{name}/status", {"status": {"phase": phase}})
        return
    client.create(pods_path(namespace), body)

    def is_judged() -> bool:
        return "conditions" in client.get(f"{pods_path(namespace)}/{name}")["status"]

    client.wait("the scheduler's word", is_judged)


def _end(client: Client, namespace: str) -> None:
    """As the operator would write it at the end."""
    row = {
        "type": "Succeeded",
        "status": "True",
        "reason": "Published",
        "message": "It is there.",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }
    path = f"{jobs_path(namespace)}/small/status"
    client.patch(path, {"status": {"observedGeneration": 1, "conditions": [row]}})
