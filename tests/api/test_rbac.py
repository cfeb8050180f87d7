"""The chart's rights on a real API server: what is asked for, what is granted, what a lack does.

We test these aspects:
- a whole life (with a made claim, a foreign name, a refusal by quota, suspension, a retry, time to
  live and deletion) asks for every right that the chart grants, and is refused nothing
- only what needs a kubelet is granted without being seen here: pods' logs
- with one verb less a life does not end, or the operator says what it may not do: two verbs in CI,
  each of them in the soak tier
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from halftone.spec.cluster import ChildStage
from tests.api.world import World, ends, refused, stops, world
from tests.cluster.answers import all_well
from tests.cluster.chart import render
from tests.cluster.client import Client, children_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator_process import OperatorProcess

# (group, resource, verb)
Right = tuple[str, str, str]
# Progress is read from logs, which need a kubelet: the node tier shows that this is asked for.
_NODE_TIER: frozenset[Right] = frozenset({("", "pods/log", "get")})


@pytest.fixture(scope="module")
def lives(
    cluster: ControlPlane, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """An operator that has carried out whole lives, with all that can happen in them."""
    with world(cluster, client, "rbac", tmp_path_factory.mktemp("rbac")) as here:
        quota = f"/api/v1/namespaces/{here.namespace}/resourcequotas"
        client.create(quota, {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}})
        client.wait("the quota", lambda: "used" in client.get(f"{quota}/q")["status"])
        here.apply("squeezed")
        here.wait_for("squeezed", "Accepted", "Unknown", "PodsRefused")
        client.delete(f"{quota}/q")
        here.delete("squeezed")
        claim = {"storageClassName": "none", "size": "1Gi"}
        bad = refused(ChildStage.Validate, "GateFailed", "Gate `quality` failed.", 1)
        here.apply("whole", ends(ChildStage.Validate, bad), workVolume=claim)
        _take_name(here, "taken-plan-1")
        here.apply("taken")
        here.wait_for("taken", "Accepted", "Unknown", "NameTaken")
        here.wait_for("whole", "Validated", "False", "GateFailed")
        here.answers["whole"] = stops(ChildStage.Publish)
        here.retry("whole", "again")
        here.wait_child("whole-publish-1")
        here.change("whole", suspend=True)
        client.wait("no publisher", lambda: "whole-publish-1" not in here.children("whole"))
        here.answers["whole"] = all_well
        here.change("whole", suspend=False, ttlSecondsAfterFinished=1)
        here.wait_gone("whole")
        here.operator.stop()  # a watch is audited when it ends
        here.operator.start()
        here.operator.wait_ready()
        yield here


def test_rights_asked_for_are_those_granted(lives: World) -> None:
    granted = {right for _, rule in _rules(lives.namespace) for right in _rights(rule)}
    # What has no resource, such as the server's version, everybody may ask for.
    asked = {_asked(row) for row in lives.audited() if (row.get("objectRef") or {}).get("resource")}
    assert asked - granted == set()
    assert granted - asked <= _NODE_TIER


def test_nothing_was_refused(lives: World) -> None:
    refused_ones = [row for row in lives.audited() if row["responseStatus"]["code"] == 403]
    # A quota and a namespace that ends refuse, too; they say so, and it is not for want of rights.
    assert [row for row in refused_ones if "RBAC" in json.dumps(row)] == []


_NEEDED = [
    pytest.param(("batch", "jobs", "create"), id="create jobs"),
    pytest.param(("halftone.dev", "quantizationjobs/status", "patch"), id="patch status"),
]
_ALL = [
    *(("halftone.dev", "quantizationjobs", verb) for verb in ("list", "watch", "patch")),
    *(("batch", "jobs", verb) for verb in ("list", "watch", "delete")),
    *(("", "pods", verb) for verb in ("list", "watch")),
    ("events.k8s.io", "events", "create"),
    *(("coordination.k8s.io", "leases", verb) for verb in ("create", "get", "update")),
]


@pytest.mark.parametrize(
    "right", [*_NEEDED, *(pytest.param(r, marks=pytest.mark.soak, id=" ".join(r)) for r in _ALL)]
)
def test_with_a_verb_less_it_fails_and_says_so(
    cluster: ControlPlane, client: Client, tmp_path: Path, right: Right
) -> None:
    name = "-".join(["less", *right]).replace(".", "-").replace("/", "-").strip("-")[:60]
    here = World(cluster, client, client.namespace(name))
    here.operator = OperatorProcess(cluster, name, tmp_path)
    _take_away(cluster, name, right)
    here.operator.start()
    try:
        here.apply("poor")
        client.wait("a word about it", lambda: _is_told(here, "poor"))
        assert (here.find("poor") or {}).get("status", {}).get("artifact") is None
    except TimeoutError as error:
        raise AssertionError(f"{error}; it says:\n{here.operator.tail()}") from error
    finally:
        here.operator.kill()


def _is_told(here: World, name: str) -> bool:
    """Whether the log or the job says that something is forbidden."""
    status = json.dumps((here.find(name) or {}).get("status", {}))
    return "forbidden" in (here.operator.tail() + status).lower()


def _rules(namespace: str) -> list[tuple[str, dict[str, Any]]]:
    """The rules of the operator's own Roles: (name of the Role, rule)."""
    objects = render(namespace, "--set", "crds.enabled=false", "--set", "aggregateRoles=false")
    roles = [one for one in objects if one["kind"] in ("Role", "ClusterRole")]
    return [
        (role["metadata"]["name"], rule)
        for role in roles
        if role["metadata"]["name"] in ("halftone", "halftone-lease")
        for rule in role["rules"]
    ]


def _rights(rule: dict[str, Any]) -> Iterator[Right]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                yield group, resource, verb


def _asked(row: dict[str, Any]) -> Right:
    about = row.get("objectRef") or {}
    resource, part = about.get("resource", ""), about.get("subresource")
    return about.get("apiGroup", ""), f"{resource}/{part}" if part else resource, row["verb"]


def _take_away(cluster: ControlPlane, namespace: str, right: Right) -> None:
    """Write the operator's Roles anew, without one verb."""
    for name in ("halftone", "halftone-lease"):
        rules = [copy.deepcopy(rule) for role, rule in _rules(namespace) if role == name]
        for rule in rules:
            if right[0] in rule["apiGroups"] and right[1] in rule["resources"]:
                rule["verbs"] = [verb for verb in rule["verbs"] if verb != right[2]]
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": name, "namespace": namespace},
            "rules": [rule for rule in rules if rule["verbs"]],
        }
        cluster.kubectl("replace", "-f", "-", text=yaml.safe_dump(role))


def _take_name(here: World, name: str) -> None:
    """A Job of somebody else."""
    pod = {"restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}
    body = {"metadata": {"name": name}, "spec": {"suspend": True, "template": {"spec": pod}}}
    here.client.create(children_path(here.namespace), body)
