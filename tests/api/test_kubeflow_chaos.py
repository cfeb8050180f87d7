"""The life of a run's job while requests are cut and the operator is killed around every write.

We test these aspects:
- a write to the API server is cut, before or after the server heard of it, and the operator lives
  or is killed at it: a few seeded points in CI, all of them in the soak tier
- the same at the request that makes the run, which is then looked for and found, or made
- the server goes away in the middle, and the operator with it

Afterwards the state is that of an undisturbed life, and one run was made for each job.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.api.kubeflow_world import KubeflowWorld, shorten_claims, start_options
from tests.api.troubles import ENDED, BehindProxy, Point, begin_lives, kept_alive
from tests.cluster.client import Client
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import KubeletStandIn
from tests.cluster.operator_process import OperatorProcess
from tests.doubles.api_proxy import ApiProxy, Moment, Seen
from tests.doubles.kubeflow import Fault, Step, StoredRun

_SEED = 20261123
# Writes to the API server that each life has: a part of the path, and which of several.
_WRITES = [
    ("/{name}?", 1),  # the finalizer
    *(("/{name}/status?", number) for number in range(1, 5)),
    *(("/events?", number) for number in range(1, 5)),
    ("/jobs?", 1),  # what cleans up
    ("/{name}?", 2),
]
_POINTS = [(*write, moment) for write in _WRITES for moment in Moment]


class Troubled(BehindProxy, KubeflowWorld):
    """Its operator is behind a proxy, and is started again when it was killed."""

    def require_undisturbed(self, *names: str) -> None:
        """Every job came to the state of an undisturbed life by one run; then it goes."""
        for name in names:
            self.wait_for(name, "Succeeded", "True")
        for name in names:
            rows = self.status(name)["conditions"]
            assert [(r["type"], r["status"], r["reason"]) for r in rows] == ENDED, name
            assert len(self.names_made(name)) == 1, name
            self.delete(name)
        for name in names:
            self.wait_gone(name)


@pytest.fixture(scope="module")
def here(
    cluster: ControlPlane, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Troubled]:
    """One operator for the whole module."""
    with _troubled(cluster, client, tmp_path_factory.mktemp("kubeflow-chaos")) as found:
        yield found


@contextmanager
def _troubled(cluster: ControlPlane, client: Client, folder: Path) -> Iterator[Troubled]:
    found = Troubled(cluster, client, client.namespace("kubeflow-chaos"))
    with found.kubeflow, ApiProxy(cluster.url, cluster.authority.folder) as found.proxy:
        place = folder / "operator"
        found.operator = OperatorProcess(
            cluster,
            found.namespace,
            place,
            server=found.proxy.url,
            lease=False,
            options=start_options(found),
        )
        shorten_claims(place)

        with (
            found.operator,
            KubeletStandIn(cluster, found.answer, namespace=found.namespace) as stand_in,
        ):
            with kept_alive(found.operator):
                yield found
                # The last point of a test may have been a kill: its successor is on its way.
                found.client.wait("an operator that runs", lambda: _runs(found.operator))
            found.operator.wait_ready()
    assert not stand_in.errors
    assert not found.errors


def _runs(operator: OperatorProcess) -> bool:
    return operator.process is not None and operator.process.poll() is None


@pytest.fixture(autouse=True)
def _all_faults_happen(here: Troubled) -> Iterator[None]:
    """In every test, and none is left to the next."""
    yield
    here.proxy.recover()


def test_a_write_is_cut(here: Troubled) -> None:
    _live_through(here, random.Random(_SEED).sample(_POINTS, 4), "seeded-cut", lambda: None)
    assert here.proxy.recover() == 4


def test_a_kill_around_a_write(here: Troubled) -> None:
    _live_through(here, random.Random(_SEED).sample(_POINTS, 2), "seeded-kill", here.kill)
    assert here.proxy.recover() == 2


@pytest.mark.soak
def test_a_kill_around_every_write(here: Troubled) -> None:
    for point in _POINTS:
        _live_through(here, [point], "kill", here.kill)
        assert here.proxy.recover() == 1


@pytest.mark.parametrize("fault", [None, Fault.Cut])
def test_a_kill_while_the_run_is_made(here: Troubled, fault: Fault | None) -> None:
    name = "at-cut" if fault else "at-post"
    make_pods, before = here.kubeflow.moved, here.kills

    def moved(run: StoredRun) -> None:
        if run.name.startswith(f"{here.namespace}.{name}-") and here.kills == before:
            here.kill()  # it never hears that the run is there
        make_pods(run)

    here.kubeflow.moved = moved
    if fault is not None:
        here.kubeflow.fail("POST /runs", fault)
    try:
        here.apply_run(name)
        here.require_undisturbed(name)
    finally:
        here.kubeflow.moved = make_pods
    assert here.kills == before + 1


def _live_through(
    here: Troubled, points: list[Point], prefix: str, then: Callable[[], None]
) -> None:
    """A life for each point."""
    names = begin_lives(here.proxy, here.apply_run, points, _WRITES, prefix, then, _says)
    here.require_undisturbed(*names)


def _says(name: str, what: str, seen: Seen) -> bool:
    return what.format(name=name) in seen.path


def test_a_server_that_goes_away_in_the_middle_of_a_life(here: Troubled) -> None:
    good = here.kubeflow.script
    here.kubeflow.script = list(good)[:2]
    here.apply_run("outage")
    here.wait_for("outage", "Quantized", "True")
    here.kubeflow.down = True
    here.wait_for("outage", "Validated", "Unknown", "PipelinesUnreachable")
    here.kill()
    run_id = here.status("outage")["pipelineRun"]["id"]
    here.kubeflow.play(run_id, [*list(good)[2:], Step("SUCCEEDED", list(good)[-1].tasks)])
    here.kubeflow.script = good
    here.kubeflow.down = False
    here.require_undisturbed("outage")
