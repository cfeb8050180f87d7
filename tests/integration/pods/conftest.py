"""A small model in a bucket, pods that can reach it, and one life that nobody disturbed.

Called by pytest for tests of stages as pods run them.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.builders import write_checkpoint
from tests.pods import Ended, Pod, Pods
from tests.servers.versitygw import VersityGateway
from tests.storehouse import Storehouse


@dataclass(frozen=True)
class Moment:
    """What was there before a stage: the work area, and what the operator had seen."""

    work: dict[str, bytes]
    pods: Pods


@dataclass(frozen=True)
class Life:
    """A job that was carried out, and how often each of its pods wrote or asked a store."""

    store: Storehouse
    pods: Pods
    counts: dict[tuple[str, int], int]
    moments: dict[str, Moment]

    def before(self, stage: str, folder: Path) -> tuple[Storehouse, Pods]:
        """The same job with a target of its own, as it was before `stage`."""
        moment = self.moments[stage]
        store = self.store.beside(f"other{secrets.token_hex(4)}", moment.work)
        return store, moment.pods.copy(folder / "node")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("pods") / "model", "qwen3_5")


@pytest.fixture
def store(s3_server: VersityGateway, model: Path) -> Storehouse:
    return Storehouse.made(s3_server, model)


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled once for the pods of all tests."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def pods(store: Storehouse, kernels: Path, tmp_path: Path) -> Pods:
    return Pods(tmp_path / "node", secrets=store.secrets, cache=kernels)


@pytest.fixture(scope="session")
def life(
    s3_server: VersityGateway, model: Path, kernels: Path, tmp_path_factory: pytest.TempPathFactory
) -> Life:
    """Nothing of it may be changed."""
    store = Storehouse.made(s3_server, model)
    pods = Pods(tmp_path_factory.mktemp("life"), secrets=store.secrets, cache=kernels)
    counts: dict[tuple[str, int], int] = {}
    moments: dict[str, Moment] = {}

    def count(pod: Pod) -> Ended:
        if pod.stage not in moments:
            moments[pod.stage] = Moment(store.area, pods.copy(pods.folder))
        ended, counts[pod.stage, pod.index] = pod.counted()
        return ended

    pods.carry_out(store.job(), count)
    return Life(store, pods, counts, moments)
