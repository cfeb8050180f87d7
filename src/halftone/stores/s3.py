"""A checkpoint, or data, under a prefix of an S3 bucket, read by ranged GETs.

Opened by `halftone.stores.opening` and `halftone.stores.datasets`, which import this module, and
with it boto3, only for `s3://`.
Each object's ETag is taken from the listing and sent with every GET, so an object that is replaced
meanwhile is refused instead of being mixed with its predecessor.

Where `halftone publish` put an artifact, the prefix holds an `artifact.json` that names a folder,
and nothing else beside folders; the source is then that folder. Its revision is the digest of the
folder's ETags, as if the folder itself had been named, so it is pinned when it is opened: an
artifact that is published meanwhile lies in another folder and changes nothing here.
"""

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.parsers import ResponseParserError

from halftone.spec.errors import CheckFailed, EnvironmentFault, RefusedInput
from halftone.spec.files import FileEntry
from halftone.spec.names import ARTIFACT_FILE, Reason
from halftone.stores.credentials import Credential
from halftone.stores.patience import WAITS, CutShortError, patiently
from halftone.stores.pinned import CHECKPOINT, Listing, PinnedSource, named
from halftone.stores.s3_client import (
    UNKNOWN_TO_THE_STORE,
    access_by,
    make_client,
    no_credentials,
    parsed,
)
from halftone.stores.s3_layout import MAX_DOCUMENT_BYTES, folder_of, is_folder, understood
from halftone.stores.s3_writing import code_of, status_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# The body broke off. Errors before the body have been retried by botocore already.
_BROKEN_BODY: Final = (ReadTimeoutError, ResponseStreamingError, IncompleteReadError, CutShortError)


class S3Source(PinnedSource):
    """The objects below `s3://bucket/prefix`. boto3's client may be shared by threads.

    `field` is where a job names the endpoint; `credentials` are those that were given for it.
    """

    def __init__(
        self,
        uri: str,
        endpoint_url: str | None = None,
        waits: tuple[float, ...] = WAITS,
        *,
        listing: Listing = CHECKPOINT,
        field: str = "spec.source.s3.endpointUrl",
        credentials: Credential | None = None,
    ) -> None:
        self._bucket, self._prefix = parsed(uri)
        self._waits = waits
        self._listing = listing
        self._etags: dict[str, str] = {}
        self._access = access_by(credentials)
        with _translated(uri, uri, self._access):
            self._client: S3Client = make_client(endpoint_url, field, credentials)
            entries, requests = self._list()
            if listing is CHECKPOINT and _may_be_published(entries):
                folder = self._published_folder(uri)
                if folder is not None:
                    self._prefix += f"{folder}/"
                    entries, pages = self._list()
                    requests += pages
                requests += 1
        super().__init__(uri, _version(self._etags), entries, listing)
        self._count(requests, 0)
        if not entries:
            raise RefusedInput(
                Reason.SourceNotFound,
                uri,
                f"`{uri}` holds no objects; correct the bucket or the prefix.",
            )

    def close(self) -> None:
        """Close the client's connections."""
        self._client.close()

    def _list(self) -> tuple[list[FileEntry], int]:
        """The objects below the prefix, and how many requests that took."""
        entries: list[FileEntry] = []
        self._etags.clear()
        pages = 0
        paginator = self._client.get_paginator("list_objects_v2")
        prefix = self._prefix + (self._listing.only or "")
        for page in paginator.paginate(Bucket=self._bucket, Prefix=prefix):
            pages += 1
            for item in page.get("Contents", ()):
                path = item["Key"].removeprefix(self._prefix)
                # Consoles mark folders with empty objects.
                if path and not path.endswith("/") and self._listing.has(path):
                    entries.append(FileEntry(path, item["Size"]))
                    self._etags[path] = item["ETag"]
            if len(entries) > self._listing.most or (self._listing.only and entries):
                break  # enough to refuse, or all that there is
        return entries, pages

    def _published_folder(self, uri: str) -> str | None:
        """Where the artifact of this name lies; None for a prefix that is no published name.

        Only the folder's own name is taken from the document, so it cannot lead elsewhere, and a
        bucket that was copied to another one reads itself.
        """
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + ARTIFACT_FILE)
        except self._client.exceptions.NoSuchKey:
            return None
        with closing(answer["Body"]) as body:
            artifact = understood(body.read(MAX_DOCUMENT_BYTES))
        folder = artifact.uri.rpartition("/")[2] if artifact else ""
        if artifact is None or not is_folder(folder) or folder != folder_of(artifact):
            raise CheckFailed(
                Reason.DigestDiffers,
                ARTIFACT_FILE,
                f"{named(uri, ARTIFACT_FILE)} is not the document that was published (it does not "
                "have the digest that it states); publish again under another name.",
            )
        return folder

    def _found(self, path: str) -> FileEntry | None:
        self._count(1, 0)
        with _translated(self._uri, path, self._access):
            try:
                found = self._client.head_object(Bucket=self._bucket, Key=self._prefix + path)
            except ClientError as error:
                if status_of(error) == 404:
                    return None
                raise
        self._etags[path] = found["ETag"]
        return FileEntry(path, found["ContentLength"])

    def _fill(self, entry: FileEntry, offset: int, buffer: memoryview) -> None:
        done = 0

        def receive() -> None:
            nonlocal done  # a body that breaks off is taken up where it broke
            for chunk in self._body(entry, offset + done, offset + len(buffer)):
                buffer[done : done + len(chunk)] = chunk
                done += len(chunk)
            if done < len(buffer):
                raise CutShortError

        with _translated(self._uri, entry.path, self._access):
            patiently(
                receive, lambda e, wait: wait if isinstance(e, _BROKEN_BODY) else None, self._waits
            )

    def _body(self, entry: FileEntry, begin: int, end: int) -> Iterator[bytes]:
        """The bytes from `begin` up to `end`, never more, as they come."""
        self._count(1, 0)
        answer = self._client.get_object(
            Bucket=self._bucket,
            Key=self._prefix + entry.path,
            Range=f"bytes={begin}-{end - 1}",
            IfMatch=self._etags[entry.path],
        )
        if answer.get("ContentRange") != f"bytes {begin}-{end - 1}/{entry.size_bytes}":
            self._changed(entry.path, f"its range is now {answer.get('ContentRange')!r}")
        with closing(answer["Body"]) as body:
            while begin < end and (chunk := body.read(min(end - begin, 1 << 20))):
                self._count(0, len(chunk))
                begin += len(chunk)
                yield chunk


def _may_be_published(entries: list[FileEntry]) -> bool:
    """Whether there is nothing but `artifact.json` and folders, as far as was listed."""
    here = {entry.path for entry in entries if "/" not in entry.path}
    return here == {ARTIFACT_FILE} or (not here and len(entries) > CHECKPOINT.most)


def _version(etags: dict[str, str]) -> str:
    """What stands for a commit in a store that has none: a digest of every object's ETag."""
    listing = "".join(f"{path}\0{etag}\n" for path, etag in sorted(etags.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


@contextmanager
def _translated(uri: str, subject: str, access: str) -> Iterator[None]:
    """Turn boto3's errors into ours; `subject` is the object's path, or the whole source.

    `access` says where the credentials are.
    """
    try:
        yield
    except ClientError as error:
        raise _refusal(error, uri, subject, access) from error
    except UNKNOWN_TO_THE_STORE as error:
        raise no_credentials(uri, subject) from error
    except (BotoCoreError, ResponseParserError, CutShortError) as error:
        raise EnvironmentFault(
            Reason.StoreUnavailable,
            subject,
            f"{named(uri, subject)} could not be read ({type(error).__name__}); check the network "
            "and AWS_ENDPOINT_URL, then run the command again.",
        ) from None  # botocore's words repeat the endpoint, and with it any password


def _refusal(
    error: ClientError, uri: str, subject: str, access: str
) -> RefusedInput | EnvironmentFault:
    """What an answer of the store means."""
    status, code = status_of(error), code_of(error)
    what = named(uri, subject)
    if status in (412, 416):
        return RefusedInput(
            Reason.SourceChanged,
            subject,
            f"{what} changed after it was listed; start again once nothing writes to the source.",
        )
    if status == 404:
        return RefusedInput(
            Reason.SourceNotFound,
            subject,
            f"The store has no {what}; correct the bucket, the prefix or the region.",
        )
    if status in (401, 403) or code in ("ExpiredToken", "InvalidToken", "AuthFailure"):
        return RefusedInput(
            Reason.AccessDenied,
            subject,
            f"The store refused {what}; give credentials that may list and read it ({access}).",
        )
    return EnvironmentFault(
        Reason.StoreUnavailable,
        subject,
        f"The store answered {status or 'nothing'} for {what}; run the command again later.",
    )
