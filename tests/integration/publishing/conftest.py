"""What the tests of publishing share: two small checkpoints.

Called by pytest.
"""

from pathlib import Path

import pytest

from halftone.spec.artifacts import Artifact
from tests.drafts import draft, put, write_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tmp_path / "tree"


@pytest.fixture
def first(tree: Path) -> Artifact:
    return write_tree(tree)


@pytest.fixture
def second(tmp_path: Path) -> Artifact:
    """The draft of another checkpoint, in `other`, which has a file less and a file more."""
    write_tree(tmp_path / "other", seed=1)
    (tmp_path / "other" / "evidence" / "kl.json").unlink()
    put(tmp_path / "other" / "evidence" / "task.json", b"{}")
    return draft(tmp_path / "other")
