"""The evaluator of NetworkPolicies, against what the API's description says of each field.

We test these aspects:
- a pod that no policy selects is open, one that some select takes what any of them lets in
- selectors of pods alone are of the policy's own namespace, those of namespaces of all that fit
- ports by number, range and name, and protocols
- address blocks and their exceptions, for what is no pod
- both ends must let a connection through
"""

from typing import Any

import pytest

from tests.network_policies import Outside, Pod, World, matches

A, B = Pod("one", {"app": "a"}), Pod("one", {"app": "b"}, {"http": 8000})
FAR = Pod("two", {"app": "a"})
SPACES = {"one": {}, "two": {"team": "sre"}}


def policy(namespace: str = "one", **spec: Any) -> dict[str, Any]:
    """A policy for pods `b` unless `spec` says otherwise."""
    usual = {"podSelector": {"matchLabels": {"app": "b"}}}
    return {"metadata": {"namespace": namespace}, "spec": {**usual, **spec}}


def lets(*rules: dict[str, Any]) -> World:
    """A world where pods `b` let in what these rules do."""
    return World([policy(ingress=list(rules))], SPACES)


def test_a_pod_that_nobody_selects_is_open() -> None:
    assert lets().allows(B, A, 1)
    assert World([], SPACES).allows(Outside("192.0.2.1"), A, 1)
    assert World([policy("two", ingress=[])], SPACES).allows(A, B, 1)


def test_one_that_is_selected_takes_what_any_policy_lets_in() -> None:
    assert not lets().allows(A, B, 80)
    assert lets({}).allows(Outside("192.0.2.1"), B, 80)
    some = [policy(ingress=[{"ports": [{"port": n}]}]) for n in (80, 81)]
    world = World(some, SPACES)
    assert [world.allows(A, B, n) for n in (80, 81, 82)] == [True, True, False]


@pytest.mark.parametrize(
    ("peer", "near", "far"),
    [
        ({"podSelector": {"matchLabels": {"app": "a"}}}, True, False),
        ({"podSelector": {}}, True, False),
        ({"namespaceSelector": {}}, True, True),
        ({"namespaceSelector": {"matchLabels": {"team": "sre"}}}, False, True),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "two"}},
          "podSelector": {"matchLabels": {"app": "z"}}}, False, False),
        ({"ipBlock": {"cidr": "0.0.0.0/0"}}, False, False),
    ],
)  # fmt: skip
def test_peers_are_chosen_by_pod_and_namespace(peer: Any, near: bool, far: bool) -> None:
    world = lets({"from": [peer]})
    assert (world.allows(A, B, 80), world.allows(FAR, B, 80)) == (near, far)


@pytest.mark.parametrize(
    ("port", "allowed"),
    [
        ({"port": 8000}, True),
        ({"port": "http"}, True),
        ({"port": "other"}, False),
        ({"port": 7000, "endPort": 8000}, True),
        ({"port": 7000, "endPort": 7999}, False),
        ({"port": 8000, "protocol": "UDP"}, False),
        ({}, True),
    ],
)
def test_ports_are_numbers_ranges_and_names(port: Any, allowed: bool) -> None:
    assert lets({"ports": [port]}).allows(A, B, 8000) is allowed


def test_address_blocks_are_for_what_is_no_pod() -> None:
    block = {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}
    world = lets({"from": [{"ipBlock": block}]})
    found = [world.allows(Outside(one), B, 80) for one in ("10.2.3.4", "10.1.2.3", "192.0.2.1")]
    assert found == [True, False, False]


def test_both_ends_must_let_it_through() -> None:
    out = policy(podSelector={"matchLabels": {"app": "a"}}, policyTypes=["Egress"])
    world = World([out], SPACES)
    assert not world.allows(A, B, 80)
    assert world.allows(B, A, 80)
    out["spec"]["egress"] = [{"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}]
    assert world.allows(A, B, 8000)
    assert not world.allows(A, B, 8001)
    assert not world.allows(A, Outside("192.0.2.1"), 8000)


def test_expressions_of_selectors() -> None:
    def holds(operator: str, **labels: str) -> bool:
        row = {"key": "k", "operator": operator, "values": ["x"]}
        return matches({"matchExpressions": [row]}, labels)

    assert [holds("In", k="x"), holds("In", k="y"), holds("In")] == [True, False, False]
    assert [holds("NotIn", k="x"), holds("NotIn", k="y"), holds("NotIn")] == [False, True, True]
    assert [holds("Exists", k="y"), holds("Exists")] == [True, False]
    assert [holds("DoesNotExist", k="y"), holds("DoesNotExist")] == [False, True]
    with pytest.raises(ValueError, match="no operator of a selector"):
        holds("Like")
