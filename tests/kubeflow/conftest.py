"""The tier of Kubeflow's real back end: one cluster a run, as root, minutes a test.

`make e2e-kfp` builds what is missing; no other target collects this folder.
"""

from collections.abc import Iterator

import pytest

from tests.kubeflow.back_end import BackEnd, back_end


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackEnd]:
    """All that runs."""
    with back_end(tmp_path_factory.mktemp("kubeflow")) as found:
        yield found
