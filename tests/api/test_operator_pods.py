"""How pods that wait or fail are told, on a real API server, scheduler and Job controller.

We test these aspects:
- without a node the scheduler's own sentence is shown, as waiting and not as a failure
- a ResourceQuota that lets no pod in is told with its own sentence; more quota, and the job goes on
- a Secret or key that is not there, and an image that cannot be pulled, are waiting too
- a killed container is out of memory, and is not tried again
- refused input and a failed check end the job at once, with the stage's own sentence
- a fault of the environment is tried again by the Job controller, and then goes on
- a disrupted pod is replaced and not counted
- deleting a namespace with live jobs ends
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from halftone.spec.cluster import ChildStage
from tests.api.world import World, disruption, ends, refused, stops, world
from tests.cluster.answers import all_well, job, result
from tests.cluster.client import Client, children_path, condition_of, jobs_path, pods_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import Answer, KubeletStandIn
from tests.cluster.operator_process import OperatorProcess


@pytest.fixture(scope="module")
def here(
    cluster: ControlPlane, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """One operator for the whole module."""
    folder = tmp_path_factory.mktemp("pods")
    with world(cluster, client, "operator-pods", folder) as found:
        yield found


def test_unschedulable_is_told_in_the_schedulers_words(here: World) -> None:
    here.apply("homeless", None)
    row = here.wait_for("homeless", "Accepted", "Unknown", "Unschedulable")
    assert "nodes" in row["message"]
    here.client.wait("an event", lambda: ("Warning", "StageWaiting") in here.events("homeless"))
    here.answers["homeless"] = all_well
    here.wait_for("homeless", "Succeeded", "True")


def test_a_missing_secret_and_a_bad_image_wait(here: World) -> None:
    here.apply("waiting", stops(ChildStage.Plan))
    pod = here.wait_pod("waiting-plan-1")
    said = 'secret "s3-reader" not found'
    here.place(pod, **_stuck("CreateContainerConfigError", said))
    row = here.wait_for("waiting", "Accepted", "Unknown", "ReferenceMissing")
    assert row["message"].endswith(said)
    said = "couldn't find key token in Secret"
    here.place(_fresh(here, pod), **_stuck("CreateContainerConfigError", said))
    here.client.wait("the key", lambda: _message(here, "waiting", "Accepted").endswith(said))
    said = "Back-off pulling image"
    here.place(_fresh(here, pod), **_stuck("ImagePullBackOff", said))
    row = here.wait_for("waiting", "Accepted", "Unknown", "ImageNotPulled")
    assert said in row["message"]
    here.answers["waiting"] = all_well
    here.wait_for("waiting", "Succeeded", "True")
    assert here.children_made("waiting").count("waiting-plan-1") == 1


@pytest.mark.parametrize(
    ("name", "answer", "reason", "sentence"),
    [
        pytest.param(
            "oom",
            Answer(exit_code=137, reason="OOMKilled"),
            "OutOfMemory",
            "killed for its memory",
            id="killed for its memory",
        ),
        pytest.param(
            "bad-input",
            refused(ChildStage.Quantize, "SourceChanged", "`model` changed.", 2),
            "SourceChanged",
            "`model` changed.",
            id="refused input",
        ),
        pytest.param(
            "bad-check",
            refused(ChildStage.Quantize, "WorkdirInconsistent", "`part` is wrong.", 1),
            "WorkdirInconsistent",
            "`part` is wrong.",
            id="failed check",
        ),
    ],
)
def test_final_failures_are_not_tried_again(
    here: World, name: str, answer: Answer, reason: str, sentence: str
) -> None:
    here.apply(name, ends(ChildStage.Quantize, answer))
    row = here.wait_for(name, "Quantized", "False", reason)
    assert sentence in row["message"]
    found = here.find(name) or {}
    assert condition_of(found, "Validated")["reason"] == "NotReached"
    assert condition_of(found, "Succeeded")["reason"] == reason
    stages = [stage for job, stage in here.pods_seen.values() if job == name]
    assert stages.count("quantize") == 1


def test_a_fault_of_the_environment_is_tried_again(here: World) -> None:
    fault = refused(ChildStage.Plan, "StoreUnreachable", "`s3` does not answer.", 3)
    here.apply("faulty", ends(ChildStage.Plan, fault, Answer(result(ChildStage.Plan))))
    row = here.wait_for("faulty", "Accepted", "Unknown", "Retrying")
    assert row["message"].endswith("`s3` does not answer.")
    here.wait_for("faulty", "Succeeded", "True")
    stages = [stage for job, stage in here.pods_seen.values() if job == "faulty"]
    assert stages.count("plan") == 2
    assert here.children_made("faulty").count("faulty-plan-1") == 1


def test_a_disrupted_pod_is_replaced_and_not_counted(here: World) -> None:
    here.apply("evicted", stops(ChildStage.Plan))
    here.place(here.wait_pod("evicted-plan-1"), **disruption())
    here.answers["evicted"] = all_well
    here.wait_for("evicted", "Succeeded", "True")
    child = here.client.get(f"{children_path(here.namespace)}/evicted-plan-1")
    assert child["status"].get("failed", 0) == 0
    stages = [stage for job, stage in here.pods_seen.values() if job == "evicted"]
    assert stages.count("plan") == 2


def test_quota_is_told_in_its_own_words(
    cluster: ControlPlane, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("quota")
    with world(cluster, client, "operator-quota", folder) as here:
        path = f"/api/v1/namespaces/{here.namespace}/resourcequotas"
        client.create(path, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
        client.wait("the quota", lambda: "used" in client.get(f"{path}/none")["status"])
        here.apply("squeezed")
        row = here.wait_for("squeezed", "Accepted", "Unknown", "PodsRefused")
        assert "exceeded quota: none" in row["message"]
        client.delete(f"{path}/none")
        # The Job controller backs off for longer each time; another attempt is made at once.
        for child in here.children("squeezed"):
            client.delete(f"{children_path(here.namespace)}/{child}")
        here.wait_for("squeezed", "Succeeded", "True")


def test_a_namespace_with_live_jobs_can_be_deleted(
    cluster: ControlPlane, client: Client, tmp_path: Path
) -> None:
    """With cluster-wide rights: a Role goes with its namespace, and may go before the job."""
    lives, works = client.namespace("operator-lives"), client.namespace("operator-works")
    wide = ["--set-json", "watchNamespaces=[]", "--set", "serviceAccounts.create=false"]
    operator = OperatorProcess(cluster, lives, tmp_path, options=wide)
    settings = tmp_path / "settings.yaml"
    found = yaml.safe_load(settings.read_text()) | {"watchNamespaces": [works]}
    settings.write_text(yaml.safe_dump(found))
    answers = stops(ChildStage.Quantize)
    with operator, KubeletStandIn(cluster, answers, namespace=works):
        client.create(jobs_path(works), job("last", works))
        client.wait_for(works, "last", "Accepted", "True")
        path = f"{children_path(works)}/last-quantize-1"
        client.wait("a worker", lambda: client.find(path) is not None)
        client.delete(f"/api/v1/namespaces/{works}")
        gone = f"/api/v1/namespaces/{works}"
        client.wait("the end of the namespace", lambda: client.find(gone) is None)


def _stuck(reason: str, message: str) -> dict[str, object]:
    """A pod on a node, whose container does not start."""
    waiting = {"waiting": {"reason": reason, "message": message}}
    row = {"name": "stage", "image": "a", "imageID": "", "ready": False, "restartCount": 0}
    scheduled = {"type": "PodScheduled", "status": "True"}
    return {"conditions": [scheduled], "containerStatuses": [{**row, "state": waiting}]}


def _fresh(here: World, pod: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    return here.client.get(f"{pods_path(here.namespace)}/{pod['metadata']['name']}")


def _message(here: World, name: str, condition: str) -> str:
    return str(condition_of(here.find(name) or {}, condition).get("message"))
