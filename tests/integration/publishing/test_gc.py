"""`halftone gc` on a directory, as a user sees it.

We test these aspects: a former artifact is listed with its size and digest, as a table or JSON, and
stays; `--yes` removes it and leaves the present one; where there is no artifact that is said, since
the path may be a wrong one.
"""

import json
from pathlib import Path

import pytest

from halftone.spec.artifacts import Artifact
from halftone.spec.targets import Existing
from halftone.stores.directory_target import DirectoryArtifactTarget
from tests.commands import files_of, halftone
from tests.drafts import publish


@pytest.fixture
def place(tmp_path: Path, tree: Path, first: Artifact, second: Artifact) -> Path:
    """A target with an artifact, which has replaced another one."""
    place = tmp_path / "site" / "model"
    publish(DirectoryArtifactTarget(place), tree, first)
    publish(DirectoryArtifactTarget(place), tmp_path / "other", second, Existing.Replace)
    return place


def test_a_former_artifact_is_listed_and_stays(place: Path, first: Artifact) -> None:
    before = files_of(place.parent)
    listed = halftone("gc", place)
    assert (listed.code, listed.err) == (0, "")
    assert first.checkpointDigest[:12] in listed.out
    assert "`--yes` removes it" in listed.out
    told = json.loads(halftone("gc", place, "--json").out)
    assert told["removed"] is False
    assert [row["checkpointDigest"] for row in told["leftovers"]] == [first.checkpointDigest]
    assert files_of(place.parent) == before


def test_yes_removes_what_was_listed_and_no_more(place: Path) -> None:
    before = files_of(place)
    removed = halftone("gc", place, "--yes")
    assert (removed.code, removed.err) == (0, "")
    assert removed.out.splitlines()[-1].startswith("removed ")
    assert [path.name for path in place.parent.iterdir() if path.is_dir()] == [place.name]
    assert files_of(place) == before
    again = halftone("gc", place)
    assert (again.code, again.out, again.err) == (0, "nothing to remove\n", "")


def test_a_place_without_an_artifact_is_named(tmp_path: Path) -> None:
    found = halftone("gc", tmp_path / "modle")
    assert (found.code, found.out) == (0, "nothing to remove\n")
    assert found.err == f"there is no artifact at '{tmp_path / 'modle'}'\n"
