"""Autoscaling in the endpoint's chart: who decides, with what rights, and what stays as it was.

We test these aspects:
- without a Prometheus nothing of it is rendered, and `replicas` counts
- Ray Serve gets our policy, the head the card, if one is given, and the pool has room for the most
  replicas
- of a standalone endpoint only the autoscaler says how many there are, and its options are those of
  `halftone autoscale`
- its rights are those that `tests/api/test_autoscale.py` proves enough, on its own objects alone
- defaults are those of `halftone.spec.scaling`
- warm nodes are held by pods that give way and ask for what a replica asks for
"""

import json
import re
from typing import Any

import click
import pytest
import yaml
from pydantic import ValidationError

from halftone.cli.autoscale import autoscale
from halftone.scaling.acting.arguments import LONGEST_INTERVAL_S
from halftone.spec.scaling import Autoscaling
from tests.cluster.endpoint_chart import (
    CHART,
    Object,
    deployment_of,
    of_kind,
    policy_of,
    ray_service,
    render,
    standalone,
    templates,
)
from tests.cluster.endpoint_variants import AUTOSCALED, MONITORED, STANDALONE, VARIANTS
from tests.contract.test_chart_endpoint_refusals import refusal


@pytest.mark.parametrize(
    "options",
    [
        ("--set", "autoscaling.capacity.configMapName=card"),  # no Prometheus yet
        (*AUTOSCALED, "--set", "autoscaling.enabled=false"),
    ],
)
def test_without_prometheus_or_wish_the_number_is_fixed(options: tuple[str, ...]) -> None:
    fixed = render("team", "--set", "replicas=3")
    assert render("team", "--set", "replicas=3", *options) == fixed
    assert deployment_of(fixed)["num_replicas"] == 3
    alone = render("team", *STANDALONE, "--set", "replicas=3", *options)
    assert standalone(alone)["spec"]["replicas"] == 3
    assert len(of_kind(alone, "Deployment")) == 1


def test_ray_serve_decides_with_our_policy_and_the_card_on_its_head() -> None:
    objects = render("team", *VARIANTS["autoscaled"])
    found = deployment_of(objects)
    assert "num_replicas" not in found
    assert found["autoscaling_config"]["max_replicas"] == 12
    card = policy_of(objects)["card"]
    head = templates(ray_service(objects))["head"]["spec"]
    (mount,) = (one for one in head["containers"][0]["volumeMounts"] if one["name"] == "capacity")
    (volume,) = (one for one in head["volumes"] if one["name"] == "capacity")
    assert card == f"{mount['mountPath']}/{volume['configMap']['items'][0]['path']}"
    (group,) = ray_service(objects)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 0, 64)
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == 1


def test_another_value_of_the_policy_changes_its_file_and_nothing_else() -> None:
    before = render("team", *VARIANTS["autoscaled"])
    changes = ("thetaPercent=80", "leadSeconds=60", "scaleInWindowSeconds=60", "observeOnly=true")
    options = [part for one in changes for part in ("--set", f"autoscaling.{one}")]
    after = render("team", *VARIANTS["autoscaled"], *options)
    assert policy_of(after) != policy_of(before)
    assert policy_of(after)["settings"]["scale_in_window_s"] == 60

    def others(objects: list[Object]) -> list[Object]:
        return [one for one in objects if not one["metadata"]["name"].endswith("-autoscaling")]

    assert others(after) == others(before)
    # Bounds are Ray's own too; it replaces no replica for others, but makes the policy anew.
    wider = deployment_of(
        render("team", *VARIANTS["autoscaled"], "--set", "autoscaling.maxReplicas=13")
    )
    assert (
        wider["autoscaling_config"]["policy"]
        == deployment_of(before)["autoscaling_config"]["policy"]
    )


def test_to_turn_autoscaling_on_makes_no_other_cluster() -> None:
    clusters = [
        ray_service(render("team", *options))["spec"]["rayClusterConfig"]
        for options in ((), ("--set", "autoscaling.prometheusUrl=http://prometheus:9090"))
    ]
    assert clusters[0] == clusters[1]


def test_whoever_decides_has_the_token_of_prometheus_and_nobody_else() -> None:
    service = ray_service(render("team", *VARIANTS["autoscaled"]))
    pods = {name: one["spec"] for name, one in templates(service).items()}
    alone = render("team", *VARIANTS["standalone-autoscaled"])
    pods["alone"] = standalone(alone)["spec"]["template"]["spec"]
    pods["autoscaler"] = autoscaler(alone)["spec"]["template"]["spec"]
    having = {name for name, spec in pods.items() if "scraper" in json.dumps(spec)}
    assert having == {"head", "autoscaler"}
    for name in having:
        mounts = pods[name]["containers"][0]["volumeMounts"]
        assert "/etc/halftone/prometheus" in {one["mountPath"] for one in mounts}


def test_a_card_in_values_reaches_the_policy_as_it_is() -> None:
    card = {"kvBlocks": 16777217, "stepBaseSeconds": {"value": "0.0103"}}
    options = ("--set-json", f"autoscaling.capacity.card={json.dumps(card)}")
    url = ("--set", "autoscaling.prometheusUrl=http://prometheus:9090")
    assert policy_of(render("team", *url, *options))["card"] == card
    objects = render("team", *STANDALONE, *url, *options)
    (config,) = of_kind(objects, "ConfigMap")
    assert json.loads(config["data"]["card.json"]) == card


def test_without_a_card_whoever_decides_is_told_none() -> None:
    options = (*AUTOSCALED, "--set", "autoscaling.capacity.configMapName=")
    objects = render("team", *options)
    assert policy_of(objects)["card"] is None
    alone = autoscaler(render("team", *STANDALONE, *options))["spec"]["template"]["spec"]
    (container,) = alone["containers"]
    assert not [one for one in container["args"] if one.startswith("--card")]
    pods = [*(one["spec"] for one in templates(ray_service(objects)).values()), alone]
    assert not [one for pod in pods for one in pod["volumes"] if one["name"] == "capacity"]


def autoscaler(objects: list[Object]) -> Object:
    """The Deployment of the external one."""
    (found,) = (
        one
        for one in of_kind(objects, "Deployment")
        if one["metadata"]["name"].endswith("-autoscale")
    )
    return found


def test_a_standalone_endpoint_is_scaled_by_a_pod_of_its_own() -> None:
    objects = render("team", *VARIANTS["standalone-autoscaled"])
    # Helm would set it back at every upgrade.
    assert "replicas" not in standalone(objects)["spec"]
    (container,) = autoscaler(objects)["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "halftone", "autoscale"]
    with click.Context(autoscale) as context:
        parsed: dict[str, Any] = {}
        arguments = [
            re.sub("/etc/halftone/(capacity|prometheus)/[a-z.]+", str(CHART / "values.yaml"), one)
            for one in container["args"]
        ]
        autoscale.parse_args(context, arguments)
        parsed |= context.params
    assert parsed["deployment"] == "team/small"
    assert (parsed["least"], parsed["most"], parsed["theta"]) == (1, 8, 0.9)
    assert (parsed["model"], parsed["selector"]) == ("org/small", ("namespace=team",))
    assert (parsed["slo_ttft"], parsed["slo_prompt_rate"], parsed["slo_itl"]) == (2.5, 4000, 0.1)
    assert parsed["observe_only"]
    assert parsed["prometheus_token_file"] is not None
    assert parsed["prometheus"] == "https://prometheus.test/a"


def test_its_metrics_and_those_of_its_replicas_can_be_scraped() -> None:
    objects = render("team", *VARIANTS["standalone-autoscaled"])
    pods = {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]["containers"][0]
        for one in of_kind(objects, "Deployment")
    }
    for container in pods.values():
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert f"--metrics-port={ports['metrics']}" in container["args"]
    assert {one["metadata"]["name"] for one in of_kind(objects, "PodMonitor")} == {
        "small-replica",
        "small-autoscaler",
    }
    (policy,) = of_kind(objects, "NetworkPolicy")
    opened = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
    assert sorted(opened) == [8000, 8080]


def test_replicas_that_nobody_scales_can_be_scraped_too() -> None:
    objects = render("team", *STANDALONE, *MONITORED)
    (container,) = standalone(objects)["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert f"--metrics-port={ports['metrics']}" in container["args"]
    (monitor,) = of_kind(objects, "PodMonitor")
    assert monitor["metadata"]["name"] == "small-replica"
    assert [each["port"] for each in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]
    labels = standalone(objects)["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (policy,) = of_kind(objects, "NetworkPolicy")
    opened = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert ports["metrics"] in opened


def test_it_may_touch_its_own_objects_alone() -> None:
    objects = render("team", *STANDALONE, *AUTOSCALED)
    (role,) = of_kind(objects, "Role")
    named = {
        resource: rule.get("resourceNames")
        for rule in role["rules"]
        for resource in rule["resources"]
        if "create" not in rule["verbs"]
    }
    assert named == {
        "deployments": ["small"],
        "deployments/scale": ["small"],
        "leases": ["small-autoscale"],
        "horizontalpodautoscalers": None,
    }
    verbs = {verb for rule in role["rules"] for verb in rule["verbs"]}
    assert verbs == {"create", "get", "list", "update"}
    pod = autoscaler(objects)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    (binding,) = of_kind(objects, "RoleBinding")
    assert [one["name"] for one in binding["subjects"]] == [pod["serviceAccountName"]]


def test_defaults_are_those_of_the_specification() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["autoscaling"]
    known = Autoscaling.model_fields
    for name in (
        *("minReplicas", "maxReplicas", "thetaPercent", "leadSeconds", "intervalSeconds"),
        "scaleInWindowSeconds",
    ):
        assert values[name] == known[name].default, name
    assert values["observeOnly"] is known["observeOnly"].default
    assert values["objectives"] == known["objectives"].default.model_dump()
    # Options of the verb say the same where nobody gives them.
    options = {one.name: one.default for one in autoscale.params}
    assert (options["least"], options["most"]) == (values["minReplicas"], values["maxReplicas"])
    assert options["theta"] == values["thetaPercent"] / 100
    assert options["interval"] == values["intervalSeconds"]
    interval = json.loads((CHART / "values.schema.json").read_text())
    interval = interval["properties"]["autoscaling"]["properties"]["intervalSeconds"]
    assert interval["maximum"] == LONGEST_INTERVAL_S
    with pytest.raises(ValidationError):
        Autoscaling.model_validate(
            {"prometheusUrl": "http://p:9090", "intervalSeconds": int(LONGEST_INTERVAL_S) + 1}
        )


def test_warm_nodes_are_held_by_pods_that_give_way() -> None:
    objects = render("team", *VARIANTS["autoscaled"])
    (priority,) = of_kind(objects, "PriorityClass")
    assert priority["metadata"]["name"] == "small.team"
    # Below all pods that say nothing; the cluster autoscaler adds no node for less than -10.
    assert priority["value"] == -10
    (warm,) = of_kind(objects, "Deployment")
    place = warm["spec"]["template"]["spec"]
    replica = templates(ray_service(objects))["replica"]["spec"]
    assert warm["spec"]["replicas"] == 2
    assert place["priorityClassName"] == priority["metadata"]["name"]
    assert place["containers"][0]["resources"] == replica["containers"][0]["resources"]
    assert place["containers"][0]["image"] == replica["containers"][0]["image"]
    for field in ("affinity", "tolerations"):
        assert place[field] == replica[field]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("autoscaling.minReplicas=9", "`autoscaling.minReplicas`, 9, is more than"),
        ("autoscaling.minReplicas=0", "minimum: got 0, want 1"),
        ("autoscaling.thetaPercent=96", "maximum: got 96, want 95"),
        ("autoscaling.theta=0.8", "additional properties 'theta' not allowed"),
        ("autoscaling.prometheusUrl=prometheus:9090", "does not match pattern"),
        ("worker.maxPods=8", "8 replicas need 8 pods, and `strategy: Surge` needs 1 more"),
        ("podDisruptionBudget.enabled=true", "set `autoscaling.minReplicas: 2` or more"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(values: str, said: str) -> None:
    assert said in refusal(*AUTOSCALED, "--set", values)


def test_two_places_for_one_card_are_refused() -> None:
    both = ("--set-json", 'autoscaling.capacity.card={"kvBlocks":1}')
    assert "are both set; leave one of them out" in refusal(*AUTOSCALED, *both)
