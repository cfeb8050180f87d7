"""What the tests of verification share: a key, and an artifact that was published with it.

Called by pytest. Made once a file of tests; what a file wants otherwise it makes itself.
"""

import shutil
from pathlib import Path

import pytest

from tests.artifacts import Work, publish, work_directory, write_card


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    work = work_directory(tmp_path_factory.mktemp("made"))
    write_card(work)
    return work


@pytest.fixture(scope="module")
def published(work: Work, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed artifact with a capacity card; nobody may change it."""
    return publish(work, tmp_path_factory.mktemp("published") / "small", key)


@pytest.fixture
def artifact(published: Path, tmp_path: Path) -> Path:
    """A copy of `published` to change."""
    return Path(shutil.copytree(published, tmp_path / "small"))
