"""Who may talk to whom, by the NetworkPolicies that charts render.

We test these aspects:
- of endpoints, on Ray and standalone: a table of connections that are let through and of those that
  are not, where the values name clients, monitoring and operators, and where they name nobody
- of the operator and of the doctor: who may scrape it, and where it may go
No network is at hand that enforces policies; `tests/network_policies.py` reads them as the API's
description says.
"""

from collections.abc import Iterable
from typing import Final

import pytest

from tests.cluster.chart import render as render_operator
from tests.cluster.endpoint_chart import Object, of_kind, ray_service, render, templates
from tests.cluster.endpoint_variants import AUTOSCALED, MONITORED, STANDALONE
from tests.cluster.monitoring_chart import DOCTOR, pod_specs
from tests.cluster.monitoring_chart import render as render_monitoring
from tests.network_policies import Outside, Peer, Pod, World

MODELS, OTHER, RAY, SRE = "models", "other", "kuberay", "monitoring"
SPACES: Final = {MODELS: {}, OTHER: {}, RAY: {}, SRE: {"a": "b"}, "halftone": {}}
CLIENT = Pod(MODELS, {"asks": "yes"})
STRANGER = Pod(OTHER, {"app": "anything"})
NEIGHBOUR = Pod(MODELS, {"app": "anything"})
PROMETHEUS = Pod(SRE, {"app": "prometheus"})
KUBERAY = Pod(RAY, {"app.kubernetes.io/component": "kuberay-operator"})
INTERNET = Outside("192.0.2.7")
API, DASHBOARD, REDIS, SERVE, RAYLET = 8000, 8265, 6379, 9000, 10001
METRICS = (8080, 44217, 44227)
NAMES = Pod(OTHER, {"k8s-app": "kube-dns"})
# What the charts of operator and doctor are told of who scrapes.
SCRAPERS = (
    *("--set", "networkPolicy.enabled=true"),
    *("--set-json", 'networkPolicy.from=[{"namespaceSelector":{"matchLabels":{"a":"b"}}}]'),
)


def pods(objects: Iterable[Object]) -> dict[str, Pod]:
    """The pods of a release by component, with the labels that the chart gives them."""
    listed = list(objects)
    metadata = [one["metadata"] for one in of_kind(listed, "Pod")]
    metadata += [one["spec"]["template"]["metadata"] for one in of_kind(listed, "Deployment")]
    if of_kind(listed, "RayService"):
        metadata += [one["metadata"] for one in templates(ray_service(listed)).values()]
    return {
        one["labels"]["app.kubernetes.io/component"]: Pod(MODELS, one["labels"]) for one in metadata
    }


def world(objects: Iterable[Object]) -> World:
    """What the policies of a release make of all namespaces."""
    return World(of_kind(list(objects), "NetworkPolicy"), SPACES)


def let_through(there: World, ends: Iterable[tuple[Peer, Peer, int]]) -> list[bool]:
    return [there.allows(source, target, port) for source, target, port in ends]


def test_of_an_endpoint_on_ray_only_those_get_in_that_are_named() -> None:
    objects = render(MODELS, *MONITORED)
    there, found = world(objects), pods(objects)
    head, replica, test = found["head"], found["replica"], found["test"]
    allowed: list[tuple[Peer, Peer, int]] = [
        (CLIENT, replica, API),
        (test, replica, API),
        (KUBERAY, head, DASHBOARD),
        (KUBERAY, head, API),
        *((PROMETHEUS, head, port) for port in METRICS),
        (PROMETHEUS, replica, 8080),
        (PROMETHEUS, replica, 9101),
        *((one, other, port) for one, other in ((head, replica), (replica, head),
          (replica, replica)) for port in (REDIS, RAYLET, SERVE)),
        # Nothing of ours says where they may go: artifacts lie anywhere.
        (replica, INTERNET, 443),
        (head, INTERNET, 443),
    ]  # fmt: skip
    denied: list[tuple[Peer, Peer, int]] = [
        *((who, replica, API) for who in (STRANGER, NEIGHBOUR, PROMETHEUS, KUBERAY, INTERNET)),
        *((who, head, DASHBOARD) for who in (CLIENT, STRANGER, PROMETHEUS, INTERNET, test)),
        *((who, head, REDIS) for who in (CLIENT, STRANGER, NEIGHBOUR, PROMETHEUS, KUBERAY)),
        *((who, head, port) for who in (CLIENT, STRANGER, INTERNET) for port in METRICS),
        *((CLIENT, replica, port) for port in (8080, 9101, SERVE, RAYLET, DASHBOARD)),
    ]
    assert all(let_through(there, allowed)), allowed[let_through(there, allowed).index(False)]
    assert not any(let_through(there, denied)), denied[let_through(there, denied).index(True)]


def test_where_the_values_name_nobody_the_port_of_the_api_alone_is_open() -> None:
    objects = render(MODELS)
    there, found = world(objects), pods(objects)
    for who in (CLIENT, STRANGER, INTERNET, PROMETHEUS):
        assert there.allows(who, found["replica"], API)
        ports = (DASHBOARD, REDIS, SERVE, RAYLET, 9101, *METRICS)
        assert not any(there.allows(who, found["replica"], port) for port in ports)
        assert not any(there.allows(who, found["head"], port) for port in (API, *ports))


def test_another_release_gets_in_as_little_as_a_stranger() -> None:
    objects, others = render(MODELS, *MONITORED), render(MODELS, *MONITORED, release="other")
    there, found, strange = world(objects), pods(objects), pods(others)
    for who in strange.values():
        assert not there.allows(who, found["head"], REDIS)
        assert not there.allows(who, found["replica"], API)


@pytest.mark.parametrize("monitored", [True, False])
def test_of_a_standalone_endpoint(monitored: bool) -> None:
    options = (*MONITORED, *STANDALONE, *AUTOSCALED) if monitored else STANDALONE
    objects = render(MODELS, *options)
    there, found = world(objects), pods(objects)
    replica = found["replica"]
    assert there.allows(CLIENT, replica, API)
    assert there.allows(STRANGER, replica, API) is not monitored
    assert there.allows(PROMETHEUS, replica, 8080) is monitored
    assert there.allows(PROMETHEUS, replica, API) is not monitored
    for who in (CLIENT, STRANGER, NEIGHBOUR, INTERNET):
        assert not any(there.allows(who, replica, port) for port in (8080, REDIS, DASHBOARD, SERVE))


def test_the_operator_is_scraped_and_asks_the_api_server_alone() -> None:
    objects = render_operator("halftone", *SCRAPERS)
    (template,) = (one["spec"]["template"] for one in of_kind(objects, "Deployment"))
    (port,) = (one["containerPort"] for one in template["spec"]["containers"][0]["ports"])
    operator = Pod("halftone", template["metadata"]["labels"], {"http": port})
    there = World(of_kind(objects, "NetworkPolicy"), SPACES)
    assert there.allows(PROMETHEUS, operator, port)
    assert not there.allows(PROMETHEUS, operator, port + 1)
    assert not any(there.allows(who, operator, port) for who in (CLIENT, STRANGER, INTERNET))
    assert there.allows(operator, INTERNET, 443)
    assert there.allows(operator, NAMES, 53, "UDP")
    assert not any(there.allows(operator, INTERNET, one) for one in (22, 80, 8080, 9000))


def test_the_doctor_is_scraped_and_asks_prometheus_alone() -> None:
    objects = render_monitoring(MODELS, *DOCTOR, *SCRAPERS)
    pods = pod_specs(objects)
    ((port,),) = (one["ports"] for one in pods["doctor"]["spec"]["containers"])
    named = {port["name"]: port["containerPort"]}
    doctor = Pod(MODELS, pods["doctor"]["metadata"]["labels"], named)
    there = world(objects)
    assert there.allows(PROMETHEUS, doctor, 9464)
    assert not there.allows(PROMETHEUS, doctor, 9465)
    others = (CLIENT, STRANGER, NEIGHBOUR, KUBERAY, INTERNET)
    assert not any(there.allows(who, doctor, 9464) for who in others)
    assert there.allows(doctor, PROMETHEUS, 9090)
    assert there.allows(doctor, NAMES, 53, "UDP")
    assert not any(there.allows(doctor, who, 443) for who in (INTERNET, PROMETHEUS, STRANGER))
    # The one that looks once, for `helm test`, is a pod of another component: nothing bounds it.
    once = Pod(MODELS, pods["test"]["metadata"]["labels"])
    assert there.allows(once, PROMETHEUS, 9090)
    assert not there.allows(once, doctor, 9464)
