"""The story, an act a function; each needs those before it.

Called by `python -m tests.e2e`. What an act wants and does not get is a RuntimeError or a
TimeoutError with a sentence.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from halftone.spec.cluster import PLURAL
from tests.cluster.client import children_path, condition_of, jobs_path, pods_path
from tests.cluster.helm import Helm
from tests.cluster.kuberay import RAY_API
from tests.cluster.own_images import REGISTRY
from tests.cluster.prometheus_in_cluster import LABELS
from tests.cluster.prometheus_in_cluster import NAMESPACE as MONITORING
from tests.conftest import ROOT
from tests.e2e.judging import MADE_BY_CHARTS, made_twice, silent, values_of
from tests.e2e.load import asked_by
from tests.e2e.scene import JOBS, Scene, take_away
from tests.endpoint.release import API_KEY, NAME, VALUES, Release, chat
from tests.endpoint.release import NAMESPACE as MODELS
from tests.node.jobs import job

FIRST, SECOND = "pocket-nvfp4", "pocket-fp8"
_FORMATS: Final = {FIRST: "nvfp4a16", SECOND: "fp8-block"}
# A gate on files; those that need a server take an image of their own.
_GATES: Final = {"gates": [{"name": "weights", "metric": "WeightError", "maximum": "0.2"}]}
_WINDOW_S: Final = 60
_MOST: Final = 3
# So few that clients on the same two cores ask for more than one replica.
_THETA: Final = 40
# The longest answer, and when a pod without a replica goes: whatever waits for either takes minutes
# by default.
_REQUEST_S: Final = 90
_IDLE_S: Final = 30
_CARD: Final = "card.json"
_MEASURED: Final = 4  # times at most
_MONITORS: Final = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": MONITORING}}
}
_CLIENTS: Final = 24
_PATIENCE_S: Final = 600.0


def install_operator(scene: Scene) -> list[str]:
    """The operator, scraped, and its own test."""
    helm = Helm(scene.cluster, JOBS)
    helm.install(
        "--set", "serviceMonitor.enabled=true", "--set", f"serviceMonitor.labels.release={_ours()}"
    )
    return [_helm_test(helm, "halftone")]


def install_monitoring(scene: Scene) -> list[str]:
    """Rules, dashboards and a doctor; returns once Prometheus runs every group."""
    helm = Helm(scene.cluster, MONITORING)
    values = {
        "rules.labels.release": _ours(),
        "podMonitor.labels.release": _ours(),
        "podMonitor.interval": "15s",
        "doctor.enabled": "true",
        "doctor.prometheusUrl": scene.monitoring.inside,
        "doctor.intervalSeconds": "15",
        "image.registry": REGISTRY,
        "image.pullPolicy": "Never",
    }
    told = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    chart = str(ROOT / "charts" / "halftone-monitoring")
    helm("upgrade", "--install", "halftone", chart, "--wait", "--timeout", "180s", *told)
    found = scene.cluster.get("prometheusrules", "-n", MONITORING)["items"]
    wanted = {group["name"] for one in found for group in one["spec"]["groups"]}
    scene.client.wait(
        "Prometheus runs the rules",
        lambda: wanted <= {group["name"] for group in scene.monitoring.rules()},
        180,
    )
    groups = [group for group in scene.monitoring.rules() if group["name"] in wanted]
    bad = [r["name"] for g in groups for r in g["rules"] if r["health"] == "err"]
    _require(not bad, f"Prometheus cannot evaluate {bad}.")
    return [f"{len(groups)} groups of rules, {sum(len(g['rules']) for g in groups)} rules"]


def refuse(scene: Scene) -> list[str]:
    """A job that cannot be is refused with a sentence, and makes nothing."""
    wrong = job(scene.s3, "wrong", quantization={"preset": "nvfp4a16"}, validation=_GATES)
    wrong["spec"]["source"]["s3"]["uri"] = "s3://models/nothing-is-here"
    scene.client.create(jobs_path(JOBS), wrong)
    found = scene.client.wait_for(JOBS, "wrong", "Accepted", "False", 180)
    row = condition_of(found, "Accepted")
    scene.client.delete(f"{jobs_path(JOBS)}/wrong")
    return [f"{row['reason']}: {row['message']}"]


def quantize(scene: Scene, name: str) -> list[str]:
    """A QuantizationJob of the pocket model from S3 by `kubectl apply`, until it has succeeded."""
    apply(scene, name)
    return succeeded(scene, name)


def apply(scene: Scene, name: str) -> None:
    """`kubectl apply` of the job."""
    quantization = {"preset": _FORMATS[name], "maxShardBytes": 2_000_000}
    body = job(scene.s3, name, quantization=quantization, validation=_GATES)
    path = scene.folder / f"{name}.json"
    path.write_text(json.dumps(body, indent=2), encoding="utf-8")
    scene.cluster.kubectl("apply", "-n", JOBS, "-f", str(path))


def succeeded(scene: Scene, name: str) -> list[str]:
    """Wait for the end of a job; what it says."""
    status = scene.client.wait_for(JOBS, name, "Succeeded", "True", _PATIENCE_S)["status"]
    artifact, verdict = status["artifact"], status["report"]["verdict"]
    return [f"{artifact['uri']}, {artifact['sizeBytes'] / 1e6:.1f} MB, {verdict}"]


def lose_the_operator(scene: Scene, name: str) -> list[str]:
    """The operator's pod dies in the middle of a job; every stage is made once all the same."""
    apply(scene, name)
    children = children_path(JOBS)
    label = f"halftone.dev/job={name}"
    scene.client.wait(
        "a stage is made", lambda: bool(scene.client.items(children, labelSelector=label)), 120
    )
    lost = _operators(scene)
    _require(bool(lost), "there is no pod of the operator to lose")
    for pod in lost:
        scene.client.delete(f"{pods_path(JOBS)}/{pod}", grace_s=0)
    told = succeeded(scene, name)
    _require(not lost & _operators(scene), "the operator's pod was never lost")
    made = scene.client.items(children, labelSelector=label)
    _require(not made_twice(made), f"stages were made twice: {made_twice(made)}")
    return [*told, f"{len(made)} Jobs of stages, none twice"]


def _operators(scene: Scene) -> set[str]:
    chosen = {"labelSelector": "app.kubernetes.io/component=operator"}
    return {one["metadata"]["name"] for one in scene.client.items(pods_path(JOBS), **chosen)}


def serve(scene: Scene) -> tuple[Release, list[str]]:
    """The endpoint of the first job's artifact, a chat, and the chart's own test."""
    digests = {name: _digest(scene, name) for name in (FIRST, SECOND)}
    release = Release(scene.cluster, scene.client, scene.s3.endpoint, digests, scene.timeline.tell)
    release.put(_values(scene, FIRST), FIRST, 1)
    with release.asking() as client:
        answer = chat(client)
    _require("357" in answer, f"12+345= is answered with {answer!r}, so these weights are no good")
    helm = Helm(scene.cluster, MODELS)
    return release, [f"12+345= is answered with {answer!r}", _helm_test(helm, NAME)]


def measure(scene: Scene, release: Release) -> list[str]:
    """`halftone bench` makes a capacity card, by which the law decides from then on.

    On a starving machine steps seem to cost nothing; such a card is measured again.
    """
    with release.asking() as client:
        url = str(client.base_url).removesuffix("/v1/").rstrip("/")
    for attempt in range(_MEASURED):
        card, said = _measured(scene, url, scene.folder / "measured" / str(attempt))
        base = json.loads(card.read_text("utf-8"))["stepBaseSeconds"]
        if float(base["value"]) > 2 * float(base["standardError"]):
            break
    else:
        raise RuntimeError(f"steps seem to cost nothing after {_MEASURED} measurements: {said}")
    shutil.copy(card, scene.folder / _CARD)
    release.put(_values(scene, FIRST), FIRST, 1)
    release.wait("the law decides", lambda: _wanted(scene) >= 1 and _held(scene) == 0, 180)
    again = f"measured {attempt + 1} times" if attempt else "measured once"
    return [*(line for line in said.splitlines() if line.startswith("capacity of")), again]


def _measured(scene: Scene, url: str, folder: Path) -> tuple[Path, str]:
    """The card that `halftone bench` writes below `folder`, and what it prints."""
    command = [
        *(sys.executable, "-m", "halftone", "bench", url, "--output", str(folder)),
        *("--concurrency", "8", "--rounds", "1", "--input-tokens", "64", "--output-tokens", "26"),
    ]
    ended = subprocess.run(
        command,
        env={**os.environ, "VLLM_API_KEY": API_KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    with (scene.folder / "bench.log").open("a", encoding="utf-8") as log:
        log.write(ended.stdout + ended.stderr)
    cards = sorted(folder.glob("capacity/*.json"))
    _require(bool(cards), f"no capacity card was made: {ended.stderr.strip()[-500:]}")
    return cards[0], ended.stdout


def follow(scene: Scene, release: Release) -> list[str]:
    """Load until there are more replicas, then none until there is one again."""
    facts = []
    with asked_by(release, _CLIENTS) as load:
        began = time.monotonic()
        release.wait("another replica is wanted", lambda: _wanted(scene) >= 2, 300)
        facts.append(f"another replica is wanted after {time.monotonic() - began:.0f} s of load")
        release.wait("another replica is ready", lambda: len(release.ready("replica")) >= 2, 600)
        facts.append(f"and ready after {time.monotonic() - began:.0f} s")
        time.sleep(20)
    began = time.monotonic()
    release.wait("one replica again", lambda: len(release.ready("replica")) == 1, 600)
    facts.append(f"one again {time.monotonic() - began:.0f} s after the load's end")
    refused = f"{load.refused} told to come again, " if load.refused else ""
    facts.append(f"{load.answered} answers, {refused}{len(load.errors)} failed")
    _require(not load.errors, f"requests failed: {load.errors[:3]}")
    return facts


def swap(scene: Scene, release: Release) -> list[str]:
    """The second job's artifact takes the first one's place while chats go on."""
    scene.logs.read_ray()  # of pods that are not there at the end
    with release.asked_all_the_while() as answers:
        release.put(_values(scene, SECOND), SECOND, 1)
    failed = [one for one in answers if one]
    _require(not failed, f"chats failed: {failed[:3]}")
    _require(bool(answers), "no chat was answered while artifacts changed places")
    return [f"{len(answers)} chats meanwhile, none failed"]


def break_things(scene: Scene, release: Release) -> list[str]:
    """A replica's pod is killed; Prometheus is away, and the count holds until it is back."""
    facts = []
    with release.asked_all_the_while() as answers:
        release.wait("the last artifact's pods go", lambda: _clusters(release) == 1, 600)
        release.wait("one replica", lambda: len(release.ready("replica")) == 1)
        (pod,) = release.ready("replica")
        name = pod["metadata"]["name"]
        scene.logs.read_ray()
        began = time.monotonic()
        scene.client.delete(f"{pods_path(MODELS)}/{name}", grace_s=0)
        release.wait(
            "another pod",
            lambda: any(p["metadata"]["name"] != name for p in release.ready("replica")),
        )
        before = len(answers)
        release.wait("an answer again", lambda: "" in answers[before:])
        facts.append(
            f"a replica's pod is killed: answers again {time.monotonic() - began:.0f} s on"
        )
    failed = sum(1 for one in answers if one)
    facts.append(f"{failed} of {len(answers)} chats failed meanwhile")
    count = len(release.ready("replica"))
    scene.cluster.kubectl("delete", "pod", "prometheus-prometheus-0", "-n", MONITORING)
    ready = ("wait", "--for=condition=Ready", "pod/prometheus-prometheus-0", "--timeout=180s")
    scene.cluster.kubectl("wait", "--for=create", "pod/prometheus-prometheus-0", "-n", MONITORING)
    scene.cluster.kubectl(*ready, "-n", MONITORING)
    release.wait("the law decides again", lambda: _held(scene) == 0, 300)
    left = len(release.ready("replica"))
    _require(left == count, f"{count} replicas became {left} while Prometheus was away")
    facts.append(f"Prometheus is killed: {left} replica stays")
    return facts


def ask_the_doctor(scene: Scene, release: Release) -> list[str]:
    """Under load every metric is there that rules, dashboards and the scaler need."""
    with asked_by(release, 2):
        release.wait("the doctor finds every metric", lambda: _contract(scene) == 1, 300)
        said = _helm_test(Helm(scene.cluster, MONITORING), "halftone")
    families = len(scene.monitoring.query("halftone_metric_contract_ok"))
    return [f"halftone_metric_contract_ok is 1 for {families} families of metrics", said]


def search_logs(scene: Scene) -> list[str]:
    """No value of any Secret stands in a log, an event or an object that is no Secret."""
    stored = [
        one
        for namespace in (JOBS, MODELS)
        for one in scene.cluster.get("secrets", "-n", namespace)["items"]
    ]
    planted = values_of(stored)
    kinds = "pods,jobs,configmaps,events,quantizationjobs.halftone.dev,rayservices.ray.io"
    # The S3 server's own pod has its key as a variable.
    told = {
        f"objects of {namespace}": scene.cluster.kubectl(
            "get", kinds, "-n", namespace, "-o", "json"
        )
        for namespace in (JOBS, MODELS, MONITORING)
    }
    scene.logs.read_ray()
    places = (JOBS, MODELS, MONITORING)
    unheard = scene.logs.missing(places)
    logs = scene.logs.texts()
    unheard += silent(places, logs)
    _require(not unheard, f"no log was read of {', '.join(unheard)}")
    told |= logs
    found = sorted({name for name, text in told.items() for value in planted if value in text})
    known = {API_KEY, scene.s3.secret_key}
    _require(known <= planted, "the keys of clients and of S3 are not among the Secrets")
    _require(not found, f"values of Secrets stand in {found}")
    return [f"{len(planted)} values of Secrets, in none of {len(logs)} logs"]


def _left(scene: Scene) -> list[str]:
    chosen = ("-A", "-l", "app.kubernetes.io/part-of=halftone", "-o", "name")
    return scene.cluster.kubectl("get", MADE_BY_CHARTS, *chosen).split()


def uninstall(scene: Scene, release: Release) -> list[str]:
    """Everything goes, and nothing of ours stays but what the user made."""
    release.uninstall()
    for name in (FIRST, SECOND):
        scene.client.delete(f"{jobs_path(JOBS)}/{name}")
    scene.client.wait("the end of all jobs", lambda: not scene.client.items(jobs_path(JOBS)), 180)
    Helm(scene.cluster, MONITORING)("uninstall", "halftone", "--wait")
    Helm(scene.cluster, JOBS)("uninstall", "halftone", "--wait")
    # Helm does not wait for pods that a controller has made.
    try:
        release.wait("the end of all that is ours", lambda: not _left(scene), 180)
    except TimeoutError:
        raise RuntimeError(f"left behind: {_left(scene)}") from None
    crd = scene.cluster.kubectl("get", "crd", "--ignore-not-found", f"{PLURAL}.halftone.dev")
    if scene.existing:
        take_away(scene.cluster)
    return ["nothing is left" + (" but the definition of QuantizationJobs" if crd else "")]


def _values(scene: Scene, artifact: str) -> dict[str, Any]:
    """Two clusters of Ray stand side by side while an artifact is replaced, and ask for two cores
    together with all else here.
    """
    return {
        "artifact": {"fromJob": artifact, "fromJobNamespace": JOBS},
        "podMonitor": {"enabled": True, "labels": dict(LABELS)},
        "networkPolicy": {"monitoring": [_MONITORS]},
        "maxRequestSeconds": _REQUEST_S,
        "ray": {"idleTimeoutSeconds": _IDLE_S},
        "head": {"resources": {"requests": {"cpu": "50m", "memory": "1Gi"}}},
        "worker": VALUES["worker"] | {"resources": {"requests": {"cpu": "100m", "memory": "2Gi"}}},
        "autoscaling": _autoscaling(scene),
    }


def _autoscaling(scene: Scene) -> dict[str, Any]:
    """On from the beginning, for to turn it on starts replicas anew; a card comes without that.

    Until then the count holds. In a ConfigMap of its own the card would be a volume more, and so
    another cluster of Ray.
    """
    card = scene.folder / _CARD
    capacity = {"card": json.loads(card.read_text("utf-8"))} if card.exists() else {}
    return {
        "prometheusUrl": scene.monitoring.inside,
        "selector": {"namespace": MODELS},
        "maxReplicas": _MOST,
        "thetaPercent": _THETA,
        "scaleInWindowSeconds": _WINDOW_S,
        "capacity": capacity,
    }


def _clusters(release: Release) -> int:
    """How many clusters of Ray there are: two while one takes the place of another."""
    return len(release.client.items(f"{RAY_API}/namespaces/{MODELS}/rayclusters"))


def _wanted(scene: Scene) -> float:
    found = scene.monitoring.value(
        f'halftone:model_scaling_desired_replicas:max{{namespace="{MODELS}"}}'
    )
    return found or 0.0


def _held(scene: Scene) -> float | None:
    return scene.monitoring.value(f'halftone:model_scaling_held:max{{namespace="{MODELS}"}}')


def _contract(scene: Scene) -> float | None:
    return scene.monitoring.value("min(halftone_metric_contract_ok)")


def _digest(scene: Scene, name: str) -> str:
    status = scene.client.job(JOBS, name)["status"]
    digest: str = status["checkpoint"]["digest"]
    return digest


def _helm_test(helm: Helm, release: str) -> str:
    said = helm("test", release)
    _require("Succeeded" in said, said)
    return "helm test: Succeeded"


def _ours() -> str:
    return LABELS["release"]


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RuntimeError(otherwise)
