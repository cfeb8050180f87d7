"""Whether an artifact is what `trust` asks for, from its documents: before a weight is fetched.

Called by `obtaining`. The documents are held against each other, against `artifact.json` and
against the signature, by `halftone.publish.verifying`; here it is judged whether that is enough.
"""

from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from halftone.publish.keys import read_public_key
from halftone.publish.published_documents import PublishedDocuments
from halftone.publish.reading import ArtifactReader
from halftone.publish.verifying import examine
from halftone.spec.errors import CheckFailed, RefusedInput
from halftone.spec.names import ARTIFACT_FILE, Reason
from halftone.spec.reports import Verdict
from halftone.spec.serving import ArtifactReference, Signatures, Trust


class Place(StrEnum):
    """Which of an endpoint's two references is meant; sentences name its fields."""

    Artifact = "artifact"
    Draft = "draft"


class Asked(NamedTuple):
    """What is to be obtained, and what it must be."""

    reference: ArtifactReference
    trust: Trust
    place: Place

    @property
    def digest_field(self) -> str:
        """Where the digest is written."""
        return f"{self.place}.digest"

    @property
    def trust_field(self) -> str:
        """Where trust is written; a draft without its own is judged by the artifact's."""
        return "trust" if self.place is Place.Artifact else "draftTrust"


def require_trusted(reader: ArtifactReader, uri: str, asked: Asked) -> PublishedDocuments:
    """The documents of the artifact, if it is one that `asked` accepts.

    Everything but the bytes of weights was looked at then. Raises CheckFailed: DigestDiffers for
    files or documents that are not the published ones and for another checkpoint than the pinned
    one, SignatureInvalid, VerdictNotPassed, RequirementNotMet; and RefusedInput(KeyUnusable).
    """
    public_pem = None
    if asked.trust.publicKeyFile is not None:
        public_pem = read_public_key(Path(asked.trust.publicKeyFile))
    if reader.artifact.signature is None:
        _require_no_signature(asked, f"`{uri}` is not signed")
        public_pem = None
    try:
        documents = examine(reader, public_pem).documents
    except CheckFailed as error:
        if error.reason is not Reason.SignatureInvalid or public_pem is None:
            raise
        raise CheckFailed(
            error.reason,
            error.subject,
            f"`{uri}` is not what the key of `{asked.trust_field}.publicKeyFile` signed: "
            f"{error.message}",
        ) from error
    require_digest(documents.checkpoint.digest, uri, asked)
    report = documents.report
    _require_verdict(report.verdict, f"The report of `{uri}` has the verdict", asked)
    if asked.trust.platforms:
        device = None if report.platform is None else report.platform.device
        _require_platform(device, uri, asked)
    return documents


def require_plain_trusted(uri: str, asked: Asked) -> None:
    """Raise unless `asked` accepts a checkpoint that nobody signed and nobody measured.

    Raises CheckFailed(SignatureInvalid, RequirementNotMet).
    """
    _require_no_signature(asked, f"`{uri}` has no {ARTIFACT_FILE}, so nobody signed it")
    _require_verdict(
        Verdict.Unmeasured, f"`{uri}` has no {ARTIFACT_FILE}, so its verdict is", asked
    )
    if asked.trust.platforms:
        _require_platform(None, uri, asked)


def require_digest(found: str, uri: str, asked: Asked) -> None:
    """Raise CheckFailed(DigestDiffers) unless `found` is the pinned digest, if one is pinned."""
    pinned = asked.reference.digest
    if pinned not in (None, found):
        raise CheckFailed(
            Reason.DigestDiffers,
            asked.digest_field,
            f"`{asked.digest_field}` is {pinned}, and `{uri}` holds the checkpoint {found}; "
            "correct the digest, or name the place where that checkpoint lies.",
        )


def require_pinned(found: str | None, uri: str, asked: Asked) -> None:
    """Raise RefusedInput(RequirementNotMet) unless a digest is pinned.

    `found` is that of the files, if it is known already.
    """
    if asked.reference.digest is None:
        told = f"is {found}" if found else f"`python -m halftone.serve.weights {uri}` prints"
        raise RefusedInput(
            Reason.RequirementNotMet,
            asked.digest_field,
            f"`{uri}` has no {ARTIFACT_FILE}, and nothing else says what its files should be; set "
            f"`{asked.digest_field}` to the digest of the files that you trust (of those that lie "
            f"there now it {told}).",
        )


def _require_no_signature(asked: Asked, why: str) -> None:
    field = f"{asked.trust_field}.signature"
    if asked.trust.signature is Signatures.Required:
        raise CheckFailed(
            Reason.SignatureInvalid,
            field,
            f"{why}, and `{field}` is '{Signatures.Required}'; name a signed artifact, or set "
            f"`{field}` to '{Signatures.NotRequired}' if you trust whoever may write there.",
        )


def _require_verdict(verdict: Verdict, said: str, asked: Asked) -> None:
    field = f"{asked.trust_field}.verdicts"
    if verdict not in asked.trust.verdicts:
        allowed = ", ".join(asked.trust.verdicts)
        raise CheckFailed(
            Reason.RequirementNotMet,
            field,
            f"{said} {verdict}, and `{field}` accepts {allowed}; have the gates run on the device "
            f"that serves, or add '{verdict}' to `{field}`.",
        )


def _require_platform(device: str | None, uri: str, asked: Asked) -> None:
    field = f"{asked.trust_field}.platforms"
    if device not in asked.trust.platforms:
        ran = "on no device" if device is None else f"on '{device}'"
        allowed = ", ".join(asked.trust.platforms)
        raise CheckFailed(
            Reason.RequirementNotMet,
            field,
            f"The gates of `{uri}` ran {ran}, and `{field}` accepts {allowed}; have them run "
            f"there, or change `{field}`.",
        )
