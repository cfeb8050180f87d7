"""Whether an artifact is what was published: files, documents, provenance, signature, cards.

    verification = verify(open_source("s3://models/small"), Path("key.pub"), {"signature"})

Called by `halftone verify`, and `examine` by replicas of the endpoint. Nothing in the artifact is
believed because it says so: each document is held against the others and against the bytes. The
first thing that differs is named.
"""

from collections.abc import Set as AbstractSet
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

from pydantic import BaseModel, ConfigDict

from halftone.publish.calibration import DOCUMENT_PATH, TENSORS_PATH
from halftone.publish.capacity_cards import MAX_CARD_BYTES, require_cards
from halftone.publish.keys import key_identifier, read_public_key
from halftone.publish.permission import contradicted_verdict
from halftone.publish.published_documents import PublishedDocuments, read_documents
from halftone.publish.reading import ArtifactReader, Progress
from halftone.publish.signing import require_covered, require_signature
from halftone.spec.documents import Plan
from halftone.spec.errors import CheckFailed
from halftone.spec.files import FileSource
from halftone.spec.names import REPORT_FILE, SIGNATURE_FILE, Reason
from halftone.spec.reports import PUBLISHABLE, Platform, Report, Verdict


class Requirement(StrEnum):
    """What a reader may insist on, as the command line spells it."""

    signature = "signature"  # a valid one, by the given key
    verdict = "verdict"  # Passed, and no other that could be published
    platform = "platform"  # engine gates ran on the real device


class SignatureState(StrEnum):
    """What is known of the signature of the whole."""

    Valid = "Valid"
    NotChecked = "NotChecked"  # there is one, and no key to check it with
    Absent = "Absent"


class Verification(BaseModel):
    """What was found of an artifact that verifies; documents' digests are recomputed ones.

    `keyIdentifier` is the SHA-256 of the public key that the signature was checked with. `files`
    counts those that `artifact.json` lists, `cards` are capacity cards beside them;
    `statisticsDigest` is that of the statistics of a calibrated checkpoint.
    """

    model_config = ConfigDict(frozen=True)
    uri: str
    revision: str | None
    digest: str
    checkpointDigest: str
    planDigest: str
    statisticsDigest: str | None
    reportDigest: str
    verdict: Verdict
    platform: Platform | None
    signature: SignatureState
    keyIdentifier: str | None
    files: int
    sizeBytes: int
    cards: tuple[str, ...]


class Examined(NamedTuple):
    """An artifact of which everything but the bytes of its weights was looked at."""

    documents: PublishedDocuments
    signature: SignatureState


class Verified(NamedTuple):
    """An artifact that verifies: what was found, and all that it can be rebuilt from.

    `statistics` are the files that `halftone.quantize.statistics` reads, by their names there;
    none for a data-free checkpoint.
    """

    found: Verification
    plan: Plan
    statistics: dict[str, bytes]


def verify(
    source: FileSource,
    public_key: Path | None = None,
    require: AbstractSet[str] = frozenset(),
    progress: Progress = lambda nbytes: None,
) -> Verified:
    """Check every file of the artifact in `source`; `progress` is told of bytes that were hashed.

    A given `public_key` must be the one that signed, so an artifact whose signature was taken away
    does not pass. Raises CheckFailed for the first thing that differs (DigestDiffers,
    SignatureInvalid) or that `require` asks for in vain (RequirementNotMet), and
    RefusedInput(KeyUnusable).
    """
    public_pem = None if public_key is None else read_public_key(public_key)
    reader = ArtifactReader(source)
    artifact = reader.artifact
    documents, state = examine(reader, public_pem, require)
    cards = require_cards(
        reader.card_sizes(),
        lambda path: reader.unproven(path, MAX_CARD_BYTES),
        documents.checkpoint.digest,
        public_pem,
        signed=artifact.signature is not None,
    )
    reader.require_digests(progress)
    found = Verification(
        uri=source.uri,
        revision=source.revision,
        digest=artifact.digest,
        checkpointDigest=documents.checkpoint.digest,
        planDigest=documents.plan.digest,
        statisticsDigest=documents.checkpoint.statisticsDigest,
        reportDigest=artifact.reportDigest,
        verdict=documents.report.verdict,
        platform=documents.report.platform,
        signature=state,
        keyIdentifier=None if public_pem is None else key_identifier(public_pem),
        files=len(artifact.files),
        sizeBytes=artifact.sizeBytes,
        cards=cards,
    )
    measured = () if documents.statistics is None else (DOCUMENT_PATH, TENSORS_PATH)
    statistics = {PurePosixPath(path).name: reader.content(path) for path in measured}
    return Verified(found, documents.plan, statistics)


def examine(
    reader: ArtifactReader, public_pem: bytes | None, require: AbstractSet[str] = frozenset()
) -> Examined:
    """All that can be said before weights are read: names, sizes, signature, documents, verdict.

    The signature is then one over the digests that `artifact.json` states; that files have them is
    for `ArtifactReader.require_digests`, or whoever fetches them. Raises as `verify`.
    """
    reader.require_listed()
    state = _signature(reader, public_pem, Requirement.signature in require)
    documents = read_documents(reader)
    _require_verdict(documents.report, require)
    return Examined(documents, state)


def _signature(reader: ArtifactReader, public_pem: bytes | None, required: bool) -> SignatureState:
    """Hold the signature against the digests of `artifact.json`, which are proven elsewhere."""
    files = reader.artifact.files
    if reader.artifact.signature is None:
        if required or public_pem is not None:
            asked = "required" if required else "to be checked with the given key"
            raise CheckFailed(
                Reason.SignatureInvalid,
                SIGNATURE_FILE,
                f"The artifact is not signed, and its signature is {asked}; ask its publisher for "
                "a signed one.",
            )
        return SignatureState.Absent
    signature = reader.content(SIGNATURE_FILE)
    digests = {file.path: file.sha256 for file in files if file.path != SIGNATURE_FILE}
    if public_pem is not None:
        require_signature(digests, signature, public_pem, SIGNATURE_FILE)
        return SignatureState.Valid
    if required:
        raise CheckFailed(
            Reason.SignatureInvalid,
            SIGNATURE_FILE,
            "A valid signature is required, and without the key it cannot be checked; give the "
            "publisher's public key with `--public-key`.",
        )
    require_covered(digests, signature, SIGNATURE_FILE)
    return SignatureState.NotChecked


def _require_verdict(report: Report, require: AbstractSet[str]) -> None:
    contradiction = contradicted_verdict(report)
    if report.verdict not in PUBLISHABLE or contradiction is not None:
        told = contradiction or f"the verdict is {report.verdict}"
        raise CheckFailed(
            Reason.VerdictNotPassed,
            REPORT_FILE,
            f"This artifact should never have been published: {told}; do not use it.",
        )
    if Requirement.verdict in require and report.verdict is not Verdict.Passed:
        _unmet(f"the verdict {Verdict.Passed} is required, and it is {report.verdict}")
    platform = report.platform
    if Requirement.platform in require and platform is None:
        _unmet("a real device is required, and no engine gate ran on any")
    if Requirement.platform in require and platform is not None and platform.emulated:
        _unmet(f"a real device is required, and '{platform.device}' emulated it")


def _unmet(why: str) -> NoReturn:
    raise CheckFailed(
        Reason.RequirementNotMet,
        REPORT_FILE,
        f"{why[0].upper()}{why[1:]}; ask for less with `--require`, or have the gates run there.",
    )
