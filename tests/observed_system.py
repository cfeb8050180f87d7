"""All that dashboards and alerts are about, running on this machine and scraped by one Prometheus.

    with observed(tmp_path) as system:              # a minute or two: Ray and vLLM start
        system.prometheus.query("halftone:model_replicas:count")

Called by tests that hold dashboards, alerts and the doctor to what is really exported. An endpoint
of Ray Serve with our policy in it, a server of vLLM's own, `halftone autoscale` for a Deployment,
the operator on a real API server and `halftone doctor` are as users have them, under load until the
block ends; each is scraped at the labels that kube-prometheus-stack gives. What stands in for nodes
says of pods how they end. There is no GPU, no kube-state-metrics and no Kubeflow here.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final

import yaml

from halftone.spec.artifacts import Artifact
from halftone.spec.capacity import CapacityCard, Fitted
from halftone.spec.cluster import ChildStage
from halftone.spec.reports import Outcome
from halftone.spec.scaling import Autoscaling
from halftone.spec.stage_results import GateFacts
from halftone.validate.serving.loading import processor
from tests.api.world import World, ends, refused, stops, world
from tests.artifacts import capacity_card
from tests.asking_load import Body, Load
from tests.cluster.answers import result
from tests.cluster.autoscaled import autoscaled, call_ready
from tests.cluster.chart import install_crd
from tests.cluster.client import Client
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import Answer
from tests.cluster.node_stand_in import NodeStandIn
from tests.contract.test_chart_alerts import rendered
from tests.endpoints import MODEL, POCKET, RUNNING, WAITING, Served, described, pocket_artifact
from tests.scraped_labels import by_pod_monitor, by_service_monitor
from tests.servers.lasting import Lasting
from tests.servers.prometheus import Job, Prometheus
from tests.servers.vllm import Asked, vllm_servers

NAMESPACE: Final = "models"
OPERATOR: Final = "halftone"
NATIVE: Final = "small"  # as vLLM's own server calls its model
INTERVAL: Final = "3s"  # of scrapes and rules; fifteen seconds are usual
# Who is scraped; where, is known once they run.
_TARGETS: Final = {
    "ray": Job((), by_pod_monitor(NAMESPACE, "chat-replica", "chat-worker-0", "metrics")),
    "native": Job((), by_pod_monitor(NAMESPACE, "small-replica", "small-0", "http")),
    "autoscale": Job((), by_pod_monitor(NAMESPACE, "small-autoscaler", "small-1", "metrics")),
    "operator": Job((), by_service_monitor(OPERATOR, "halftone", "halftone-0", "http")),
    "doctor": Job((), by_pod_monitor("monitoring", "monitoring-doctor", "doctor-0", "metrics")),
}
_GATE: Final = {"name": "agreement", "metric": "TopOneAgreement", "minPercent": 90}
_LENGTH: Final = 2048  # tokens of the pocket model
_NATIVE_SERVER: Final = Asked(POCKET, arguments=("--max-model-len", str(_LENGTH)))
_PATIENCE_S: Final = 5  # of an answer; the longest that are asked for take more


@dataclass(frozen=True)
class System:
    """What runs."""

    prometheus: Prometheus
    world: World
    loads: dict[str, Load]


@contextmanager
def observed(folder: Path) -> Iterator[System]:
    """Everything up, scraped, and under load."""
    with ExitStack() as stack:
        prometheus = stack.enter_context(
            Prometheus(folder, _TARGETS, chart_rules(folder, INTERVAL), INTERVAL)
        )
        # Ray first, which takes longest and needs nobody; all others start meanwhile.
        served = stack.enter_context(Served(_endpoint(_artifact(folder), prometheus.url)))
        cluster = stack.enter_context(ControlPlane(folder / "cluster"))
        install_crd(cluster)
        client = stack.enter_context(Client(cluster))
        stack.enter_context(NodeStandIn(cluster))
        here = stack.enter_context(world(cluster, client, OPERATOR, folder))
        prometheus.scrape("operator", [f"127.0.0.1:{here.operator.port}"])
        _carry_out_some(here)
        urls = stack.enter_context(vllm_servers(folder, {NATIVE: _NATIVE_SERVER}))
        prometheus.scrape("native", [urls[NATIVE].removeprefix("http://")])
        client.namespace(NAMESPACE)
        scaler = _autoscale(cluster, client, folder, prometheus.url)
        prometheus.scrape("autoscale", [stack.enter_context(scaler).address])
        told = served.wait()
        assert told is None, told
        prometheus.scrape("ray", [f"127.0.0.1:{served.metrics_port()}"])
        loads = {
            MODEL: Load(served.url, _all_sorts(), every_s=0.5),
            NATIVE: Load(urls[NATIVE], _ordinary(NATIVE), every_s=0.5),
        }
        for load in loads.values():
            stack.enter_context(load)
        doctor = Lasting("doctor", "--prometheus", prometheus.url, "--interval", "3")
        prometheus.scrape("doctor", [stack.enter_context(doctor).address])
        _carry_out_more(here)
        yield System(prometheus, here, loads)


def chart_rules(folder: Path, interval: str) -> list[Path]:
    """The rules of the chart as Helm renders them, in files."""
    written = []
    for name, rule in rendered("--set", f"rules.interval={interval}").items():
        written.append(folder / f"{name}.yaml")
        written[-1].write_text(yaml.safe_dump(rule["spec"]))
    return written


def _artifact(folder: Path) -> Path:
    """The pocket model with a capacity card of this machine, of which the policy learns."""
    published = pocket_artifact(folder / "pocket")
    digest = Artifact.load(published / "artifact.json").checkpointDigest
    card = _card(digest, processor())
    (published / card.path).parent.mkdir()
    card.save(published / card.path)
    return published


def _card(digest: str, device: str) -> CapacityCard:
    """Nobody measured it; a small model on two cores does about as much."""
    said = {
        "prefillTokensPerSecond": "3000",
        "stepBaseSeconds": "0.01",
        "secondsPerKvToken": "0.00000001",
        "secondsPerSequence": "0.001",
    }
    fitted = {name: Fitted(value=value, standardError="0") for name, value in said.items()}
    card = capacity_card(digest, device).model_copy(update=fitted)
    return card.model_copy(update={"digest": card.compute_digest()})


def _endpoint(artifact: Path, prometheus: str) -> dict[str, Any]:
    """One replica that our policy scales, as the chart has it; there is room for no other."""
    scaling = Autoscaling(
        prometheusUrl=prometheus,
        selector={"namespace": NAMESPACE},
        maxReplicas=1,
        intervalSeconds=2,
    )
    return described(
        artifact,
        autoscaling=scaling.model_dump(mode="json"),
        maxModelLen=_LENGTH,
        limits={"maxRequestSeconds": _PATIENCE_S, "maxQueuedRequests": WAITING},
    )


def _autoscale(cluster: ControlPlane, client: Client, folder: Path, prometheus: str) -> Lasting:
    """For the server of vLLM's own, as if it were the one pod of a Deployment."""
    kubeconfig = autoscaled(cluster, client, NAMESPACE, folder / "autoscale", replicas=1)
    call_ready(client, NAMESPACE)
    card = folder / "card.json"
    card.write_bytes(_card("c" * 64, processor()).to_bytes())
    options = {
        "--prometheus": prometheus,
        "--model": NATIVE,
        "--selector": f"namespace={NAMESPACE}",
        "--card": str(card),
        "--deployment": f"{NAMESPACE}/small",
        "--kubeconfig": str(kubeconfig),
        "--max": "1",
        "--interval": "2",
    }
    return Lasting("autoscale", *(word for option in options.items() for word in option))


def _carry_out_some(here: World) -> None:
    """A job that succeeds, and one whose gate fails: all series that jobs make are there then."""
    failed = refused(ChildStage.Validate, "GateFailed", "Gate `agreement` failed.", 1)
    score = GateFacts(name="agreement", outcome=Outcome.Passed, value="99.1")
    said = result(ChildStage.Validate)
    assert said.report is not None
    report = said.report.model_copy(update={"gates": (score,)})
    passed = Answer(said.model_copy(update={"report": report}))
    here.apply("first", ends(ChildStage.Validate, passed), validation={"gates": [_GATE]})
    here.apply("failed", ends(ChildStage.Validate, failed))
    here.wait_for("first", "Succeeded", "True")
    here.wait_for("failed", "Succeeded", "False", "GateFailed")


def _carry_out_more(here: World) -> None:
    """What counts on, after it was scraped once; and a stage that runs as long as anybody looks."""
    here.apply("running", stops(ChildStage.Quantize))
    for name in ("second", "third"):
        here.apply(name)
        here.wait_for(name, "Succeeded", "True")


def _ordinary(model: str) -> Iterator[Body]:
    """Prompts as token ids, each third of which begins as all of these do; and a wrong name."""
    numbers = Random(0)
    prefix = [numbers.randrange(100, 1000) for _ in range(1200)]
    for number in count():
        own = [numbers.randrange(100, 1000) for _ in range(40)]
        prompt = [*prefix, *own] if number % 3 == 0 else own
        name = "nobody" if number % 10 == 9 else model
        yield {"model": name, "prompt": prompt, "max_tokens": 16, "temperature": 0}


def _all_sorts() -> Iterator[Body]:
    """These, and some that are refused for what they ask (400), for want of room (429), or that
    take longer than an answer may (504).
    """
    whole = {"model": MODEL, "prompt": "1 + 1 =", "temperature": 1, "ignore_eos": True}
    for number, body in enumerate(_ordinary(MODEL)):
        yield body
        if number % 20 == 5:
            yield {**whole, "max_token": 1}
        if number % 20 == 10:
            yield from 2 * [{**whole, "n": RUNNING + WAITING, "max_tokens": 128}]
        if number % 60 == 15:
            yield {**whole, "n": RUNNING, "max_tokens": _LENGTH - 64}
