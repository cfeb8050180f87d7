"""A job's life on a real API server while requests, connections and the operator itself go wrong.

We test these aspects:
- the operator is killed around a write of a job's life, before the server hears of it or before it
  hears of the server: seeded points in CI, every point of a life in the soak tier
- every write of a life is cut once, before and after, without a kill
- 409, 410, 429 with Retry-After, 500 and 503 answers, closed and expired watches, slow answers
- two operators act at once, without an election
- what was deleted while nobody could watch is made again once the watch has expired

Afterwards the state is that of an undisturbed life, and no stage was begun twice: Jobs are counted
in the audit log, pods as the stand-in saw them. A life goes from creation to the object's end.
"""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from halftone.spec.cluster import ChildStage
from tests.api.world import World, stops
from tests.cluster.answers import all_well
from tests.cluster.client import Client, children_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import KubeletStandIn
from tests.cluster.operator_process import OperatorProcess
from tests.doubles.api_proxy import ApiProxy, Moment

_SEED = 20261122
_STAGES = ("clean-up", "plan", "publish", "quantize", "target", "validate")
_ENDED = [
    ("Accepted", "True", "Accepted"),
    ("Quantized", "True", "Quantized"),
    ("Validated", "True", "Validated"),
    ("Published", "True", "Published"),
    ("Succeeded", "True", "Published"),
]


class Troubled(World):
    """A world whose operator is behind a proxy, and is started again when it was killed."""

    proxy: ApiProxy
    kills = 0

    def kill(self) -> None:
        """As a lost node does; `keep_alive` starts it anew."""
        self.kills += 1
        process = self.operator.process
        assert process is not None
        process.kill()

    def require_undisturbed(self, *names: str) -> None:
        """Every job came to the state of an undisturbed life; then it goes, and left nothing."""
        for name in names:
            self.wait_for(name, "Succeeded", "True")
        for name in names:
            found = self.find(name) or {}
            rows = [(r["type"], r["status"], r["reason"]) for r in found["status"]["conditions"]]
            assert rows == _ENDED, name
            assert self.children(name) == [f"{name}-{s}-1" for s in _STAGES if s != "clean-up"]
            self.delete(name)
        for name in names:
            self.wait_gone(name)
            made = Counter(self.children_made(name))
            assert made == Counter({f"{name}-{stage}-1": 1 for stage in _STAGES}), name
            pods = Counter(stage for job, stage in self.pods_seen.values() if job == name)
            assert pods == Counter(dict.fromkeys(_STAGES, 1)), name


@contextmanager
def troubled(
    cluster: ControlPlane, client: Client, namespace: str, folder: Path, lease: bool = False
) -> Iterator[Troubled]:
    """A running one; whatever ends the operator, it is started anew, as a kubelet does."""
    found = Troubled(cluster, client, client.namespace(namespace))
    stop = threading.Event()
    with ApiProxy(cluster.url, cluster.authority.folder) as found.proxy:
        found.operator = OperatorProcess(
            cluster, namespace, folder / "operator", server=found.proxy.url, lease=lease
        )

        def keep_alive() -> None:
            while not stop.wait(0.05):
                process = found.operator.process
                if process is not None and process.poll() is not None:
                    found.operator.start()

        with found.operator, KubeletStandIn(cluster, found.answer, namespace=namespace):
            keeper = threading.Thread(target=keep_alive)
            keeper.start()
            try:
                yield found
            finally:
                stop.set()
                keeper.join()


@pytest.fixture(scope="module")
def here(
    cluster: ControlPlane, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Troubled]:
    """One operator for the whole module."""
    folder = tmp_path_factory.mktemp("chaos")
    with troubled(cluster, client, "chaos", folder) as found:
        yield found


@pytest.fixture(scope="module")
def writes(here: Troubled) -> int:
    """How many writes a life has."""
    here.apply("calm")
    here.require_undisturbed("calm")
    return sum(seen.is_write and "calm" in str(seen) + seen.body for seen in here.proxy.seen)


def test_every_write_is_cut_once(here: Troubled, writes: int) -> None:
    names = []
    for number in range(1, writes + 1):
        for moment in Moment:
            names.append(f"cut-{moment.name.lower()}-{number:02}")
            here.proxy.cut_nth(names[-1], number, moment)
    for name in names:
        here.apply(name)
    here.require_undisturbed(*names)
    print(f"{len(names)} writes were cut; all lives ended as they should")


def test_a_kill_around_a_write(here: Troubled, writes: int) -> None:
    points = [(number, moment) for number in range(1, writes + 1) for moment in Moment]
    _kill_at(here, random.Random(_SEED).sample(points, 3), "seeded")


@pytest.mark.soak
def test_a_kill_around_every_write(here: Troubled, writes: int) -> None:
    points = [(number, moment) for number in range(1, writes + 1) for moment in Moment]
    for point in points:
        _kill_at(here, [point], "every")
    print(f"{len(points)} kills; all lives ended as they should")


def _kill_at(here: Troubled, points: list[tuple[int, Moment]], prefix: str) -> None:
    before = here.kills
    names = [f"{prefix}-{moment.name.lower()}-{number:02}" for number, moment in points]
    for name, (number, moment) in zip(names, points, strict=True):
        here.proxy.cut_nth(name, number, moment, then=here.kill)
        here.apply(name)
    here.require_undisturbed(*names)
    assert here.kills - before == len(points)


def test_bad_answers_are_outlived(here: Troubled) -> None:
    names = ["conflict", "expired", "busy", "broken", "absent"]
    for name, status in zip(names, (409, 410, 429, 500, 503), strict=True):
        for what in ("PATCH .*/{}\\?", "PATCH .*/{}/status", "DELETE .*/{}-"):
            after = 1 if status == 429 else None
            here.proxy.fail(what.format(name), status, 2, retry_after=after)
    here.proxy.fail(r"POST .*/jobs\?", 500, 2)
    here.proxy.fail(r"POST .*/jobs\?", 429, 2, retry_after=1)
    here.proxy.fail(r"POST .*/events\?", 503, 2)
    here.proxy.slow(r"PATCH .*/busy/status", 0.5)
    for name in names:
        here.apply(name)
    here.require_undisturbed(*names)
    here.proxy.recover()


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
    with second:
        for name in names:
            here.apply(name)
        here.require_undisturbed(*names)
    assert second.log.exists()
