"""What an operator does with jobs on a real API server, besides carrying them out.

We test these aspects:
- children that somebody deletes come back, and finished work is not done again
- `suspend` stops the pods and keeps the work; taking it back goes on
- `activeDeadlineSeconds` ends a job, and `ttlSecondsAfterFinished` removes it
- deleting a job removes its children, cleans up, and lets the object go
- the retry annotation continues a failed job from its last good document
- a status that was edited by hand is repaired, whatever was put there
- a finalizer that was removed by hand comes back
- every event's transition stands in the status by then, and events come once
- a job waits while its child's name is taken, and goes on once it is free
- the operator cannot read any Secret

Progress out of logs belongs to the node tier, where pods have logs.
"""

import ssl
from collections.abc import Iterator

import httpx
import pytest

from halftone.spec.cluster import FINALIZER, ChildStage
from tests.api.world import World, ends, refused, stops, world
from tests.cluster.answers import TARGET_URI, all_well
from tests.cluster.client import Client, children_path, condition_of, jobs_path
from tests.cluster.control_plane import ControlPlane

_ALL = ("plan", "publish", "quantize", "target", "validate")


@pytest.fixture(scope="module")
def here(
    cluster: ControlPlane, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """One operator for the whole module."""
    folder = tmp_path_factory.mktemp("life")
    with world(cluster, client, "operator-life", folder) as found:
        yield found


def test_a_deleted_child_comes_back(here: World) -> None:
    here.apply("comes-back", stops(ChildStage.Quantize))
    uid = here.wait_child("comes-back-quantize-1")["metadata"]["uid"]
    here.client.delete(f"{children_path(here.namespace)}/comes-back-quantize-1")
    here.client.wait(
        "another Job", lambda: here.wait_child("comes-back-quantize-1")["metadata"]["uid"] != uid
    )
    here.client.delete(f"{children_path(here.namespace)}/comes-back-plan-1")
    here.answers["comes-back"] = all_well
    here.wait_for("comes-back", "Succeeded", "True")
    made = here.children_made("comes-back")
    assert made.count("comes-back-quantize-1") == 2
    assert (made.count("comes-back-target-1"), made.count("comes-back-validate-1")) == (1, 1)


def test_suspension_stops_pods_and_keeps_the_work(here: World) -> None:
    here.apply("held", stops(ChildStage.Validate))
    here.wait_child("held-validate-1")
    here.change("held", suspend=True)
    here.wait_for("held", "Validated", "Unknown", "Suspended")
    here.client.wait("no validation", lambda: "held-validate-1" not in here.children("held"))
    assert "held-quantize-1" in here.children("held")
    here.answers["held"] = all_well
    here.change("held", suspend=False)
    here.wait_for("held", "Succeeded", "True")
    made = here.children_made("held")
    assert made.count("held-quantize-1") == 1
    assert made.count("held-validate-1") == 2
    reasons = [reason for _, reason in here.events("held")]
    assert reasons.index("JobSuspended") < reasons.index("JobResumed")


def test_a_deadline_ends_a_job_and_a_retry_goes_on(here: World) -> None:
    here.apply("late", stops(ChildStage.Quantize))
    here.wait_child("late-quantize-1")
    here.change("late", activeDeadlineSeconds=1)
    here.wait_for("late", "Succeeded", "False", "DeadlineExceeded")
    here.client.wait("no worker", lambda: "late-quantize-1" not in here.children("late"))
    here.answers["late"] = all_well
    here.change("late", activeDeadlineSeconds=600)
    here.retry("late", "once")
    here.wait_for("late", "Succeeded", "True")
    assert here.children_made("late").count("late-plan-1") == 1


def test_a_finished_job_lives_as_long_as_it_says(here: World) -> None:
    here.apply("brief", ttlSecondsAfterFinished=1)
    here.wait_gone("brief")
    assert here.pods_seen  # it ran before
    assert sorted(set(here.children_made("brief")))[:2] == ["brief-clean-up-1", "brief-plan-1"]
    here.client.wait("no children", lambda: not here.children("brief"))


def test_deletion_cancels_and_cleans_up(here: World) -> None:
    here.apply("cancelled", stops(ChildStage.Quantize))
    here.wait_child("cancelled-quantize-1")
    here.delete("cancelled")
    here.wait_gone("cancelled")
    stages = [stage for name, stage in here.pods_seen.values() if name == "cancelled"]
    assert stages[-1] == "clean-up"
    here.client.wait("no children", lambda: not here.children("cancelled"))


def test_a_retry_continues_from_the_last_good_document(here: World) -> None:
    bad = refused(ChildStage.Validate, "GateFailed", "Gate `quality` failed.", 1)
    here.apply("again", ends(ChildStage.Validate, bad))
    row = here.wait_for("again", "Validated", "False", "GateFailed")
    assert row["message"] == "Gate `quality` failed."
    here.answers["again"] = all_well
    here.retry("again", "2026-11-22")
    done = here.wait_for("again", "Succeeded", "True")
    assert done["reason"] == "Published"
    made = sorted(here.children_made("again"))
    expected = [f"again-{stage}-1" for stage in _ALL] + ["again-validate-2"]
    assert made == sorted(expected)
    status = (here.find("again") or {})["status"]
    assert status["retry"] == "2026-11-22"


def test_a_status_edited_by_hand_is_repaired(here: World) -> None:
    here.apply("edited", stops(ChildStage.Quantize))
    here.wait_for("edited", "Accepted", "True")
    forged = {
        "artifact": {"uri": "s3://elsewhere/model", "digest": "f" * 64, "sizeBytes": 1},
        "recoveryPercent": 100,
        "conditions": [
            {
                "type": "Succeeded",
                "status": "True",
                "reason": "Published",
                "message": "done",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
                "observedGeneration": 1,
            }
        ],
    }
    here.client.patch(f"{jobs_path(here.namespace)}/edited/status", {"status": forged})

    def repaired() -> bool:
        status = (here.find("edited") or {})["status"]
        kept = {"artifact", "recoveryPercent"} & set(status)
        accepted = condition_of({"status": status}, "Accepted").get("status")
        return not kept and accepted == "True" and len(status["conditions"]) == 5

    here.client.wait("the repair", repaired)
    row = condition_of(here.find("edited") or {}, "Succeeded")
    assert row["status"] == "Unknown"


def test_a_finalizer_removed_by_hand_comes_back(here: World) -> None:
    here.apply("unbound", stops(ChildStage.Quantize))
    here.wait_child("unbound-quantize-1")
    path = f"{jobs_path(here.namespace)}/unbound"
    here.client.patch(path, {"metadata": {"finalizers": None}})
    here.client.wait(
        "the finalizer",
        lambda: FINALIZER in ((here.find("unbound") or {})["metadata"].get("finalizers") or ()),
    )


def test_events_tell_each_transition_once(here: World) -> None:
    here.apply("told")
    here.wait_for("told", "Succeeded", "True")
    here.client.wait("the last event", lambda: len(here.events("told")) >= 5)
    told = [row for row in here.events("told") if row[1] != "StageWaiting"]
    reasons = ["JobAccepted", "CheckpointWritten", "GatesPassed", *["ArtifactPublished"] * 2]
    assert told == [("Normal", reason) for reason in reasons]
    status = (here.find("told") or {})["status"]
    assert status["artifact"]["uri"] == TARGET_URI


def test_a_job_waits_while_a_name_is_taken(here: World) -> None:
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "taken-plan-1"},
        "spec": {
            "suspend": True,
            "template": {
                "spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}
            },
        },
    }
    here.client.create(children_path(here.namespace), body)
    here.apply("taken")
    row = here.wait_for("taken", "Accepted", "Unknown", "NameTaken")
    assert "'taken-plan-1'" in row["message"]
    before = (here.find("taken") or {})["metadata"]["resourceVersion"]
    assert here.wait_child("taken-plan-1")["spec"]["suspend"] is True
    assert (here.find("taken") or {})["metadata"]["resourceVersion"] == before
    here.client.delete(f"{children_path(here.namespace)}/taken-plan-1")
    here.wait_for("taken", "Succeeded", "True")


def test_no_secret_can_be_read(here: World, cluster: ControlPlane) -> None:
    path = f"/api/v1/namespaces/{here.namespace}/secrets"
    here.client.create(path, {"metadata": {"name": "token"}, "stringData": {"a": "b"}})
    token = cluster.kubectl("create", "token", "halftone", "-n", here.namespace).strip()
    trust = ssl.create_default_context(cafile=str(cluster.authority.folder / "ca.crt"))
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(
        base_url=cluster.url, verify=trust, headers=headers, trust_env=False
    ) as operator:
        for request in (path, f"{path}/token", "/api/v1/secrets"):
            assert operator.get(request).status_code == 403
        assert operator.get(children_path(here.namespace)).status_code == 200
