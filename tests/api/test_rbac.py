"""The chart's rights on a real API server: what is asked for, what is granted, what a lack does.

We test these aspects:
- whole lives (with a made claim, a foreign name, a refusal by quota, suspension, a retry, time to
  live and deletion) ask for every right that the chart grants, and are refused nothing
- only pods' logs are granted without being seen here: they need a kubelet, which the node tier has,
  and to be without them is no fault that is told, for progress is a courtesy
- in the same lives, with one verb less, the log or a job says which: two verbs in CI, each verb of
  the chart's rules but that one in the soak tier
"""

import copy
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from halftone.spec.cluster import ChildStage
from tests.api.world import World, ends, refused, stops, world
from tests.cluster.answers import all_well
from tests.cluster.chart import render
from tests.cluster.client import Client, children_path, jobs_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import KubeletStandIn
from tests.cluster.operator_process import OperatorProcess

# (group, resource, verb)
Right = tuple[str, str, str]
# Progress is read from logs, which need a kubelet: the node tier shows that this is asked for.
_NODE_TIER: frozenset[Right] = frozenset({("", "pods/log", "get")})
# Control planes bear many operators, two cores do not.
_AT_ONCE = 4


@pytest.fixture(scope="module")
def lives(
    cluster: ControlPlane, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """An operator that has carried out whole lives, with all that can happen in them."""
    with world(cluster, client, "rbac", tmp_path_factory.mktemp("rbac")) as here:
        _live(here)
        here.operator.stop()  # a watch is audited when it ends
        here.operator.start()
        here.operator.wait_ready()
        yield here


def _live(here: World) -> None:
    """Everything that makes an operator ask for something."""
    client = here.client
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


def test_rights_asked_for_are_those_granted(lives: World) -> None:
    granted = _granted(lives.namespace)
    # What has no resource, such as the server's version, everybody may ask for.
    asked = {_asked(row) for row in lives.audited() if (row.get("objectRef") or {}).get("resource")}
    assert asked - granted == set()
    assert granted - asked <= _NODE_TIER


def test_nothing_was_refused(lives: World) -> None:
    refused_ones = [row for row in lives.audited() if row["responseStatus"]["code"] == 403]
    # A quota and a namespace that ends refuse, too; they say so, and it is not for want of rights.
    assert [row for row in refused_ones if "RBAC" in json.dumps(row)] == []


_IN_CI: list[Right] = [
    ("batch", "jobs", "create"),
    ("halftone.dev", "quantizationjobs/status", "patch"),
]


@pytest.mark.parametrize("right", _IN_CI, ids=" ".join)
def test_a_lack_is_told(cluster: ControlPlane, tmp_path: Path, right: Right) -> None:
    assert right in _granted("any")
    assert _lives_without(cluster, tmp_path, right, "one") == "told"


@pytest.mark.soak
def test_every_lack_is_told(cluster: ControlPlane, tmp_path: Path) -> None:
    rights = sorted(_granted("any") - _NODE_TIER)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda right: _lives_without(cluster, tmp_path, right, "each"), rights)
        outcomes = dict(zip(rights, found, strict=True))
    print(f"{list(outcomes.values()).count('told')} of {len(rights)} lacks were told")
    assert {right: what for right, what in outcomes.items() if what != "told"} == {}


class _Told(Exception):
    """The operator has said what it may not do."""


class _Attentive(Client):
    """A client that waits for nothing any more once `is_told`."""

    def __init__(self, cluster: ControlPlane) -> None:
        super().__init__(cluster)
        self.is_told: Callable[[], bool] = lambda: False

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 120) -> None:
        """As every client does; raises _Told."""

        def holds() -> bool:
            if self.is_told():
                raise _Told
            return condition()

        super().wait(what, holds, seconds)


def _lives_without(cluster: ControlPlane, folder: Path, right: Right, prefix: str) -> str:
    """What comes of whole lives without `right`: `told`, or how they went instead."""
    name = "-".join([prefix, *right]).replace(".", "-").replace("/", "-")
    with _Attentive(cluster) as client:
        here = World(cluster, client, client.namespace(name))
        here.operator = OperatorProcess(cluster, name, folder / name)
        _take_away(cluster, name, right)
        client.is_told = lambda: _is_told(here, right)
        with KubeletStandIn(cluster, here.answer, namespace=name) as stand_in:
            here.operator.start()
            try:
                _live(here)
                client.wait("a word about it", lambda: False, 30)
            except _Told:
                return "told" if not stand_in.errors else str(stand_in.errors)
            except TimeoutError as error:
                return f"{error}; it says:\n{here.operator.tail()}"
            finally:
                here.operator.kill()
    raise AssertionError("the last wait does not come back")


def _is_told(here: World, right: Right) -> bool:
    """Whether the log or a job says in the server's words that `right` is missing."""
    words = f'cannot {right[2]} resource "{right[1]}"'
    if words in here.operator.log.read_text(errors="replace"):
        return True
    jobs = here.client.items(jobs_path(here.namespace))
    rows = [row for job in jobs for row in job.get("status", {}).get("conditions", [])]
    return any(words in row["message"] for row in rows)


def _granted(namespace: str) -> set[Right]:
    return {right for _, rule in _rules(namespace) for right in _rights(rule)}


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
