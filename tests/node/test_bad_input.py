"""What only a kubelet and a scheduler find wrong, as conditions of jobs on a real node.

We test these aspects:
- a Secret or a key that is missing, an image that is not there and a node that lacks what a pod
  asks for are waited for, with what is missing in the message;
- a source that is not there or closed is refused, by the plan's pod;
- a container that is killed for its memory says which stage, and what to raise;
- what waits goes on once it has what it waited for;
- a job that is deleted at work leaves no pod, no object and no unfinished upload.

Jobs are applied at once; each test waits for its own.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.client import Object, children_path, condition_of, jobs_path
from tests.node.conftest import Up, is_at_work, pods_of
from tests.node.jobs import BUCKET, SOURCE_PREFIX, job, secret
from tests.node.provisions import POCKET_MODEL

LATE_SECRET = "comes-late"


def source(up: Up, prefix: str = SOURCE_PREFIX, **credentials: str) -> dict[str, Any]:
    ref = {"name": "s3-read", "key": "credentials"} | credentials
    uri = f"s3://{BUCKET}/{prefix}"
    return {"s3": {"uri": uri, "endpointUrl": up.s3.endpoint, "credentialsSecretRef": ref}}


def at_plan(**resources: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "Plan", "resources": resources}]


@pytest.fixture(scope="module", autouse=True)
def applied(up: Up) -> Iterator[None]:
    data = (POCKET_MODEL.parent / "calibration.jsonl").read_bytes()
    up.s3.client.put_object(Bucket=BUCKET, Key="data/calibration.jsonl", Body=data)
    dataset = {**source(up)["s3"], "uri": f"s3://{BUCKET}/data/calibration.jsonl"}
    calibrated = {
        "precision": [{"role": "Mlp", "format": "NVFP4"}],
        "calibration": {"dataset": {"s3": dataset}, "samples": 2},
    }
    wrong = up.s3.credentials_file.replace(up.s3.secret_key, "w" * 40)
    secrets = f"/api/v1/namespaces/{up.namespace}/secrets"
    up.client.create(secrets, secret("s3-wrong", "credentials", wrong))
    jobs: dict[str, dict[str, Any]] = {
        "no-secret": {"source": source(up, name=LATE_SECRET)},
        "no-key": {"source": source(up, key="nothing")},
        "no-image": {"quantization": calibrated},
        "no-gpu": {"stages": at_plan(limits={"nvidia.com/gpu": 1})},
        "no-memory": {"stages": at_plan(limits={"memory": "40Mi"})},
        "no-source": {"source": source(up, "nothing-here")},
        "closed-source": {"source": source(up, name="s3-wrong")},
    }
    for name, spec in jobs.items():
        up.client.create(jobs_path(up.namespace), job(up.s3, name, **spec))
    yield
    for name in jobs:
        up.client.delete(f"{jobs_path(up.namespace)}/{name}")


def told(up: Up, name: str, kind: str, reason: str, names: str = "") -> Object:
    """The row of a condition, once it has the reason, and says `names`.

    A kubelet on a busy machine first says that it waits for its caches.
    """
    row: Object = {}

    def holds() -> bool:
        row.clear()
        row.update(condition_of(up.client.job(up.namespace, name), kind))
        return row.get("reason") == reason and names in row["message"]

    try:
        up.client.wait(f"{kind} {reason} of {name}", holds, 300)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; it says {row}") from None
    return row


@pytest.mark.parametrize(
    ("name", "kind", "reason", "names"),
    [
        ("no-key", "Accepted", "ReferenceMissing", "nothing"),
        ("no-gpu", "Accepted", "Unschedulable", "Insufficient nvidia.com/gpu"),
        ("no-image", "Calibrated", "ImageNotPulled", "halftone-calibrator"),
    ],
)
def test_what_is_missing_is_waited_for_by_its_name(
    up: Up, name: str, kind: str, reason: str, names: str
) -> None:
    row = told(up, name, kind, reason, names)
    assert row["status"] == "Unknown"
    summary = condition_of(up.client.job(up.namespace, name), "Succeeded")
    assert (summary["status"], summary["reason"]) == ("Unknown", reason)


@pytest.mark.parametrize(
    ("name", "reason", "names"),
    [
        ("no-source", "SourceNotFound", "nothing-here"),
        ("closed-source", "AccessDenied", SOURCE_PREFIX),
        ("no-memory", "OutOfMemory", "resources.limits.memory"),
    ],
)
def test_what_cannot_work_is_refused_without_another_try(
    up: Up, name: str, reason: str, names: str
) -> None:
    row = told(up, name, "Accepted", reason)
    assert row["status"] == "False"
    assert names in row["message"]
    children = up.client.items(
        children_path(up.namespace), labelSelector=f"halftone.dev/job={name}"
    )
    assert {child["metadata"]["name"] for child in children} <= {
        f"{name}-plan-1",
        f"{name}-target-1",
    }
    failed = [child for child in children if child["metadata"]["name"] == f"{name}-plan-1"]
    assert [child["status"].get("failed") for child in failed] == [1]


def test_a_secret_that_comes_late_lets_the_job_go_on(up: Up) -> None:
    row = told(up, "no-secret", "Accepted", "ReferenceMissing")
    assert LATE_SECRET in row["message"]
    body = secret(LATE_SECRET, "credentials", up.s3.credentials_file)
    up.client.create(f"/api/v1/namespaces/{up.namespace}/secrets", body)
    assert told(up, "no-secret", "Accepted", "Accepted")["status"] == "True"


def test_a_job_deleted_at_work_leaves_nothing(up: Up) -> None:
    quantization = {"preset": "nvfp4a16", "scaleSearch": "Exhaustive"}
    body = job(up.s3, "deleted", quantization=quantization, parallelism=1)
    up.client.create(jobs_path(up.namespace), body)
    up.client.wait("a worker runs", lambda: is_at_work(up, "deleted"), 300)
    digest = up.client.job(up.namespace, "deleted")["status"]["plan"]["digest"]
    area = f"out/deleted.work/{up.namespace}.deleted/{digest}"
    key = f"{area}/checkpoint/model-00009-of-00009.safetensors"
    begun = up.s3.client.create_multipart_upload(Bucket=BUCKET, Key=key)
    up.s3.client.upload_part(
        Bucket=BUCKET, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"half"
    )
    path = f"{jobs_path(up.namespace)}/deleted"
    up.client.delete(path)
    up.client.wait("it is gone", lambda: up.client.find(path) is None, 300)
    up.client.wait("its pods are gone", lambda: not pods_of(up, "deleted"), 300)
    uploads = up.s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    assert [one["Key"] for one in uploads if one["Key"].startswith("out/deleted")] == []
    assert up.s3.keys(BUCKET, "out/deleted") == []
    selector = "halftone.dev/job=deleted"
    assert up.client.items(children_path(up.namespace), labelSelector=selector) == []
