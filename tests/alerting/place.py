"""What the alerts of this tier are about: two replicas, an operator with a job, and who is told.

    with place(tmp_path) as here:
        here.webhook.until("ReplicaDown", "firing")

Called by the test of this folder. Prometheus has the chart's rules as they are, scrapes as often as
the charts have it scrape, and tells a real Alertmanager. Replicas are vLLM's own servers, and one
has so few KV blocks that some fifty requests fill them. The operator is real and so is its API
server; what stands in for the node carries out the commands of its pods on this machine.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import yaml

from halftone.spec.cluster import ChildStage
from tests.api.world import World, world
from tests.builders import write_checkpoint
from tests.cluster.chart import install_crd
from tests.cluster.client import Client, jobs_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.real_stages import RealStages
from tests.doubles.webhook import Webhook
from tests.endpoints import POCKET
from tests.scraped_labels import by_pod_monitor, by_service_monitor
from tests.servers.alertmanager import Alertmanager
from tests.servers.prometheus import Job, Prometheus
from tests.servers.versitygw import VersityGateway
from tests.servers.vllm import Asked, Servers, vllm_process
from tests.stated_times import GROUP_WAIT_S, RULES, scraped
from tests.storehouse import Storehouse

NAMESPACE: Final = "models"
OPERATOR: Final = "halftone"
JOB: Final = "small"
# Names of models, and of the replicas that serve them.
STOPPED, FILLED = "stopped", "filled"
# Alertmanager's default is five minutes, and every end would be told of that much later.
GROUP_INTERVAL_S: Final = 60
# A sequence of the pocket model takes some six of them, so fifty fill them. In a cache for fifteen
# the ratio falls below nine tenths whenever two end, and the alert begins anew.
_BLOCKS: Final = ("--num-gpu-blocks-override", "300", "--max-num-seqs", "128")
_ASKED: Final = {STOPPED: Asked(POCKET), FILLED: Asked(POCKET, arguments=_BLOCKS)}
_SAMPLE: Final = r"(?m)^vllm:{}{{.*}} (\S+)$"


@dataclass(frozen=True)
class Place:
    """Everything up; the job waits to be published."""

    webhook: Webhook
    prometheus: Prometheus
    world: World
    stages: RealStages
    store: Storehouse
    replicas: dict[str, Servers]

    def url(self, name: str) -> str:
        """Of a replica."""
        return self.replicas[name].urls[name]

    def is_filled(self) -> bool:
        """Whether the replica with few blocks says that they are in use and requests wait."""
        return self._says("kv_cache_usage_perc") > 0.9 and self._says("num_requests_waiting") > 0

    def is_idle(self) -> bool:
        """Whether that replica says that it has nothing to do."""
        return self._says("num_requests_running") == self._says("num_requests_waiting") == 0

    def _says(self, name: str) -> float:
        with urlopen(f"{self.url(FILLED)}/metrics", timeout=60) as answer:
            found = re.search(_SAMPLE.format(name), answer.read().decode())
        assert found is not None, name
        return float(found[1])

    def publishers_key(self, text: str) -> None:
        """Let the Secret that the job publishes with have this text."""
        path = f"/api/v1/namespaces/{self.world.namespace}/secrets/publisher"
        self.world.client.patch(path, {"stringData": {"aws": text}})


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    """Everything up and seen by Prometheus, and the job as far as its gates."""
    with ExitStack() as stack:
        webhook = stack.enter_context(Webhook())
        alertmanager = stack.enter_context(
            Alertmanager(folder, configuration=yaml.safe_dump(_telling(webhook.url)))
        )
        files = sorted(RULES.glob("*.yaml"))
        prometheus = stack.enter_context(
            Prometheus(folder, _jobs(), files, scraped("endpoint"), [alertmanager.address])
        )
        server = stack.enter_context(VersityGateway(folder / "s3"))
        store = Storehouse.made(server, write_checkpoint(folder / "model", "qwen3_5"))
        cluster = stack.enter_context(ControlPlane(folder / "cluster"))
        install_crd(cluster)
        client = stack.enter_context(Client(cluster))
        here = stack.enter_context(world(cluster, client, OPERATOR, folder))
        prometheus.scrape("operator", [f"127.0.0.1:{here.operator.port}"])
        stages = _begin_job(here, store, folder / "node")
        replicas = {}
        for name, asked in _ASKED.items():
            (folder / name).mkdir()
            replicas[name] = stack.enter_context(vllm_process(folder / name, {name: asked}))
            prometheus.scrape(name, [replicas[name].urls[name].removeprefix("http://")])
        here.wait_for(JOB, "Validated", "True")
        here.wait_child(f"{JOB}-publish-1")
        prometheus.until("count(halftone:replica_up:min == 1) == 2")
        prometheus.until('halftone:jobs:max{condition="Validated", status="True"} == 1')
        yield Place(webhook, prometheus, here, stages, store, replicas)


def _telling(url: str) -> dict[str, Any]:
    """Who is told is told of each alert for itself, after Alertmanager's usual wait."""
    return {
        "route": {
            "receiver": "tests",
            "group_by": ["alertname", "namespace", "model_name"],
            "group_wait": f"{GROUP_WAIT_S:.0f}s",
            "group_interval": f"{GROUP_INTERVAL_S}s",
        },
        "receivers": [
            {"name": "tests", "webhook_configs": [{"url": url, "send_resolved": True}]},
        ],
    }


def _jobs() -> dict[str, Job]:
    replicas = {
        name: Job((), by_pod_monitor(NAMESPACE, "replicas", f"{name}-0", "http")) for name in _ASKED
    }
    labels = by_service_monitor(OPERATOR, "halftone", "halftone-0", "http")
    return {**replicas, "operator": Job((), labels, interval=scraped("jobs"))}


def _begin_job(here: World, store: Storehouse, folder: Path) -> RealStages:
    """A job that reads, quantizes and judges a small model in S3, and waits before it publishes."""
    secrets = f"/api/v1/namespaces/{here.namespace}/secrets"
    for name, data in store.secrets.items():
        here.client.create(secrets, {"metadata": {"name": name}, "stringData": data})
    stages = RealStages(here.client, here.namespace, folder)
    stages.held = ChildStage.Publish
    here.answers[JOB] = stages
    here.client.create(jobs_path(here.namespace), store.job(parallelism=1))
    return stages
