"""Pages of an endpoint of ours in a real Ray Serve, with the law of replicas inside Ray.

Called by the recorder. Ray's ports of metrics are all there are: the agent of a node, Ray's own
autoscaler, and its dashboard. One deployment before fails, for its artifact is not what its report
says, so that Ray's page has that too; then two replicas answer, as the law wants it.
"""

import os
from contextlib import ExitStack
from pathlib import Path
from shutil import copytree
from typing import Final

from halftone.spec.artifacts import Artifact
from halftone.validate.serving.loading import processor
from tests.endpoints import MODEL, Served, described, pocket_artifact
from tests.recording.load import Busy
from tests.recording.moments import taken, until
from tests.recording.native import BLOCKS, LENGTH, RULES, able
from tests.servers.ports import free_port
from tests.servers.prometheus import Job, Prometheus

ABOUT: Final = {
    "ray": "The agent of a node of Ray with an endpoint of the pocket model, two replicas under "
    "load, scaled by the law inside Ray Serve; a replica before them refused its artifact.",
    "ray-autoscaler": "Ray's own autoscaler, of nodes.",
    "ray-dashboard": "The process of Ray's dashboard, which shows nobody anything here.",
}
REPLICAS: Final = 2
_ENGINE: Final = {"num_gpu_blocks_override": BLOCKS, "kv_cache_memory_bytes": 256 << 20}
_AUTOSCALER, _DASHBOARD = "AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT"
# What Serve sets every ten seconds, and the agent forgets in between.
_SELDOM: Final = r"ray_serve_deployment_replica_healthy\{"
_READY: Final = (
    r"ray_halftone_scaling_held\{.*\} 0",
    r"ray_halftone_scaling_decision_info\{",
    r"ray_halftone_endpoint_requests_total\{",
    r"ray_halftone_endpoint_artifact\{",
    r"ray_halftone_endpoint_load_seconds\{",
    r"ray_vllm_request_success_total\{",
    r"ray_vllm_num_preemptions_total\{",
)


def record(folder: Path) -> dict[str, list[str]]:
    """Each page at every moment; takes some minutes."""
    ports = {_AUTOSCALER: free_port(), _DASHBOARD: free_port()}
    os.environ.update({name: str(port) for name, port in ports.items()})
    artifact = pocket(folder)
    with ExitStack() as stack:
        prometheus = stack.enter_context(Prometheus(folder, {"ray": Job([])}, RULES))
        wished = {
            "prometheusUrl": prometheus.url,
            "minReplicas": REPLICAS,
            "maxReplicas": REPLICAS,
            "intervalSeconds": 1,
        }
        endpoint = described(
            artifact, autoscaling=wished, engineArguments=_ENGINE, maxModelLen=LENGTH
        )
        damaged = {**endpoint, "artifact": {"uri": str(spoiled(artifact, folder / "spoiled"))}}
        served = stack.enter_context(Served(damaged, replicas=REPLICAS))
        if served.wait() is None:
            raise RuntimeError("an artifact that was tampered with is served")
        served.deploy(endpoint)
        if (wrong := served.wait()) is not None:
            raise RuntimeError(wrong)
        agent = served.metrics_port()
        prometheus.scrape("ray", [f"127.0.0.1:{agent}"])
        stack.enter_context(Busy(served.url, MODEL, REPLICAS))
        numbers = {
            "ray": agent,
            "ray-autoscaler": ports[_AUTOSCALER],
            "ray-dashboard": ports[_DASHBOARD],
        }
        urls = {name: f"http://127.0.0.1:{port}/metrics" for name, port in numbers.items()}
        until(urls["ray"], *_READY)
        return taken(urls, {"ray": (*_READY, _SELDOM)})


def pocket(folder: Path) -> Path:
    """The pocket model's artifact, with a card that says what replicas can do."""
    artifact = pocket_artifact(folder / "pocket")
    digest = Artifact.load(artifact / "artifact.json").checkpointDigest
    card = able().model_copy(update={"checkpointDigest": digest, "device": processor()})
    card = card.model_copy(update={"digest": card.compute_digest()})
    (artifact / card.path).parent.mkdir()
    card.save(artifact / card.path)
    return artifact


def spoiled(artifact: Path, folder: Path) -> Path:
    """A copy with a bit that is another one."""
    weights = Path(copytree(artifact, folder)) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    return folder
