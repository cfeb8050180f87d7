"""What the tests of publishing to S3 share: two small trees to publish.

Called by pytest.
"""

from pathlib import Path

import pytest

from halftone.spec.artifacts import Artifact
from tests.uploads import SMALL, write_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tmp_path / "tree"


@pytest.fixture
def first(tree: Path) -> Artifact:
    return write_tree(tree, 1, SMALL)


@pytest.fixture
def second(tmp_path: Path) -> Artifact:
    """The draft of another checkpoint, in `other`."""
    return write_tree(tmp_path / "other", 2, SMALL)
