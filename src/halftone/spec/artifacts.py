"""`artifact.json`: what readers start from; its presence says that all the rest is there.

Written last, in every kind of target. It lies outside the signature, so that it can say where the
artifact is; everything that it says of the content can be checked against signed files.
"""

from typing import Final, Literal, Self

from halftone.spec.documents import Document, WrittenFile, canonical_json, sha256_hex
from halftone.spec.names import API_VERSION
from halftone.spec.reports import Verdict

# Hexadecimal digits of a digest in names that people read.
SHORT_DIGEST: Final = 12


class Artifact(Document):
    """One published checkpoint.

    `files` are all files of the artifact but itself and the capacity cards, which are added later;
    `manifestDigest` is over them and does not depend on where they lie. `signature` is the
    signature's file name, None for an unsigned artifact. `digest` is over everything else here.
    """

    apiVersion: Literal["halftone.dev/v1alpha1"] = API_VERSION
    kind: Literal["Artifact"] = "Artifact"
    digest: str
    uri: str
    revision: str | None
    checkpointDigest: str
    planDigest: str
    reportDigest: str
    verdict: Verdict
    sizeBytes: int
    signature: str | None
    manifestDigest: str
    files: tuple[WrittenFile, ...]

    def sealed(self) -> Self:
        """This artifact with the digest of its content."""
        return self.model_copy(update={"digest": self.compute_digest()})

    def compute_digest(self) -> str:
        """The digest of the content; equal to `digest` unless somebody edited the document."""
        return sha256_hex(canonical_json(self.model_dump(mode="json", exclude={"digest"})))


def manifest_digest(files: tuple[WrittenFile, ...]) -> str:
    """SHA-256 over the sorted (path, size, SHA-256) of `files`."""
    rows = sorted([file.path, file.sizeBytes, file.sha256] for file in files)
    return sha256_hex(canonical_json(rows))
