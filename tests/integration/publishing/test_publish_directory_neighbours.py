"""What lies beside a directory target, and what of it publishing and `gc` may touch."""

from pathlib import Path

import pytest

from halftone.spec.artifacts import Artifact
from halftone.spec.errors import HalftoneError, RefusedInput
from halftone.stores.directory_target import DirectoryArtifactTarget
from tests.drafts import publish, put


@pytest.fixture
def target(tmp_path: Path) -> DirectoryArtifactTarget:
    (tmp_path / "site").mkdir()
    return DirectoryArtifactTarget(tmp_path / "site" / "model")


def test_an_artifact_under_another_digest_is_nobodys_leftover(
    target: DirectoryArtifactTarget, tree: Path, first: Artifact, second: Artifact, tmp_path: Path
) -> None:
    publish(target, tree, first)
    other = DirectoryArtifactTarget(tmp_path / "site" / "model.0123456789ab")
    publish(other, tmp_path / "other", second)

    assert target.leftovers() == []


@pytest.mark.parametrize("name", [".model.publishing", ".model.publishing.lock"])
def test_a_link_that_waits_beside_the_target_is_not_followed(
    name: str, target: DirectoryArtifactTarget, tree: Path, first: Artifact, tmp_path: Path
) -> None:
    private = tmp_path / "private"
    if name.endswith("lock"):
        private.write_bytes(b"a thesis")
    else:
        put(private / "thesis", b"a thesis")
    (tmp_path / "site" / name).symlink_to(private)

    with pytest.raises(HalftoneError):
        publish(target, tree, first)

    assert (private if name.endswith("lock") else private / "thesis").read_bytes() == b"a thesis"
    assert not (tmp_path / "site" / "model").exists()


def test_cards_need_an_artifact_beside_which_they_lie(
    target: DirectoryArtifactTarget, tree: Path, first: Artifact, tmp_path: Path
) -> None:
    put(tree / "capacity" / "card.json", b"{}")

    with pytest.raises(RefusedInput, match="holds no artifact to put capacity cards beside"):
        target.add_cards(tree, ["capacity/card.json"])

    assert list((tmp_path / "site").iterdir()) == []
