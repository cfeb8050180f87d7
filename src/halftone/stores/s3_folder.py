"""One folder of a bucket and what publishing does with it, as verbs that speak our errors.

Used by `s3_upload`, which fills it, and by `s3_target` and `s3_leftovers`. A path is relative to
the folder. Safe to use from several threads, as boto3's client is.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from halftone.stores.credentials import Credential
from halftone.stores.s3_client import AMBIENT, access_by, make_client, parsed
from halftone.stores.s3_layout import MAX_DOCUMENT_BYTES
from halftone.stores.s3_writing import is_garbled, is_in_the_way, sent, status_of, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# As many keys as one request may delete.
_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a multipart upload as the store has it."""

    number: int
    size_bytes: int
    etag: str
    checksum: str | None
    modified: datetime


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was begun and not ended."""

    path: str
    id: str
    begun: datetime


@dataclass(frozen=True, slots=True)
class Stored:
    """An object."""

    path: str
    size_bytes: int
    modified: datetime


@dataclass(frozen=True)
class Folder:
    """`s3://bucket/prefix`; `prefix` ends with a slash, or is empty for a whole bucket.

    `access` says where the client has its credentials from.
    """

    client: "S3Client"
    bucket: str
    prefix: str
    access: str = AMBIENT

    @classmethod
    def to_write(
        cls, uri: str, endpoint_url: str | None, credentials: Credential | None
    ) -> "Folder":
        """The folder `uri` with a client of its own. Raises as `translated` does."""
        bucket, prefix = parsed(uri)
        access = access_by(credentials)
        with translated(uri, access=access):
            client = make_client(endpoint_url, "publish.s3.endpointUrl", credentials)
        return cls(client, bucket, prefix, access)

    @property
    def uri(self) -> str:
        """How a user would name it."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def _translated(self, path: str | None = None) -> AbstractContextManager[None]:
        return translated(self.uri, path, self.access)

    def clock(self) -> datetime:
        """What time it is for the store, whose times all others are compared with."""
        with self._translated():
            answer = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)
        told = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return parsedate_to_datetime(told) if told else datetime.now(UTC)

    def below(self, name: str) -> "Folder":
        """The folder `name` in this one."""
        return replace(self, prefix=f"{self.prefix}{name}/")

    def objects(self) -> Iterator[Stored]:
        """Every object below."""
        with self._translated():
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
                for item in page.get("Contents", ()):
                    path = item["Key"].removeprefix(self.prefix)
                    yield Stored(path, item["Size"], item["LastModified"])

    def level(self) -> tuple[list[Stored], list[str]]:
        """The objects that lie here, and the names of the folders."""
        objects: list[Stored] = []
        folders: list[str] = []
        with self._translated():
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix, Delimiter="/"):
                for item in page.get("Contents", ()):
                    path = item["Key"].removeprefix(self.prefix)
                    if path:  # consoles mark folders with empty objects
                        objects.append(Stored(path, item["Size"], item["LastModified"]))
                names = (common["Prefix"] for common in page.get("CommonPrefixes", ()))
                folders += [name.removeprefix(self.prefix).rstrip("/") for name in names]
        return objects, folders

    def read(self, path: str) -> tuple[bytes, str] | None:
        """Content and ETag of a document, None when it is not there; cut where it is too long."""
        with self._translated(path):
            try:
                answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + path)
            except self.client.exceptions.NoSuchKey:
                return None
            with closing(answer["Body"]) as body:
                return body.read(MAX_DOCUMENT_BYTES), answer["ETag"]

    def checksum(self, path: str) -> str | None:
        """What the store keeps of an object, in the words of `s3_checksums`; None without any."""
        with self._translated(path):
            try:
                answer = self.client.head_object(
                    Bucket=self.bucket, Key=self.prefix + path, ChecksumMode="ENABLED"
                )
            except ClientError as error:
                if status_of(error) == 404:
                    return None
                raise
        return answer.get("ChecksumSHA256") or answer.get("ChecksumCRC32")

    def put(self, path: str, data: bytes | bytearray, checksum: str, **condition: str) -> None:
        """Write an object in one piece; `condition` is `IfMatch` or `IfNoneMatch`.

        Raises PreconditionError when the condition does not hold.
        """
        where: Any = {"Bucket": self.bucket, "Key": self.prefix + path, **condition}
        where |= {"Body": data, "ChecksumSHA256": checksum}
        with self._translated(path):
            sent(lambda: self.client.put_object(**where), _passes)

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""
        for begin in range(0, len(paths), _BATCH):
            keys: Any = [{"Key": self.prefix + path} for path in paths[begin : begin + _BATCH]]
            with self._translated():
                answer = self.client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": keys, "Quiet": True}
                )
                for error in answer.get("Errors", ()):
                    told: Any = {"Error": error}
                    raise ClientError(told, "DeleteObjects")

    def uploads(self, path: str = "") -> list[Upload]:
        """Multipart uploads below, or of one object, oldest first.

        MinIO lists them only where a whole key is asked for.
        """
        found: list[Upload] = []
        with self._translated():
            pages = self.client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + path):
                for item in page.get("Uploads", ()):
                    name = item["Key"].removeprefix(self.prefix)
                    if path in ("", name):
                        found.append(Upload(name, item["UploadId"], item["Initiated"]))
        return sorted(found, key=lambda upload: upload.begun)

    def begin(self, path: str) -> str:
        """Begin a multipart upload and give its id."""
        with self._translated(path):
            return self.client.create_multipart_upload(
                Bucket=self.bucket, Key=self.prefix + path, ChecksumAlgorithm="CRC32"
            )["UploadId"]

    def parts(self, path: str, upload: str) -> dict[int, Part]:
        """The parts that have arrived, by number. Raises UploadGoneError."""
        found: dict[int, Part] = {}
        where: Any = {"Bucket": self.bucket, "Key": self.prefix + path, "UploadId": upload}
        with self._translated(path):
            for page in self.client.get_paginator("list_parts").paginate(**where):
                for item in page.get("Parts", ()):
                    found[item["PartNumber"]] = Part(
                        item["PartNumber"],
                        item["Size"],
                        item["ETag"],
                        item.get("ChecksumCRC32"),
                        item["LastModified"],
                    )
        return found

    def put_part(self, path: str, upload: str, number: int, data: bytearray, checksum: str) -> None:
        """Send one part. Raises UploadGoneError."""
        where: Any = {"Bucket": self.bucket, "Key": self.prefix + path, "UploadId": upload}
        where |= {"PartNumber": number, "Body": data, "ChecksumCRC32": checksum}
        with self._translated(path):
            sent(lambda: self.client.upload_part(**where), _passes)

    def complete(self, path: str, upload: str, parts: Sequence[Part], checksum: str) -> None:
        """Make one object of `parts`; the store compares `checksum`. Raises UploadGoneError."""
        wanted: Any = [
            {"PartNumber": part.number, "ETag": part.etag, "ChecksumCRC32": part.checksum}
            for part in parts
        ]
        where: Any = {"Bucket": self.bucket, "Key": self.prefix + path, "UploadId": upload}
        with self._translated(path):
            sent(
                lambda: self.client.complete_multipart_upload(
                    MultipartUpload={"Parts": wanted}, ChecksumCRC32=checksum, **where
                ),
                _passes,
            )

    def abort(self, path: str, upload: str) -> None:
        """Give an upload up with all its parts; one that is gone already is no error."""
        where: Any = {"Bucket": self.bucket, "Key": self.prefix + path, "UploadId": upload}
        with self._translated(path):
            try:
                self.client.abort_multipart_upload(**where)
            except self.client.exceptions.NoSuchUpload:
                return


def _passes(error: ClientError) -> bool:
    return is_garbled(error) or is_in_the_way(error)
