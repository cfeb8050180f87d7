"""The pure parts of publishing to S3: checksums, names, and what a store's answer means.

We test these aspects:
- checksums as S3 writes them, for objects of one piece and of several
- names of folders, and what is no artifact
- one sentence for each answer, with its kind, reason and exit code
- a store that forgets the checksums of parts is told apart from one that loses them
"""

import base64
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ProfileNotFound,
)
from botocore.parsers import ResponseParserError

from halftone.checkpoint.digests import file_sha256
from halftone.spec.artifacts import Artifact
from halftone.spec.documents import WrittenFile
from halftone.spec.errors import HalftoneError, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.reports import Verdict
from halftone.stores.s3_checksums import (
    MAX_PARTS,
    PART_BYTES,
    of_object,
    of_part,
    of_parts,
    part_bytes,
)
from halftone.stores.s3_folder import Folder, Part, Stored, Upload
from halftone.stores.s3_layout import folder_of, is_folder, understood
from halftone.stores.s3_upload import ArtifactUpload
from halftone.stores.s3_writing import PreconditionError, UploadGoneError, translated

URI = "s3://models/team/base"


def test_an_object_of_one_piece_has_its_sha256_in_base64() -> None:
    digest = hashlib.sha256(b"weights")
    assert base64.b64decode(of_object(digest.hexdigest())) == digest.digest()


def test_a_part_has_its_crc_in_base64() -> None:
    assert base64.b64decode(of_part(b"123456789")).hex() == "cbf43926"  # the standard's own check


def test_an_object_of_parts_has_the_crc_of_their_crcs_and_their_count() -> None:
    parts = [b"one", b"two", b"three"]
    together = zlib.crc32(b"".join(zlib.crc32(part).to_bytes(4, "big") for part in parts))
    encoded = base64.b64encode(together.to_bytes(4, "big")).decode()
    assert of_parts([of_part(part) for part in parts]) == f"{encoded}-3"


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES * MAX_PARTS, 5 * 10**12])
def test_no_file_has_more_parts_than_s3_takes(size: int) -> None:
    part = part_bytes(size)
    assert part >= PART_BYTES
    assert part * MAX_PARTS >= size


def artifact(**changes: Any) -> Artifact:
    fields: dict[str, Any] = {
        "digest": "",
        "uri": URI,
        "revision": None,
        "checkpointDigest": "0123456789abcdef" * 4,
        "planDigest": "a" * 64,
        "reportDigest": "b" * 64,
        "verdict": Verdict.Passed,
        "sizeBytes": 0,
        "signature": None,
        "manifestDigest": "fedcba98" * 8,
        "files": (),
    }
    return Artifact(**{**fields, **changes}).sealed()


def test_a_folder_is_named_by_what_is_in_it() -> None:
    assert folder_of(artifact()) == "0123456789ab-fedcba98"
    assert is_folder(folder_of(artifact()))


@pytest.mark.parametrize(
    "name",
    ["", "0123456789ab", "0123456789ab-fedcba98x", "../0123456789ab", "0123456789ab-fedcba98\n"],
)
def test_other_names_are_no_folders_of_ours(name: str) -> None:
    assert not is_folder(name)


def test_a_document_is_understood_unless_somebody_edited_it() -> None:
    document = artifact().to_bytes()
    assert understood(document) == artifact()
    assert understood(document.replace(b"Passed", b"Failed")) is None
    assert understood(document[:-5]) is None
    assert understood(b'{"kind": "Artifact"}') is None


def answer(status: int, code: str) -> ClientError:
    told: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(told, "PutObject")


@pytest.mark.parametrize(
    ("error", "exit_code", "reason", "words"),
    [
        (answer(400, "ExpiredToken"), 2, Reason.AccessDenied, "have expired; renew them"),
        (answer(403, "ExpiredToken"), 2, Reason.AccessDenied, "have expired; renew them"),
        (answer(403, "AccessDenied"), 2, Reason.AccessDenied, "(AccessDenied); give credentials"),
        (answer(400, "InvalidToken"), 2, Reason.AccessDenied, "give credentials"),
        (NoCredentialsError(), 2, Reason.AccessDenied, "set AWS_ACCESS_KEY_ID"),
        (ProfileNotFound(profile="x"), 2, Reason.AccessDenied, "or AWS_PROFILE"),
        (answer(403, "QuotaExceeded"), 3, Reason.QuotaExceeded, "`halftone gc` lists"),
        (answer(507, "InsufficientStorage"), 3, Reason.QuotaExceeded, "no room"),
        (answer(404, "NoSuchBucket"), 2, Reason.InvalidJob, "no bucket `models`; create it"),
        (answer(409, "ObjectParentIsFile"), 2, Reason.TargetOccupied, "choose another prefix"),
        (answer(503, "SlowDown"), 3, Reason.StoreUnavailable, "answered 503 (SlowDown)"),
        (answer(400, "BadDigest"), 3, Reason.StoreUnavailable, "answered 400 (BadDigest)"),
        (ResponseParserError("<html>"), 3, Reason.StoreUnavailable, "ResponseParserError"),
        (
            EndpointConnectionError(endpoint_url="http://user:password@host"),
            3,
            Reason.StoreUnavailable,
            "check the network and AWS_ENDPOINT_URL",
        ),
    ],
    ids=str,
)
def test_every_answer_ends_in_one_sentence_with_a_way_out(
    error: Exception, exit_code: int, reason: Reason, words: str
) -> None:
    with pytest.raises(HalftoneError) as caught, translated(URI, "config.json"):
        raise error
    assert (caught.value.exit_code, caught.value.reason) == (exit_code, reason)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "password@" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "news"),
    [
        (answer(412, "PreconditionFailed"), PreconditionError),
        (answer(409, "ConditionalRequestConflict"), PreconditionError),
        (answer(404, "NoSuchUpload"), UploadGoneError),
    ],
)
def test_news_about_others_are_no_faults(error: ClientError, news: type[Exception]) -> None:
    with pytest.raises(news), translated(URI):
        raise error


@dataclass(frozen=True)
class Forgetful(Folder):
    """A folder of a store that takes parts and keeps no checksum of them."""

    sizes: dict[int, int] = field(default_factory=dict)

    def objects(self) -> Iterator[Stored]:
        return iter(())

    def uploads(self, path: str = "") -> list[Upload]:
        return []

    def begin(self, path: str) -> str:
        return "upload"

    def put_part(self, path: str, upload: str, number: int, data: bytearray, checksum: str) -> None:
        self.sizes[number] = len(data)

    def parts(self, path: str, upload: str) -> dict[int, Part]:
        now = datetime.now(UTC)
        return {n: Part(n, size, "etag", None, now) for n, size in self.sizes.items()}


def test_a_store_that_keeps_no_checksum_of_parts_is_unsafe(tmp_path: Path) -> None:
    shard = tmp_path / "model.safetensors"
    with shard.open("wb") as sparse:
        sparse.truncate(PART_BYTES + 1)
    size, digest = PART_BYTES + 1, file_sha256(shard)
    client: Any = None  # every verb of the folder is the test's own
    folder = Forgetful(client, "models", "team/base/")

    with pytest.raises(RefusedInput, match="does not keep the checksum") as caught:
        ArtifactUpload(folder, tmp_path, lambda nbytes: None).run(
            [WrittenFile(path=shard.name, sizeBytes=size, sha256=digest)]
        )
    assert caught.value.reason is Reason.TargetUnsafe
