"""A checkpoint under a prefix of an S3 bucket, read by ranged GETs.

Opened by `halftone.stores.opening`, which imports this module, and with it boto3, only for `s3://`.
Each object's ETag is taken from the listing and sent with every GET, so an object that is replaced
meanwhile is refused instead of being mixed with its predecessor. Credentials, region and
`AWS_ENDPOINT_URL` are boto3's business and never appear in a message.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    ResponseStreamingError,
    TokenRetrievalError,
)

from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.files import FileEntry
from halftone.spec.names import Reason
from halftone.stores.patience import WAITS, CutShortError, patiently
from halftone.stores.pinned import MAX_FILES, PinnedSource, named

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_URI: Final = re.compile(r"^s3://([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])(?:/+(.*?))?/*$")
# botocore's own default of three gives up within two seconds.
_ATTEMPTS: Final = 6
_CONNECTIONS: Final = 32
# The first that is set counts, as botocore has it.
_ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
# The body broke off. Errors before the body have been retried by botocore already.
_BROKEN_BODY: Final = (ReadTimeoutError, ResponseStreamingError, IncompleteReadError, CutShortError)
_UNKNOWN_TO_THE_STORE: Final = (
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)


class S3Source(PinnedSource):
    """The objects below `s3://bucket/prefix`. boto3's client may be shared by threads."""

    def __init__(
        self, uri: str, endpoint_url: str | None = None, waits: tuple[float, ...] = WAITS
    ) -> None:
        self._bucket, self._prefix = _parsed(uri)
        self._waits = waits
        self._etags: dict[str, str] = {}
        with _translated(uri, uri):
            self._client = _client(endpoint_url)
            entries, pages = self._list()
        super().__init__(uri, _version(self._etags), entries)
        self._count(pages, 0)
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
        pages = 0
        paginator = self._client.get_paginator("list_objects_v2")
        for page in paginator.paginate(Bucket=self._bucket, Prefix=self._prefix):
            pages += 1
            for item in page.get("Contents", ()):
                path = item["Key"].removeprefix(self._prefix)
                if path and not path.endswith("/"):  # consoles mark folders with empty objects
                    entries.append(FileEntry(path, item["Size"]))
                    self._etags[path] = item["ETag"]
            if len(entries) > MAX_FILES:
                break  # enough to refuse
        return entries, pages

    def _fill(self, entry: FileEntry, offset: int, buffer: memoryview) -> None:
        done = 0

        def receive() -> None:
            nonlocal done  # a body that breaks off is taken up where it broke
            for chunk in self._body(entry, offset + done, offset + len(buffer)):
                buffer[done : done + len(chunk)] = chunk
                done += len(chunk)
            if done < len(buffer):
                raise CutShortError

        with _translated(self._uri, entry.path):
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


def _parsed(uri: str) -> tuple[str, str]:
    """Bucket, and prefix with its closing slash ("" for a whole bucket)."""
    match = _URI.match(uri)
    if match is None or not uri.isprintable():
        raise RefusedInput(
            Reason.InvalidJob, uri, f"{uri!r} is no S3 address; write `s3://bucket/prefix`."
        )
    return match[1], f"{match[2]}/" if match[2] else ""


def _version(etags: dict[str, str]) -> str:
    """What stands for a commit in a store that has none: a digest of every object's ETag."""
    listing = "".join(f"{path}\0{etag}\n" for path, etag in sorted(etags.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def _client(endpoint_url: str | None) -> "S3Client":
    """A client with standard retries; credentials come from the environment.

    So does the endpoint, unless `endpoint_url` is given.
    """
    from_environment = filter(None, map(os.environ.get, _ENDPOINT_VARIABLES))
    own_endpoint = endpoint_url or next(from_environment, None)
    # Servers other than Amazon's seldom have a host name for each bucket.
    style: Literal["path", "auto"] = "path" if own_endpoint else "auto"
    config = Config(
        retries={"mode": "standard"}
        if os.environ.get("AWS_MAX_ATTEMPTS")
        else {"mode": "standard", "total_max_attempts": _ATTEMPTS},
        max_pool_connections=_CONNECTIONS,
        connect_timeout=10,
        read_timeout=60,
        response_checksum_validation="when_required",  # a part has no checksum of its own
        s3={"addressing_style": style},
    )
    # A session of our own: the default one is not safe to make clients from in several threads.
    session = boto3.session.Session()
    try:
        return session.client("s3", config=config, endpoint_url=endpoint_url)
    except BotoCoreError:
        raise
    except ValueError as error:  # botocore's only way to say that an endpoint is no address
        raise _unusable_setting(error, endpoint_url) from error


def _unusable_setting(error: ValueError, endpoint_url: str | None) -> RefusedInput:
    """Names who set the endpoint, never the address, which may hold a password."""
    if "endpoint" not in str(error) and "URL" not in str(error):
        return RefusedInput(
            Reason.InvalidJob,
            "AWS_MAX_ATTEMPTS",
            "A setting of AWS is no number where one is needed; correct AWS_MAX_ATTEMPTS, or the "
            "AWS configuration file.",
        )
    of_aws = next(filter(os.environ.get, _ENDPOINT_VARIABLES), "endpoint_url")
    subject = "spec.source.s3.endpointUrl" if endpoint_url else of_aws
    return RefusedInput(
        Reason.InvalidJob,
        subject,
        f"`{subject}` is no address of a server; write it as `https://host:port`, or leave it out "
        "for Amazon's own.",
    )


@contextmanager
def _translated(uri: str, subject: str) -> Iterator[None]:
    """Turn boto3's errors into ours; `subject` is the object's path, or the whole source."""
    try:
        yield
    except ClientError as error:
        raise _refusal(error, uri, subject) from error
    except _UNKNOWN_TO_THE_STORE as error:
        raise RefusedInput(
            Reason.AccessDenied,
            subject,
            f"No usable credentials for `{uri}` were found; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
        ) from error
    except (BotoCoreError, CutShortError) as error:
        raise EnvironmentFault(
            Reason.StoreUnavailable,
            subject,
            f"{named(uri, subject)} could not be read ({type(error).__name__}); check the network "
            "and AWS_ENDPOINT_URL, then run the command again.",
        ) from error


def _refusal(error: ClientError, uri: str, subject: str) -> RefusedInput | EnvironmentFault:
    """What an answer of the store means."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = error.response.get("Error", {}).get("Code", str(status))
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
            f"The store refused {what}; give credentials that may list and read it "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE).",
        )
    return EnvironmentFault(
        Reason.StoreUnavailable,
        subject,
        f"The store answered {status or 'nothing'} for {what}; run the command again later.",
    )
