"""The API tier: a real API server, etcd, controller manager and scheduler; no node, no root.

One cluster a pytest process; a test has a namespace of its own, named after it. Pods are answered
by `tests.cluster.kubelet_stand_in` where a test asks for it.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.chart import install_crd
from tests.cluster.client import Client
from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator_process import OperatorProcess

Start = Callable[..., OperatorProcess]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with the CRD."""
    with ControlPlane(tmp_path_factory.mktemp("cluster")) as up:
        install_crd(up)
        yield up


@pytest.fixture(scope="session")
def client(cluster: ControlPlane) -> Iterator[Client]:
    """An administrator's client."""
    with Client(cluster) as found:
        yield found


@pytest.fixture
def namespace(client: Client, request: pytest.FixtureRequest) -> str:
    """A namespace for one test."""
    digest = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    return client.namespace(f"test-{digest}")


@pytest.fixture
def operator(cluster: ControlPlane, namespace: str, tmp_path: Path) -> Start:
    """Makes (does not start) an operator of this test's namespace: `with operator(): …`."""
    made: list[OperatorProcess] = []

    def make(**options: object) -> OperatorProcess:
        folder = tmp_path / f"operator-{len(made)}"
        made.append(OperatorProcess(cluster, namespace, folder, **options))  # type: ignore[arg-type]
        return made[-1]

    return make
