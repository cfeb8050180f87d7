"""What the tests of publishing share: two small checkpoints, and a Hub to write to.

Called by pytest.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from halftone.spec.artifacts import Artifact
from tests.doubles.hub_writing import HubWritingDouble
from tests.drafts import TOKEN, draft, put, write_tree


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubWritingDouble]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with HubWritingDouble(TOKEN) as double:
        monkeypatch.setenv("HF_ENDPOINT", double.endpoint)
        yield double


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
