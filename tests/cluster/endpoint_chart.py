"""The chart `halftone-endpoint`, rendered with Helm, and the parts of what it renders.

Called by contract tests and by the API tier.
"""

import json
import subprocess
from collections.abc import Iterable
from typing import Any, Final

import yaml

from halftone.spec.scaling import Autoscaling
from halftone.spec.serving import Endpoint
from tests.cluster.chart import REGISTRY, ROOT
from tools.servers import program

CHART: Final = ROOT / "charts" / "halftone-endpoint"
RELEASE: Final = "small"
DIGEST: Final = "c" * 64
# What has no default.
NEEDED: Final = {
    "image.registry": REGISTRY,
    "artifact.uri": "s3://models/out",
    "artifact.digest": DIGEST,
    "apiKey.secretName": "clients",
    "trust.publicKeyRef.name": "signer",
}

Object = dict[str, Any]


def helm(verb: str, *options: str, release: str = RELEASE) -> str:
    """What Helm prints. Raises RuntimeError with what it says when it refuses."""
    needed = ",".join(f"{name}={value}" for name, value in NEEDED.items())
    place = (str(CHART),) if verb == "lint" else (release, str(CHART))
    command = [str(program("helm")), verb, *place, "--set", needed, *options]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(found.stderr + found.stdout)
    return found.stdout


def render(namespace: str, *options: str, release: str = RELEASE) -> list[Object]:
    """Every object of the chart, with the values that it needs and `options`."""
    text = helm("template", "--namespace", namespace, *options, release=release)
    return [one for one in yaml.safe_load_all(text) if one]


def of_kind(objects: Iterable[Object], kind: str) -> list[Object]:
    """Those of one kind."""
    return [one for one in objects if one["kind"] == kind]


def ray_service(objects: Iterable[Object]) -> Object:
    """The one RayService."""
    (found,) = of_kind(objects, "RayService")
    return found


def templates(service: Object) -> dict[str, Object]:
    """The pod templates of a RayService: of the head, and of the replicas."""
    cluster = service["spec"]["rayClusterConfig"]
    (group,) = cluster["workerGroupSpecs"]
    return {"head": cluster["headGroupSpec"]["template"], "replica": group["template"]}


def standalone(objects: Iterable[Object]) -> Object:
    """The one Deployment whose pods hold replicas."""
    (found,) = (
        one
        for one in of_kind(objects, "Deployment")
        if one["metadata"]["labels"]["app.kubernetes.io/component"] == "endpoint"
    )
    return found


def endpoint_of(objects: Iterable[Object]) -> Endpoint:
    """The application's argument, as Serve or `halftone serve` reads it."""
    objects = list(objects)
    if of_kind(objects, "RayService"):
        return Endpoint.model_validate(_application(objects)["args"])
    *_, last = standalone(objects)["spec"]["template"]["spec"]["containers"][0]["args"]
    return Endpoint.model_validate_json(last.replace("$$", "$"))


def policy_of(objects: Iterable[Object]) -> Object:
    """The arguments of our policy, those from the file that it is given included."""
    objects = list(objects)
    named = deployment_of(objects)["autoscaling_config"]["policy"]["policy_kwargs"]
    head = templates(ray_service(objects))["head"]["spec"]
    (mount,) = (
        one for one in head["containers"][0]["volumeMounts"] if one["name"] == "autoscaling"
    )
    (volume,) = (one for one in head["volumes"] if one["name"] == "autoscaling")
    (config,) = (
        one
        for one in of_kind(objects, "ConfigMap")
        if one["metadata"]["name"] == volume["configMap"]["name"]
    )
    ((key, text),) = config["data"].items()
    inside = json.loads(text)
    assert named["file"] == f"{mount['mountPath']}/{key}"
    assert not named.keys() & inside.keys()
    return {name: value for name, value in (named | inside).items() if name != "file"}


def application_of(objects: Iterable[Object]) -> Object:
    """Serve's application, with the policy's arguments in place of their file."""
    objects = list(objects)
    application = _application(objects)
    (deployment,) = application["deployments"]
    if "autoscaling_config" in deployment:
        policy = deployment["autoscaling_config"]["policy"]
        policy["policy_kwargs"] = policy_of(objects)
    return application


def _application(objects: list[Object]) -> Object:
    (found,) = yaml.safe_load(ray_service(objects)["spec"]["serveConfigV2"])["applications"]
    return dict(found)


def deployment_of(objects: Iterable[Object]) -> Object:
    """The one deployment's entry in Serve's configuration."""
    (found,) = _application(list(objects))["deployments"]
    return dict(found)


def count_of(deployment: Object) -> Object:
    """What an `Endpoint` says of its number, as an application of `application_of` has it."""
    if "num_replicas" in deployment:
        return {"replicas": deployment["num_replicas"]}
    policy = deployment["autoscaling_config"]["policy"]["policy_kwargs"]
    settings = policy["settings"]
    objectives = {
        "ttftMilliseconds": round(1000 * settings["ttft_s"]),
        "promptTokensPerSecond": settings["prompt_rate"],
        "interTokenMilliseconds": round(1000 * settings["itl_s"]),
    }
    wished = {
        "prometheusUrl": policy["prometheus"],
        "selector": policy["selector"],
        "prometheusTokenFile": policy["token_file"],
        "prometheusCaFile": policy["ca_file"],
        "minReplicas": settings["min_replicas"],
        "maxReplicas": settings["max_replicas"],
        "thetaPercent": round(100 * settings["theta"]),
        "leadSeconds": policy["lead_s"],
        "scaleInWindowSeconds": settings["scale_in_window_s"],
        "intervalSeconds": policy["interval_s"],
        "objectives": objectives,
        "observeOnly": policy["observe_only"],
        ("cardFile" if isinstance(policy["card"], str) else "card"): policy["card"],
    }
    return {"autoscaling": Autoscaling.model_validate(wished)}


def variables(container: Object) -> dict[str, str]:
    """The plain variables of a container; secrets are not among them."""
    return {one["name"]: one["value"] for one in container["env"] if "value" in one}
