"""The operator's runner against Kubeflow's own servers: the chart installed, jobs applied.

We test these aspects:
- a job with `runner: KubeflowPipelines` succeeds with the conditions, in their order, of a job
  with `runner: Jobs`, and both write the same checkpoint;
- its run's address is in its status, and its name holds the job's uid;
- a job that is deleted at work leaves a terminated run and nothing at work;
- a job whose gate fails says so as any other does, and publishes nothing.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.client import Object, condition_of, jobs_path
from tests.cluster.helm import Helm
from tests.cluster.own_images import REGISTRY
from tests.kubeflow.back_end import BackEnd
from tests.kubeflow.looking import pods
from tests.node.jobs import BUCKET, SHARD_BYTES, job

ORDER = ["Accepted", "Quantized", "Validated", "Published", "Succeeded"]
QUANTIZATION = {"preset": "nvfp4a16", "maxShardBytes": SHARD_BYTES}
STRICT = {"gates": [{"name": "strict", "metric": "WeightError", "maximum": "0.000001"}]}
_WITHIN = 900.0


@pytest.fixture(scope="module", autouse=True)
def installed(up: BackEnd) -> Iterator[None]:
    helm = Helm(up.cluster, up.namespace)
    helm.install(
        *("--set", f"kubeflowPipelines.endpoint=http://ml-pipeline.{up.namespace}:8888"),
        *("--set", "kubeflowPipelines.uiUrl=https://kubeflow.test/pipeline"),
        *("--set", f"images.task={up.task.removeprefix(f'{REGISTRY}/')}"),
    )
    yield
    helm("uninstall", "halftone", "--wait")


def apply(up: BackEnd, name: str, runner: str, **spec: Any) -> None:
    body = job(up.s3, name, runner=runner, quantization=QUANTIZATION, **spec)
    up.client.create(jobs_path(up.namespace), body)


def ended(up: BackEnd, name: str, kind: str = "Succeeded", status: str = "True") -> Object:
    """The job, once the condition is as it should be."""
    found: Object = {}

    def holds() -> bool:
        found.clear()
        found.update(up.client.job(up.namespace, name))
        return bool(condition_of(found, kind).get("status") == status)

    try:
        up.client.wait(f"{kind} of {name}", holds, _WITHIN)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; it says {found.get('status')}") from None
    return found


def rows(found: Object) -> list[tuple[str, str]]:
    return [(row["type"], row["status"]) for row in found["status"]["conditions"]]


def test_both_runners_tell_the_same_and_write_the_same(up: BackEnd) -> None:
    apply(up, "by-kubeflow", "KubeflowPipelines")
    apply(up, "by-jobs", "Jobs")
    one, other = ended(up, "by-kubeflow"), ended(up, "by-jobs")
    assert rows(one) == rows(other) == [(name, "True") for name in ORDER]
    status = one["status"]
    assert status["checkpoint"] == other["status"]["checkpoint"]
    assert status["pipelineRun"]["url"].startswith("https://kubeflow.test/pipeline/#/runs/details/")
    assert one["metadata"]["uid"] in status["pipelineRun"]["name"]
    assert up.s3.keys(BUCKET, "out/by-kubeflow/")


def test_a_gate_that_fails_is_told_and_publishes_nothing(up: BackEnd) -> None:
    apply(up, "strict-run", "KubeflowPipelines", validation=STRICT)
    apply(up, "strict-jobs", "Jobs", validation=STRICT)
    one, other = (ended(up, f"strict-{how}", "Succeeded", "False") for how in ("run", "jobs"))
    assert rows(one) == rows(other)
    told = [condition_of(found, "Validated") for found in (one, other)]
    assert told[0]["status"] == "False"
    assert {row["reason"] for row in told} == {told[0]["reason"]}
    assert {row["message"] for row in told} == {told[0]["message"]}
    assert up.s3.keys(BUCKET, "out/strict-run/") == []


def test_a_deleted_job_leaves_nothing_at_work(up: BackEnd) -> None:
    apply(up, "deleted", "KubeflowPipelines")
    up.client.wait("a pod of it", lambda: bool(pods(up, "deleted")), _WITHIN)
    path = f"{jobs_path(up.namespace)}/deleted"
    up.client.delete(path)
    up.client.wait("it is gone", lambda: up.client.find(path) is None, _WITHIN)
    working = [p for p in pods(up, "deleted") if p["status"]["phase"] in ("Pending", "Running")]
    assert working == []
    assert up.s3.keys(BUCKET, "out/deleted/") == []
