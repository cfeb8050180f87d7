"""A job's life on a real API server while requests, connections and the operator itself go wrong.

We test these aspects:
- a write of a job's life is cut, before the server hears of it or before the operator hears of the
  server, and the operator lives or is killed at it: a few seeded points in CI, all in the soak tier
- those are all writes that each life has; others (that a pod waits) come as the scheduler is slow
- 409, 410, 429 with Retry-After, 500 and 503 answers to writes and to the deletion of a child,
  closed and expired watches, slow answers
- two operators act at once, without an election
- what was deleted while nobody could watch is made again once the watch has expired

Afterwards the state is that of an undisturbed life, and no stage was begun twice: Jobs are counted
in the audit log, pods as the stand-in saw them. A life goes from creation to the object's end. No
test passes whose faults did not all happen.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from halftone.spec.cluster import STAGE_LABEL, ChildStage
from tests.api.troubles import ENDED, BehindProxy, Point, begin_lives, is_of, kept_alive
from tests.api.world import World, stops
from tests.cluster.answers import all_well
from tests.cluster.client import Client, children_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import KubeletStandIn
from tests.cluster.operator_process import OperatorProcess
from tests.doubles.api_proxy import ApiProxy, Moment, Seen

_SEED = 20261122
_STAGES = ("clean-up", "plan", "publish", "quantize", "target", "validate")
# What a write says, and which of several that say it. Every life has these.
_WRITES = [
    ("finalizers 1", 1),
    *((f"Job {stage}", 1) for stage in _STAGES),
    *((f"status {word}ing", 1) for word in ("Plann", "Quantiz", "Validat", "Publish")),
    ("status Published", 1),
    *((f"event {word}", 1) for word in ("JobAccepted", "CheckpointWritten", "GatesPassed")),
    *(("event ArtifactPublished", number) for number in (1, 2)),
    ("event UploadsRemoved", 1),
    ("finalizers 0", 1),
]
_POINTS = [(*write, moment) for write in _WRITES for moment in Moment]
_MAY_BE = {"status Unschedulable", "event StageWaiting"}


class Troubled(BehindProxy, World):
    """A world whose operator is behind a proxy, and is started again when it was killed."""

    def require_undisturbed(self, *names: str, twice: str = "") -> None:
        """Every job came to the state of an undisturbed life; then it goes, and left nothing.

        The stage `twice` was stopped once, and so begun a second time.
        """
        expected = Counter(_STAGES) + Counter([twice] if twice else [])
        for name in names:
            self.wait_for(name, "Succeeded", "True")
        for name in names:
            found = self.find(name) or {}
            rows = [(r["type"], r["status"], r["reason"]) for r in found["status"]["conditions"]]
            assert rows == ENDED, name
            assert self.children(name) == [f"{name}-{s}-1" for s in _STAGES if s != "clean-up"]
            self.delete(name)
        for name in names:
            self.wait_gone(name)
            made = Counter(self.children_made(name))
            assert made == {f"{name}-{stage}-1": times for stage, times in expected.items()}, name
            pods = Counter(stage for job, stage in self.pods_seen.values() if job == name)
            assert pods == expected, name


@contextmanager
def troubled(
    cluster: ControlPlane, client: Client, namespace: str, folder: Path, lease: bool = False
) -> Iterator[Troubled]:
    """A running one; whatever ends the operator, it is started anew, as a kubelet does."""
    found = Troubled(cluster, client, client.namespace(namespace))
    with ApiProxy(cluster.url, cluster.authority.folder) as found.proxy:
        found.operator = OperatorProcess(
            cluster, namespace, folder / "operator", server=found.proxy.url, lease=lease
        )

        with (
            found.operator,
            KubeletStandIn(cluster, found.answer, namespace=namespace) as stand_in,
            kept_alive(found.operator),
        ):
            yield found
    assert not stand_in.errors


@pytest.fixture(scope="module")
def here(
    cluster: ControlPlane, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Troubled]:
    """One operator for the whole module."""
    folder = tmp_path_factory.mktemp("chaos")
    with troubled(cluster, client, "chaos", folder) as found:
        yield found


@pytest.fixture(autouse=True)
def _all_faults_happen(here: Troubled) -> Iterator[None]:
    """In every test, and none is left to the next."""
    yield
    here.proxy.recover()


def test_a_calm_life_has_these_writes(here: Troubled) -> None:
    here.apply("calm")
    here.require_undisturbed("calm")
    told = Counter(_what(seen) for seen in here.proxy.seen if is_of("calm", seen))
    needed = dict(_WRITES)
    assert set(told) - _MAY_BE == set(needed)
    assert all(told[what] >= number for what, number in needed.items())


def test_a_write_is_cut(here: Troubled) -> None:
    _cut_at(here, random.Random(_SEED).sample(_POINTS, 4), "seeded-cut")


def test_a_kill_around_a_write(here: Troubled) -> None:
    _kill_at(here, random.Random(_SEED).sample(_POINTS, 3), "seeded-kill")


@pytest.mark.soak
def test_every_write_is_cut_once(here: Troubled) -> None:
    _cut_at(here, _POINTS, "cut")


@pytest.mark.soak
def test_a_kill_around_every_write(here: Troubled) -> None:
    killed = sum(_kill_at(here, [point], "kill") for point in _POINTS)
    print(f"{killed} kills of {len(_POINTS)}; all lives ended as they should")


def _cut_at(here: Troubled, points: list[Point], prefix: str) -> None:
    _live_through(here, points, prefix, lambda: None)
    cuts = here.proxy.recover()
    print(f"{cuts} cuts of {len(points)}; all lives ended as they should")
    assert cuts == len(points)


def _kill_at(here: Troubled, points: list[Point], prefix: str) -> int:
    before = here.kills
    _live_through(here, points, prefix, here.kill)
    assert here.proxy.recover() == here.kills - before == len(points)
    return here.kills - before


def _live_through(
    here: Troubled, points: list[Point], prefix: str, then: Callable[[], None]
) -> None:
    """A life for each point."""
    names = begin_lives(here.proxy, here.apply, points, _WRITES, prefix, then, _says)
    here.require_undisturbed(*names)


def _says(_name: str, what: str, seen: Seen) -> bool:
    return _what(seen) == what


def _what(seen: Seen) -> str:
    """What a write is about, without the name of its job."""
    body = json.loads(seen.body)
    if "/events?" in seen.path:
        return f"event {body['reason']}"
    if "/status?" in seen.path:
        reasons = {row["type"]: row["reason"] for row in body["status"]["conditions"]}
        return f"status {reasons['Succeeded']}"
    if seen.method == "POST":
        return f"{body['kind']} {body['metadata']['labels'][STAGE_LABEL]}"
    if "finalizers" in body.get("metadata", {}):
        return f"finalizers {len(body['metadata']['finalizers'])}"
    return str(seen)


def test_bad_answers_are_outlived(here: Troubled) -> None:
    names = ["conflict", "expired", "busy", "broken", "absent"]
    for name, status in zip(names, (409, 410, 429, 500, 503), strict=True):
        after = 1 if status == 429 else None
        for what in (rf"PATCH .*/{name}\?", f"PATCH .*/{name}/status"):
            here.proxy.fail(what, status, 2, retry_after=after)
        here.proxy.fail(f"DELETE .*/{name}-", status, 2, retry_after=after)
    here.proxy.fail(r"POST .*/jobs\?", 500, 2)
    here.proxy.fail(r"POST .*/jobs\?", 429, 2, retry_after=1)
    here.proxy.fail(r"POST .*/events\?", 503, 2)
    here.proxy.slow(r"PATCH .*/busy/status", 0.5)
    for name in names:
        here.apply(name, stops(ChildStage.Quantize))
    for name in names:
        here.wait_pod(f"{name}-quantize-1")
        here.change(name, suspend=True)
    for name in names:
        here.wait_for(name, "Succeeded", "Unknown", "Suspended")
        here.wait_no_child(name, f"{name}-quantize-1")
        here.answers[name] = all_well
        here.change(name, suspend=False)
    here.require_undisturbed(*names, twice="quantize")


def test_watches_may_end_and_expire_at_any_time(here: Troubled) -> None:
    names = [f"unwatched-{number}" for number in range(4)]
    for name in names:
        here.apply(name)
        here.proxy.end_watches(gone=name.endswith(("1", "3")))
    here.proxy.fail("GET .*watch=1", 410, 3)
    here.proxy.fail("GET .*watch=1", 429, 2, retry_after=1)
    here.proxy.end_watches()
    here.require_undisturbed(*names)


def test_what_was_deleted_unseen_is_made_again(here: Troubled) -> None:
    here.apply("unseen", stops(ChildStage.Quantize))
    uid = here.wait_child("unseen-quantize-1")["metadata"]["uid"]
    here.proxy.freeze_watches()
    path = f"{children_path(here.namespace)}/unseen-quantize-1"
    here.client.delete(path)
    here.client.wait("its end", lambda: here.client.find(path) is None)
    here.proxy.recover()
    here.proxy.fail("GET .*watch=1", 410, 3)
    here.proxy.end_watches(gone=True)
    again = here.wait_child("unseen-quantize-1")
    assert again["metadata"]["uid"] != uid
    here.answers["unseen"] = all_well
    here.wait_for("unseen", "Succeeded", "True")


def test_two_operators_at_once_make_nothing_twice(
    here: Troubled, cluster: ControlPlane, tmp_path: Path
) -> None:
    second = OperatorProcess(cluster, here.namespace, tmp_path, lease=False)
    names = [f"shared-{number}" for number in range(6)]
    before = _reconciles(here.operator)
    with second:
        for name in names:
            here.apply(name)
        here.require_undisturbed(*names)
        assert _reconciles(second) > 0
        assert _reconciles(here.operator) > before


def _reconciles(operator: OperatorProcess) -> int:
    """Visits of jobs that came to an end."""
    pattern = r'^halftone_operator_reconciles_total\{result="done"\} (\S+)$'
    found = re.search(pattern, operator.metrics(), re.MULTILINE)
    return 0 if found is None else int(float(found[1]))
