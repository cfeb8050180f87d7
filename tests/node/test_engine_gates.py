"""Gates that need a server, in a pod: the pocket model is quantized, served, judged and published.

The node gets the endpoint's image for CPUs, seven gigabytes, so this is run by hand.

We test these aspects:
- the stage that validates, and no other, runs in the image with vLLM, with what Pod Security
  "restricted" and a read-only root leave it, and with more shared memory than a container has;
- its verdict is that a CPU stood in for the device, and the published artifact verifies.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.client import condition_of, jobs_path
from tests.cluster.own_images import ENDPOINT_CPU, WORKER, archives, reference
from tests.commands import halftone
from tests.node.conftest import Up, pods_of
from tests.node.jobs import job

pytestmark = pytest.mark.soak

NAME = "judged"
GATES = [
    {"name": "loads", "metric": "EngineLoads"},
    {"name": "divergence", "metric": "KlDivergence", "maximum": "0.05"},
]


@pytest.fixture(scope="session")
def archive() -> Path:
    """The image, built and saved while this process still has the machine's network."""
    return archives(ENDPOINT_CPU)[-1]


def test_a_pod_judges_the_pocket_model_on_a_server(
    archive: Path, up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    up.node.load(archive)
    archive.unlink()  # the node has it, and whoever saves it again gets it again
    up.helm.install("--set", f"images.validator={ENDPOINT_CPU}")
    body = job(up.s3, NAME, validation={"gates": GATES})
    up.client.create(jobs_path(up.namespace), body)

    def is_done() -> bool:
        found = up.client.job(up.namespace, NAME)
        failed = [
            c for c in found.get("status", {}).get("conditions", ()) if c["status"] == "False"
        ]
        assert not failed, failed
        return condition_of(found, "Succeeded").get("status") == "True"

    up.client.wait("it succeeds", is_done, 900)
    pods = pods_of(up, NAME)
    images = {pod["metadata"]["labels"]["halftone.dev/stage"]: image_of(pod) for pod in pods}
    assert images.pop("validate") == reference(ENDPOINT_CPU)
    assert set(images.values()) == {reference(WORKER)}
    (validating,) = [p for p in pods if p["metadata"]["labels"]["halftone.dev/stage"] == "validate"]
    (container,) = validating["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert "/dev/shm" in {mount["mountPath"] for mount in container["volumeMounts"]}

    status = up.client.job(up.namespace, NAME)["status"]
    assert status["report"]["verdict"] == "Emulated"
    for name, value in up.s3.environment.items():
        monkeypatch.setenv(name, value)
    verified = halftone("verify", status["artifact"]["uri"], "--public-key", up.signing_key)
    assert verified.code == 0, verified.err
    assert "signature: valid" in verified.out
    assert "verdict: Emulated" in verified.out


def image_of(pod: dict[str, Any]) -> str:
    return str(pod["spec"]["containers"][0]["image"])
