"""Signatures by OpenSSF model-signing, over digests that are known already.

`prepare` signs what it has just hashed, `verify` compares what it has just hashed: neither lets the
library read the files again, so a remote artifact needs no copy here. The signature is the
library's own (a Sigstore bundle), and its command line verifies a published directory as well:

    model_signing verify key DIRECTORY --signature DIRECTORY/model.sig --public_key KEY.pub
"""

import base64
import io
import json
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, NoReturn

from pydantic import BaseModel, ConfigDict

from halftone.publish.keys import SigningKey, read_signing_key
from halftone.spec.errors import CheckFailed
from halftone.spec.names import ARTIFACT_FILE, CAPACITY_DIRECTORY, SIGNATURE_FILE, Reason

# What lies outside the signature of the whole; `.gitattributes` is written by the Hub itself.
UNSIGNED: Final = (ARTIFACT_FILE, CAPACITY_DIRECTORY, SIGNATURE_FILE, ".gitattributes")
# How the library calls the content of a model that is one file.
WHOLE_FILE: Final = "."


class _Strict(BaseModel):
    """Nothing unknown: a field that the signature does not cover must have its one true value."""

    model_config = ConfigDict(extra="forbid")


class _PublicKey(_Strict):
    hint: str


class _Material(_Strict):
    publicKey: _PublicKey
    tlogEntries: tuple[()]


class _Signature(_Strict):
    sig: str
    keyid: Literal[""]


class _Envelope(_Strict):
    payload: str
    payloadType: Literal["application/vnd.in-toto+json"]
    signatures: tuple[_Signature]


class _Bundle(_Strict):
    """What model-signing 1.1.1 writes for an elliptic-curve key: a Sigstore bundle."""

    mediaType: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verificationMaterial: _Material
    dsseEnvelope: _Envelope


class _KnownDigests:
    """Stands where the library would hash files; `manifest` is what it would find."""

    def __init__(self, manifest: Any) -> None:
        self._manifest = manifest

    def hash(self, model_path: Path, *, files_to_hash: Iterable[Path] | None = None) -> Any:
        """The known digests, whatever the path."""
        return self._manifest

    def add_ignored_paths(self, *, model_path: Path, paths: Iterable[Path]) -> None:
        """Nothing: what was ignored was ignored when the digests were collected."""


def refuse_unusable_key(path: Path) -> None:
    """For the start of a job: raise now what signing would raise after hours of work."""
    read_signing_key(path)


def sign(digests: Mapping[str, str], name: str, key: SigningKey, signature: Path) -> None:
    """Write a signature over `digests` (SHA-256 by path) to `signature`.

    `name` is informative. For a single file, `digests` has the key `WHOLE_FILE`. Raises OSError.
    """
    from model_signing.signing import Config

    config = Config().use_elliptic_key_signer(private_key=key.path)
    config.set_hashing_config(_KnownDigests(_manifest(digests, name)))
    config.sign(Path(name), signature)


def signed_digests(signature: bytes, subject: str) -> dict[str, str]:
    """SHA-256 by path, as `signature` claims; whose signature it is, is not looked at.

    Raises CheckFailed(SignatureInvalid) when it is no such signature; `subject` is its file.
    """
    try:
        envelope = _Bundle.model_validate_json(signature).dsseEnvelope
        _decoded(envelope.signatures[0].sig)
        statement = json.loads(_decoded(envelope.payload))
        resources = statement["predicate"]["resources"]
        if any(resource["algorithm"] != "sha256" for resource in resources):
            raise ValueError("another hash than SHA-256")
        return {str(resource["name"]): str(resource["digest"]) for resource in resources}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckFailed(
            Reason.SignatureInvalid,
            subject,
            f"'{subject}' is no signature of OpenSSF model-signing; fetch the artifact again, or "
            "ask its publisher to sign it again.",
        ) from error


def require_covered(digests: Mapping[str, str], signature: bytes, subject: str) -> None:
    """Raise CheckFailed(SignatureInvalid) unless `signature` claims to be over `digests`.

    For those without the public key: finds damage, but no forger.
    """
    signed = signed_digests(signature, subject)
    for path in sorted(signed.keys() | digests.keys()):
        if signed.get(path) != digests.get(path):
            _differs(path, subject, signed, digests)


def require_signature(
    digests: Mapping[str, str], signature: bytes, public_pem: bytes, subject: str
) -> None:
    """Raise CheckFailed(SignatureInvalid) unless `signature` is the key's own over `digests`."""
    from model_signing.verifying import Config

    require_covered(digests, signature, subject)
    with tempfile.TemporaryDirectory(prefix="halftone-") as folder:
        key_file, signature_file = Path(folder, "key.pub"), Path(folder, "signature")
        key_file.write_bytes(public_pem)
        signature_file.write_bytes(signature)
        config = Config().use_elliptic_key_verifier(public_key=key_file)
        try:
            config.set_hashing_config(_KnownDigests(_manifest(digests, subject)))
            # The library prints a warning for signatures of its own past.
            with redirect_stdout(io.StringIO()):
                config.verify(Path(folder), signature_file)
        # The signature comes from anybody, and the library trips over a bad one in many ways.
        except Exception as error:
            raise CheckFailed(
                Reason.SignatureInvalid,
                subject,
                f"'{subject}' was not made with this key over these files; get the publisher's "
                "public key from a place that you trust, and do not use the artifact before it "
                "verifies.",
            ) from error


def _decoded(text: str) -> bytes:
    """Base64, of which only one spelling is accepted."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not canonical base64")
    return data


def _manifest(digests: Mapping[str, str], name: str) -> Any:
    """`digests` as the library's manifest, with what a later reader must leave out."""
    from model_signing._hashing.hashing import Digest
    from model_signing.manifest import FileManifestItem, Manifest, SerializationType

    items = [
        FileManifestItem(path=PurePosixPath(path), digest=Digest("sha256", bytes.fromhex(sha256)))
        for path, sha256 in digests.items()
    ]
    described = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    if WHOLE_FILE not in digests:
        described["ignore_paths"] = [Path(path) for path in UNSIGNED]
    return Manifest(name, items, SerializationType.from_args(described))


def _differs(
    path: str, subject: str, signed: Mapping[str, str], digests: Mapping[str, str]
) -> NoReturn:
    """Name the first file that is not the one that was signed."""
    if path == WHOLE_FILE:
        path = subject.removesuffix(".sig")
    if path not in signed and path in digests:
        told = f"'{path}' was not there when '{subject}' was made"
    elif path not in digests and path in signed:
        told = f"'{path}' is missing, but '{subject}' covers it"
    else:
        told = f"'{path}' is not the file that '{subject}' covers (its SHA-256 differs)"
    raise CheckFailed(
        Reason.SignatureInvalid, path, f"{told}; fetch the artifact again from its publisher."
    )
