"""Pages of an endpoint without Ray: vLLM's own server, who scales it, and who examines it.

Called by the recorder. vLLM serves the pocket model on this machine's CPU, a real Prometheus
scrapes it and runs the chart's rules, `halftone autoscale` decides by that about a Deployment of a
real API server, and `halftone doctor` looks at all of it.
"""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from halftone.spec.capacity import CapacityCard
from tests.artifacts import capacity_card
from tests.cluster.client import Client, pods_path
from tests.cluster.control_plane import ControlPlane
from tests.conftest import ROOT
from tests.endpoints import POCKET
from tests.recording.load import Busy
from tests.recording.moments import taken, until
from tests.servers.prometheus import Job, Prometheus
from tests.servers.vllm import Asked, vllm_servers

NAMESPACE: Final = "models"
MODEL: Final = "pocket-native"
RULES: Final = sorted((ROOT / "charts" / "halftone-monitoring" / "rules").glob("*.yaml"))
ABOUT: Final = {
    "vllm": "vLLM's own server, with the pocket model on a CPU, under load.",
    "autoscale": "`halftone autoscale`, which scales a Deployment of Kubernetes.",
    "doctor": "`halftone doctor --metrics-port`, at the Prometheus that scrapes vLLM's own server.",
}
# Fewer blocks than the load wants, so that requests wait and are preempted.
BLOCKS: Final = 24
LENGTH: Final = 512  # tokens
# What a machine like this one does with that model, so that the law has something to decide by.
_ABLE: Final = {
    "prefillTokensPerSecond": "4000",
    "stepBaseSeconds": "0.005",
    "secondsPerKvToken": "0.0000001",
    "secondsPerSequence": "0.002",
}
_NODE: Final = "stand-in"
_DEPLOYMENT: Final = "small"


def record(folder: Path) -> dict[str, list[str]]:
    """Each page at every moment; takes two minutes."""
    with ExitStack() as stack:
        cluster = stack.enter_context(ControlPlane(folder / "cluster"))
        client = stack.enter_context(Client(cluster))
        client.namespace(NAMESPACE)
        few = ("--num-gpu-blocks-override", str(BLOCKS))
        pod = ready_pod(client)
        urls = stack.enter_context(vllm_servers(folder, {MODEL: Asked(POCKET, arguments=few)}))
        address = urls[MODEL].removeprefix("http://")
        job = Job([address], {"namespace": NAMESPACE, "pod": pod})
        prometheus = stack.enter_context(Prometheus(folder, {"endpoint": job}, RULES))
        stack.enter_context(Busy(urls[MODEL], MODEL))
        card = folder / "card.json"
        able().save(card)
        options = ("--prometheus", prometheus.url, "--metrics-port", "0", "--interval", "1")
        scaled = ("--model", MODEL, "--card", card, "--deployment", f"{NAMESPACE}/{_DEPLOYMENT}")
        scaler = stack.enter_context(
            told("autoscale", *options, *scaled, "--kubeconfig", cluster.kubeconfig, "--max", "1")
        )
        until(scaler, r"halftone_scaling_held\S+ 0", r"halftone_scaling_decision_info\{")
        until(f"{urls[MODEL]}/metrics", r"vllm:num_preemptions_total\S+ [1-9]")
        # Not all rules run here, and the page need not say so.
        without = ("--without", "rules", "--without", "alerts")
        doctor = stack.enter_context(told("doctor", *options, *without))
        until(doctor, r"halftone_metric_contract_ok\{")
        return taken({"vllm": f"{urls[MODEL]}/metrics", "autoscale": scaler, "doctor": doctor})


def able() -> CapacityCard:
    """A card with the numbers of `_ABLE`, else as tests have it."""
    card = capacity_card("c" * 64)
    fitted = {
        name: getattr(card, name).model_copy(update={"value": value})
        for name, value in _ABLE.items()
    }
    card = card.model_copy(update=fitted)
    return card.model_copy(update={"digest": card.compute_digest()})


@contextmanager
def told(*arguments: str | Path) -> Iterator[str]:
    """The URL of the metrics of a `halftone` that keeps running, once it says where they are."""
    command = [sys.executable, "-m", "halftone", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while not (found := re.search(r"metrics on port (\d+)", said)):
            line = process.stderr.readline()
            if not line:
                raise RuntimeError(f"{arguments[0]} ended:\n{said}")
            said += line
        # What it says from here on is nobody's, and must not fill the pipe.
        drained = threading.Thread(target=process.stderr.read)
        drained.start()
        try:
            yield f"http://127.0.0.1:{found[1]}/metrics"
        finally:
            process.send_signal(signal.SIGTERM)
            drained.join()


def ready_pod(client: Client) -> str:
    """The name of the one pod of a Deployment, which a kubelet that is not there calls ready."""
    labels = {"app": _DEPLOYMENT}
    container = {"name": "pause", "image": "nowhere.test/pause"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    place = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
    client.create(
        place,
        {"apiVersion": "apps/v1", "kind": "Deployment"}
        | {"metadata": {"name": _DEPLOYMENT}, "spec": spec},
    )
    client.create("/api/v1/nodes", {"metadata": {"name": _NODE}, "spec": {"unschedulable": True}})
    client.wait("a pod", lambda: bool(client.items(pods_path(NAMESPACE))))
    name = str(client.items(pods_path(NAMESPACE))[0]["metadata"]["name"])
    path = f"{pods_path(NAMESPACE)}/{name}"
    target = {"apiVersion": "v1", "kind": "Node", "name": _NODE}
    about = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
    client.create(f"{path}/binding", about)
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    client.patch(f"{path}/status", {"status": ready})
    deployment = f"{place}/{_DEPLOYMENT}"
    client.wait("a ready replica", lambda: "readyReplicas" in client.get(deployment)["status"])
    return name
