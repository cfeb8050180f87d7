"""How an artifact lies below its name in a bucket; shared by the reader and the publisher.

    PREFIX/artifact.json                              the name: says which folder is the artifact
    PREFIX/<checkpoint 12>-<manifest 8>/…             an artifact's files, its own artifact.json too
    PREFIX/.halftone/publishing/<folder>              somebody is at work on that folder
    PREFIX/.halftone/superseded/<folder>              that folder was the artifact once
    PREFIX/.halftone/probe-…                          for a moment, see `s3_probe`

A folder's name follows from its content, so nothing that a reader may be reading is ever written
again, and a publisher that was killed finds its own work. vLLM loads a folder as it is.
"""

import re
from typing import Final

from pydantic import ValidationError

from halftone.spec.artifacts import SHORT_DIGEST, Artifact

# Digits of the manifest's digest: it only tells apart artifacts of one checkpoint.
_MANIFEST_DIGITS: Final = 8
_FOLDER: Final = re.compile(rf"^[0-9a-f]{{{SHORT_DIGEST}}}-[0-9a-f]{{{_MANIFEST_DIGITS}}}$")
PUBLISHING: Final = ".halftone/publishing/"
SUPERSEDED: Final = ".halftone/superseded/"
PROBES: Final = ".halftone/probe-"
# An artifact.json has some 150 bytes a file; a larger one was not written by us.
MAX_DOCUMENT_BYTES: Final = 16_000_000


def folder_of(artifact: Artifact) -> str:
    """The folder that holds the files of `artifact`, without slashes."""
    return (
        f"{artifact.checkpointDigest[:SHORT_DIGEST]}-{artifact.manifestDigest[:_MANIFEST_DIGITS]}"
    )


def is_folder(name: str) -> bool:
    """Whether `name` is what `folder_of` could have given."""
    return _FOLDER.fullmatch(name) is not None


def understood(document: bytes) -> Artifact | None:
    """The artifact of an artifact.json; None for anything else, and for one that was edited."""
    try:
        artifact = Artifact.model_validate_json(document)
    except ValidationError:
        return None
    return artifact if artifact.compute_digest() == artifact.digest else None
