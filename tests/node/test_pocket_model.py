"""The pocket model from S3 to a signed artifact in S3, every stage in a pod of our images.

We test these aspects:
- conditions and events come in the documented order, and progress of both workers is summed;
- the operator is lost in the middle, and no stage is made twice;
- the artifact verifies, and equals byte for byte what a laptop makes of the same job;
- pods hold no token, no writable root, and only the Secrets of their own stage;
- the operator's metrics are there through its Service, and `helm test` passes.
"""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from halftone.cli.quantize import bytes_to_read
from halftone.spec.cluster import PLURAL, Condition
from operators.quantizationjob.reading import progress_of
from tests.cluster.client import children_path, condition_of, jobs_path
from tests.commands import files_of, halftone, plan_directory
from tests.node.conftest import Up, is_at_work, pods_of
from tests.node.jobs import BUCKET, SHARD_BYTES, job
from tests.node.provisions import POCKET_MODEL

NAME = "pocket"
ORDER = ("Accepted", "Quantized", "Validated", "Published", "Succeeded")
# The last one says how to serve it.
EVENTS = (
    "JobAccepted",
    "CheckpointWritten",
    "GatesPassed",
    "ArtifactPublished",
    "ArtifactPublished",
)
PUBLISHERS = {"target", "publish"}
# What each stage may read, and nothing else.
SECRETS = {
    "plan": {"s3-read", "s3-work"},
    "target": {"s3-publish", "signing-key"},
    "quantize": {"s3-read", "s3-work"},
    "assemble": {"s3-read", "s3-work"},
    "validate": {"s3-read", "s3-work"},
    "publish": {"s3-publish", "s3-work", "signing-key"},
}


class Seen:
    """A job that was watched to its end."""

    def __init__(self, up: Up, quantization: dict[str, Any]) -> None:
        self.statuses: list[dict[str, Any]] = []
        begun = time.monotonic()
        body = job(up.s3, NAME, quantization=quantization)
        up.client.create(jobs_path(up.namespace), body)
        up.client.wait("a pod is made", lambda: bool(pods_of(up, NAME)))
        print(f"node tier: the first pod was there {time.monotonic() - begun:.2f} s after apply")
        up.client.wait("a worker runs", lambda: self._works(up), 300)
        lost = f"/api/v1/namespaces/{up.namespace}/pods"
        selector = "app.kubernetes.io/component=operator"
        for pod in up.client.items(lost, labelSelector=selector):
            up.client.delete(f"{lost}/{pod['metadata']['name']}?gracePeriodSeconds=0")
        up.client.wait("it succeeds", lambda: self._is(up, "Succeeded"), 600)
        print(f"node tier: it was done {time.monotonic() - begun:.1f} s after apply")
        self.job = up.client.job(up.namespace, NAME)
        self.pods = pods_of(up, NAME)
        # What each worker said last: (done, total).
        self.told = [self._told(up, pod) for pod in self.pods if _is_done(pod, "quantize")]

    def _told(self, up: Up, pod: dict[str, Any]) -> tuple[int, int]:
        name = pod["metadata"]["name"]
        told = progress_of(up.cluster.kubectl("logs", "-n", up.namespace, name))
        assert told is not None, name
        return told

    def _works(self, up: Up) -> bool:
        self._is(up, "Accepted")  # to have seen its status
        return is_at_work(up, NAME)

    def _is(self, up: Up, kind: str) -> bool:
        found = up.client.job(up.namespace, NAME)
        self.statuses.append(found.get("status", {}))
        failed = [c for c in self.statuses[-1].get("conditions", ()) if c["status"] == "False"]
        assert not failed, failed
        return condition_of(found, kind).get("status") == "True"


def _is_done(pod: dict[str, Any], stage: str) -> bool:
    at = pod["metadata"]["labels"]["halftone.dev/stage"]
    return bool(at == stage and pod["status"]["phase"] == "Succeeded")


# Slow enough to be seen at work.
QUANTIZATION = {"preset": "nvfp4a16", "scaleSearch": "Exhaustive", "maxShardBytes": SHARD_BYTES}


@pytest.fixture(scope="module")
def seen(up: Up) -> Seen:
    return Seen(up, QUANTIZATION)


def test_conditions_come_true_in_their_order_and_events_tell_them(up: Up, seen: Seen) -> None:
    rows = seen.job["status"]["conditions"]
    assert [(row["type"], row["status"]) for row in rows] == [(name, "True") for name in ORDER]
    assert set(ORDER) < set(Condition)
    true_at = [
        [row["type"] for row in status.get("conditions", ()) if row["status"] == "True"]
        for status in seen.statuses
    ]
    assert all(tuple(true) == ORDER[: len(true)] for true in true_at)
    events = up.client.items(f"/apis/events.k8s.io/v1/namespaces/{up.namespace}/events")
    ours = [e for e in events if e["regarding"]["uid"] == seen.job["metadata"]["uid"]]
    told = sorted(ours, key=lambda e: str(e["eventTime"]))
    assert tuple(e["reason"] for e in told if e["reason"] in EVENTS) == EVENTS
    assert "helm upgrade" in told[-1]["note"]


def test_two_workers_shared_the_files_and_their_progress_was_summed(seen: Seen) -> None:
    indexes = {
        pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]
        for pod in seen.pods
        if pod["metadata"]["labels"]["halftone.dev/stage"] == "quantize"
    }
    assert indexes == {"0", "1"}
    reports = [status["progress"] for status in seen.statuses if status.get("progress")]
    assert reports
    assert all(0 <= one["bytesDone"] <= one["bytesTotal"] for one in reports)
    whole = bytes_to_read(plan_directory(POCKET_MODEL, "nvfp4a16"))
    assert [sum(column) for column in zip(*seen.told, strict=True)] == [whole, whole]
    # What is told is the sum of those whose log could be read just then: of one, or of both.
    assert {one["bytesTotal"] for one in reports} <= {whole, *(total for _, total in seen.told)}


def test_a_lost_operator_makes_no_stage_twice(up: Up, seen: Seen) -> None:
    selector = f"halftone.dev/job={NAME}"
    children = up.client.items(children_path(up.namespace), labelSelector=selector)
    names = sorted(child["metadata"]["name"] for child in children)
    assert names == sorted(f"{NAME}-{stage}-1" for stage in SECRETS)
    leads = up.client.get(
        f"/apis/coordination.k8s.io/v1/namespaces/{up.namespace}/leases/halftone"
    )["spec"]
    assert leads["leaseTransitions"] >= 1
    audited = map(json.loads, up.cluster.audit_log.read_text().splitlines())
    made = Counter(
        event["objectRef"]["name"]
        for event in audited
        if event["verb"] == "create"
        and event["objectRef"].get("resource") == "jobs"
        and event["objectRef"].get("name", "").startswith(f"{NAME}-")
        and event["responseStatus"]["code"] == 201
    )
    assert made == Counter(names)


def test_the_artifact_verifies_and_equals_a_laptops(
    up: Up, seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in up.s3.environment.items():
        monkeypatch.setenv(name, value)
    uri = seen.job["status"]["artifact"]["uri"]
    verified = halftone("verify", uri, "--public-key", up.signing_key)
    assert verified.code == 0, verified.err
    assert "signature: valid" in verified.out

    spec = {
        "source": {"directory": {"path": str(POCKET_MODEL)}},
        "quantization": QUANTIZATION,
        "publish": {"directory": {"path": "published"}},
    }
    document = {**job(up.s3, NAME), "spec": spec}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(document))
    ran = halftone("run", tmp_path / "job.yaml", "--workdir", tmp_path / "work")
    assert ran.code == 0, ran.err
    here = files_of(tmp_path / "work" / "checkpoint")
    assert len([name for name in here if name.endswith(".safetensors")]) > 2
    del here["README.md"]  # the source's card, which gives way to the artifact's
    folder = uri.removeprefix(f"s3://{BUCKET}/")
    there = {
        name: up.s3.client.get_object(Bucket=BUCKET, Key=f"{folder}/{name}")["Body"].read()
        for name in here
    }
    assert there == here
    left = up.s3.keys(BUCKET, f"out/{NAME}.work/")
    assert [key for key in left if key.endswith("/plan.json")]
    assert [key for key in left if "/checkpoint/" in key or "/journal/" in key] == []


def test_pods_are_restricted_and_hold_only_their_own_secrets(seen: Seen) -> None:
    held: dict[str, set[str]] = {}
    for pod in seen.pods:
        stage, spec = pod["metadata"]["labels"]["halftone.dev/stage"], pod["spec"]
        (container,) = spec["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert {kind for volume in spec["volumes"] for kind in volume} == {"name", "emptyDir"}
        assert not any("serviceaccount" in one["mountPath"] for one in container["volumeMounts"])
        refs = [one.get("valueFrom", {}).get("secretKeyRef") for one in container["env"]]
        held.setdefault(stage, set()).update(ref["name"] for ref in refs if ref)
    assert held == SECRETS
    assert {stage for stage, names in held.items() if "signing-key" in names} == PUBLISHERS


def test_metrics_are_served_and_helms_own_test_passes(up: Up, seen: Seen) -> None:
    service = up.client.get(f"/api/v1/namespaces/{up.namespace}/services/halftone")
    url = f"http://{service['spec']['clusterIP']}:8080/metrics"
    text = httpx.get(url, timeout=30, trust_env=False).text
    assert "halftone_operator_is_leader 1.0" in text
    assert NAME not in text
    assert "Succeeded" in up.helm("test", "halftone")


def test_the_operator_holds_no_right_to_secrets(up: Up, seen: Seen) -> None:
    who = f"--as=system:serviceaccount:{up.namespace}:halftone"
    rules = up.cluster.kubectl("auth", "can-i", "--list", "-n", up.namespace, who)
    assert PLURAL in rules
    assert not [line for line in rules.splitlines() if line.startswith("secrets")]
