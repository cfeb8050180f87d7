"""`halftone watch` against a real API server.

We test these aspects:
- a job is shown condition by condition and ends with the artifact, the line that serves it, and 0;
- a failed check ends with 1, a refusal with 2, a fault of the surroundings with 3, as `run` does;
- an unfinished retry is waited for, a job that ended is told at once;
- a deletion meanwhile is told, and another job of the same name is not taken for it;
- a cut connection and a server that is away are waited for, and told once;
- Ctrl-C ends watching, and leaves the job.
"""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from halftone.spec.cluster import RETRY_ANNOTATION, ChildStage
from halftone.spec.stage_results import Failure, StageResult
from tests.api.conftest import Start
from tests.cluster.answers import TARGET_URI, all_well, job, stage_of
from tests.cluster.client import Client, jobs_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import Answer, KubeletStandIn
from tests.cluster.tunnel import Tunnel
from tests.cluster.verbs import ended, next_line, running, verb

NOBODY_LOOKED = "halftone: no operator has looked yet at what was asked for last."


def test_a_job_is_shown_to_its_end(
    cluster: ControlPlane, client: Client, namespace: str, operator: Start
) -> None:
    client.create(jobs_path(namespace), job("small", namespace))
    with running(cluster, "watch", "small", "-n", namespace) as watching:
        assert next_line(watching) == NOBODY_LOOKED
        with operator(), KubeletStandIn(cluster, all_well, namespace=namespace):
            told = ended(watching)
    assert told.code == 0
    assert told.out.startswith(f"Published: {TARGET_URI}\nserve it with: helm upgrade --install ")
    done = [line.split()[0] for line in told.err.splitlines() if line.split()[1] == "done"]
    assert done == ["Accepted", "Quantized", "Validated", "Published"]
    again = verb(cluster, "watch", "small", "-n", namespace)
    assert (again.code, again.out) == (0, told.out)


def test_a_failed_check_ends_with_1_and_a_retry_is_waited_for(
    cluster: ControlPlane, client: Client, namespace: str, operator: Start
) -> None:
    answers = _Failing(ChildStage.Validate, "GateFailed", "The gate `kl` failed.", exit_code=1)
    client.create(jobs_path(namespace), job("small", namespace))
    stand_in = KubeletStandIn(cluster, answers, namespace=namespace)
    with stand_in:
        with operator():
            told = verb(cluster, "watch", "small", "-n", namespace)
            assert told.code == 1
            assert told.err.endswith(
                "halftone: Validated failed: GateFailed: The gate `kl` failed.\n"
            )
        again = {"metadata": {"annotations": {RETRY_ANNOTATION: "1"}}}
        client.patch(f"{jobs_path(namespace)}/small", again)
        with running(cluster, "watch", "small", "-n", namespace) as watching:
            assert next_line(watching) == NOBODY_LOOKED
            stand_in.answers = all_well
            with operator():
                assert ended(watching).code == 0


@pytest.mark.parametrize(("reason", "code"), [("SourceNotFound", 2), ("StoreUnavailable", 3)])
def test_refusals_and_faults_have_codes_of_their_own(
    cluster: ControlPlane,
    client: Client,
    namespace: str,
    reason: str,
    code: int,
) -> None:
    client.create(jobs_path(namespace), job("small", namespace))
    _set_status(client, namespace, _row("Accepted", "False", reason, "It is not there."))
    told = verb(cluster, "watch", "small", "-n", namespace)
    assert told.code == code
    assert told.err.endswith(f"halftone: Accepted failed: {reason}: It is not there.\n")


def test_a_job_that_is_deleted_meanwhile(
    cluster: ControlPlane, client: Client, namespace: str
) -> None:
    missing = verb(cluster, "watch", "small", "-n", namespace)
    assert missing.code == 2
    assert f"There is no QuantizationJob 'small' in the namespace '{namespace}'" in missing.err
    client.create(jobs_path(namespace), job("small", namespace))
    with running(cluster, "watch", "small", "-n", namespace) as watching:
        assert next_line(watching) == NOBODY_LOOKED
        client.delete(f"{jobs_path(namespace)}/small")
        told = ended(watching)
    assert (told.code, told.err) == (2, "halftone: 'small' was deleted before it ended.\n")


def test_a_server_that_is_away_is_waited_for(
    cluster: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> None:
    client.create(jobs_path(namespace), job("small", namespace))
    with Tunnel(cluster.url) as tunnel:
        way = cluster.write_kubeconfig(tmp_path / "kubeconfig", "admin", tunnel.url)
        with running(way, "watch", "small", "-n", namespace) as watching:
            assert next_line(watching) == NOBODY_LOOKED
            before = tunnel.accepted
            tunnel.cut()
            assert "The cluster cannot be reached" in next_line(watching)
            tunnel.wait_for(before + 3)  # tried again more than once, and told once
            done = _row("Accepted", "True", "Accepted", "It can be done.")
            _set_status(client, namespace, done)
            tunnel.mend()
            assert next_line(watching) == "halftone: the cluster answers again."
            assert next_line(watching) == "Accepted    done    It can be done."
            # The first of this name goes while nobody can see it, and another one comes.
            tunnel.cut()
            assert "The cluster cannot be reached" in next_line(watching)
            client.delete(f"{jobs_path(namespace)}/small")
            client.create(jobs_path(namespace), job("small", namespace))
            tunnel.mend()
            told = ended(watching)
    assert (told.code, told.err) == (2, "halftone: 'small' was deleted before it ended.\n")


def test_ctrl_c_leaves_the_job(cluster: ControlPlane, client: Client, namespace: str) -> None:
    client.create(jobs_path(namespace), job("small", namespace))
    with running(cluster, "watch", "small", "-n", namespace) as watching:
        assert next_line(watching) == NOBODY_LOOKED
        watching.send_signal(signal.SIGINT)
        told = ended(watching)
    assert told.code == 130
    place = f"-n {namespace} --kubeconfig {cluster.kubeconfig}"
    assert f"'small' goes on in the cluster; `halftone watch small {place}` shows" in told.err
    assert f"`kubectl delete qj small {place}` ends it" in told.err
    assert "deletionTimestamp" not in client.job(namespace, "small")["metadata"]


class _Failing:
    """Answers in which one stage fails for a reason; the others succeed."""

    def __init__(self, stage: ChildStage, reason: str, message: str, exit_code: int) -> None:
        failure = Failure(reason=reason, subject=stage.value, message=message)
        result = StageResult(stage=stage.value, failure=failure)
        self._stage = stage
        self._answer = Answer(result, exit_code=exit_code, reason="Error")

    def __call__(self, pod: Mapping[str, Any]) -> Answer | None:
        return self._answer if stage_of(pod) is self._stage else all_well(pod)


def _row(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }


def _set_status(client: Client, namespace: str, row: dict[str, Any]) -> None:
    """As the operator would write it, with the summary that follows."""
    status = "Unknown" if row["status"] == "True" else row["status"]
    rows = [row, {**row, "type": "Succeeded", "status": status}]
    path = f"{jobs_path(namespace)}/small/status"
    client.patch(path, {"status": {"observedGeneration": 1, "conditions": rows}})
