"""Small trees that are ready to be published, their drafts, and whether what came out is whole.

Called by the tests of targets, which do not care what a tree holds. It depends on its seed alone,
so the same seed gives the same checkpoint digest.
"""

import hashlib
import random
import traceback
from pathlib import Path

import pytest

from halftone.spec.artifacts import Artifact, manifest_digest
from halftone.spec.documents import WrittenFile
from halftone.spec.errors import HalftoneError
from halftone.spec.publishing import ArtifactTarget
from halftone.spec.reports import Verdict
from halftone.spec.targets import Existing
from tests.doubles.hub_repositories import ATTRIBUTES
from tests.doubles.hub_writing import HubWritingDouble

TOKEN = "hf_" + "s3cret" * 5
CARD = "---\nbase_model: org/base\nbase_model_relation: quantized\n---\n# A model\n"


def write_tree(tree: Path, seed: int = 0, shard_bytes: int = 300_000) -> Artifact:
    """Files of a small artifact below `tree`; its draft. Shards are not compressible."""
    numbers = random.Random(seed)
    put(tree / "config.json", b'{"seed": %d}' % seed)
    put(tree / "README.md", CARD.encode())
    put(tree / "evidence" / "kl.json", b'{"mean": 0.01, "seed": %d}' % seed)
    for shard in range(3):
        put(tree / f"model-{shard}.safetensors", numbers.randbytes(shard_bytes + shard))
    return draft(tree)


def put(path: Path, content: bytes) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def damage_shard(tree: Path, damage: str) -> None:
    """`model-2.safetensors` is `gone`, or `changed` in one byte that is still there."""
    shard = tree / "model-2.safetensors"
    if damage == "gone":
        shard.unlink()
        return
    with shard.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))


def draft(tree: Path) -> Artifact:
    """The draft of what lies below `tree`, as whoever publishes makes it."""
    files = tuple(_written(path, tree) for path in sorted(tree.rglob("*")) if path.is_file())
    digest = manifest_digest(files)
    return Artifact(
        digest="",
        uri="",
        revision=None,
        checkpointDigest=digest,
        planDigest="1" * 64,
        reportDigest="2" * 64,
        verdict=Verdict.Passed,
        sizeBytes=sum(file.sizeBytes for file in files),
        signature=None,
        manifestDigest=digest,
        files=files,
    )


def holds(directory: Path, expected: Artifact) -> bool:
    """Whether `directory` is `expected`: its files, each with its digest, and nothing more."""
    artifact = Artifact.load(directory / "artifact.json")
    present = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}
    return (
        artifact.digest == artifact.compute_digest()
        and artifact.checkpointDigest == expected.checkpointDigest
        and artifact.files == expected.files
        and present == {"artifact.json", *(file.path for file in expected.files)}
        and all(_written(directory / file.path, directory) == file for file in expected.files)
    )


def publish(
    target: ArtifactTarget,
    tree: Path,
    artifact: Artifact,
    existing: Existing = Existing.Refuse,
) -> Artifact:
    return target.publish(tree, artifact, existing, lambda _: None)


def shows(
    hub: HubWritingDouble, expected: Artifact, tmp_path: Path, revision: str = "main"
) -> bool:
    """Whether readers of `revision` find `expected`, whole, and nothing more."""
    files = hub.repositories["org/name"].files(revision)
    assert files.pop(".gitattributes") == ATTRIBUTES
    copy = tmp_path / "seen" / str(random.random())
    for path, content in files.items():
        put(copy / path, content)
    return holds(copy, expected)


def tag_of(artifact: Artifact) -> str:
    return artifact.checkpointDigest[:12]


def is_untouched(hub: HubWritingDouble) -> bool:
    """Whether a reader sees nothing at all."""
    return all(len(repository.commits) == 1 for repository in hub.repositories.values())


def refused(
    target: ArtifactTarget,
    tree: Path,
    artifact: Artifact,
    existing: Existing = Existing.Refuse,
) -> HalftoneError:
    with pytest.raises(HalftoneError) as caught:
        publish(target, tree, artifact, existing)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    return caught.value


def _written(path: Path, tree: Path) -> WrittenFile:
    content = path.read_bytes()
    return WrittenFile(
        path=path.relative_to(tree).as_posix(),
        sizeBytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
