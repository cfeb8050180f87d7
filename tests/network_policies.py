"""Whether NetworkPolicies let a connection through: a pure evaluator, after the API's description.

    world = World(policies, {"models": {}, "monitoring": {"team": "sre"}})
    world.allows(Pod("monitoring", {"app": "prometheus"}), Pod("models", labels), 8080)

Called by contract tests of charts, because the network of our own test cluster enforces none. A pod
that no policy selects is open; one that some select takes what any of them lets in. It knows
selectors, address blocks, and ports by number, range and name.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Labels = Mapping[str, str]
Object = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    """One end of a connection; `ports` are the container's own by name."""

    namespace: str
    labels: Labels
    ports: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Outside:
    """An address that is no pod's."""

    address: str


Peer = Pod | Outside


class World:
    """Policies of all namespaces, whose labels are given by their names."""

    def __init__(self, policies: Iterable[Object], namespaces: Mapping[str, Labels]) -> None:
        self._policies = list(policies)
        self._namespaces = {
            name: {"kubernetes.io/metadata.name": name, **labels}
            for name, labels in namespaces.items()
        }

    def allows(self, source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
        """Whether both ends let it through."""
        return self._one_way("Ingress", target, source, target, port, protocol) and self._one_way(
            "Egress", source, target, target, port, protocol
        )

    def _one_way(
        self, way: str, own: Peer, other: Peer, target: Peer, port: int, protocol: str
    ) -> bool:
        """What the policies of `own` say of a connection with `other`, to a port of `target`."""
        if isinstance(own, Outside):
            return True
        mine = [one for one in self._policies if self._selects(one, own, way)]
        rules = [rule for one in mine for rule in one["spec"].get(way.lower()) or ()]
        peers = "from" if way == "Ingress" else "to"
        return not mine or any(
            self._is_peer(rule.get(peers), other, own.namespace)
            and _is_port(rule.get("ports"), target, port, protocol)
            for rule in rules
        )

    def _selects(self, policy: Object, pod: Pod, way: str) -> bool:
        spec = policy["spec"]
        usual = ["Ingress", *(["Egress"] if spec.get("egress") else [])]
        return (
            policy["metadata"].get("namespace") == pod.namespace
            and way in spec.get("policyTypes", usual)
            and matches(spec.get("podSelector") or {}, pod.labels)
        )

    def _is_peer(self, peers: Sequence[Object] | None, other: Peer, namespace: str) -> bool:
        if not peers:
            return True  # none are named: everybody
        return any(self._is_one(peer, other, namespace) for peer in peers)

    def _is_one(self, peer: Object, other: Peer, namespace: str) -> bool:
        block = peer.get("ipBlock")
        if isinstance(other, Outside):
            return block is not None and _is_within(block, other.address)
        if block is not None:
            return False
        spaces = peer.get("namespaceSelector")
        there = self._namespaces[other.namespace]
        is_there = other.namespace == namespace if spaces is None else matches(spaces, there)
        return is_there and matches(peer.get("podSelector") or {}, other.labels)


def matches(selector: Object, labels: Labels) -> bool:
    """Whether a label selector fits; an empty one fits everything."""
    wanted = selector.get("matchLabels") or {}
    rows = selector.get("matchExpressions") or ()
    return wanted.items() <= labels.items() and all(_holds(row, labels) for row in rows)


def _holds(row: Object, labels: Labels) -> bool:
    value, values = labels.get(row["key"]), row.get("values") or ()
    match row["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise ValueError(f"`{row['operator']}` is no operator of a selector")


def _is_port(ports: Sequence[Object] | None, target: Peer, port: int, protocol: str) -> bool:
    if not ports:
        return True  # none are named: all
    return any(
        one.get("protocol", "TCP") == protocol and _is_number(one, target, port) for one in ports
    )


def _is_number(one: Object, target: Peer, port: int) -> bool:
    first = one.get("port")
    if first is None:
        return True
    if isinstance(first, str):
        return isinstance(target, Pod) and target.ports.get(first) == port
    return bool(first <= port <= one.get("endPort", first))


def _is_within(block: Object, address: str) -> bool:
    found = ip_address(address)
    return found in ip_network(block["cidr"]) and not any(
        found in ip_network(one) for one in block.get("except") or ()
    )
