"""What an S3 server's answer means for whoever writes to it, in sentences.

Used by the modules that publish to S3; `s3`, which reads, shares its words for answers. Two of them
are no faults but news, and have an error of their own that those modules expect; everything else
becomes ours at this border.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason
from halftone.stores.patience import WAITS, patiently
from halftone.stores.pinned import named
from halftone.stores.s3_client import AMBIENT, UNKNOWN_TO_THE_STORE, no_credentials

FIELD: Final = "publish.s3.uri"
# By the store's error code: credentials that were right once, ...
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
# ... are wrong, or not enough, ...
_DENIED: Final = frozenset({"AccessDenied", "AuthFailure", "InvalidToken", "InvalidAccessKeyId"})
# ... no room (names of Amazon, Ceph, MinIO and versitygw), ...
_FULL: Final = frozenset(
    {
        "InsufficientStorage",
        "NoSpaceLeftOnDevice",
        "QuotaExceeded",
        "XMinioAdminBucketQuotaExceeded",
        "XMinioStorageFull",
    }
)
# ... an object where a folder is needed, or the other way round.
_IN_THE_WAY: Final = frozenset(
    {"ExistingObjectIsDirectory", "ObjectParentIsFile", "XMinioParentIsObject"}
)

# What boto3 does not try again, but may well pass, is sent again this often.
_MORE_WAITS: Final = WAITS[:2]

Answer = TypeVar("Answer")


class PreconditionError(Exception):
    """A conditional write did not find what it asked for: somebody else was faster."""


class UploadGoneError(Exception):
    """A multipart upload was completed or aborted by somebody else."""


def code_of(error: ClientError) -> str:
    """The store's word for an error, or the status where it has none."""
    return error.response.get("Error", {}).get("Code") or str(status_of(error))


def status_of(error: ClientError) -> int:
    """The HTTP status; 0 where there was none."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def is_precondition(error: ClientError) -> bool:
    """Whether a conditional write did not find what it asked for, or lost a race."""
    codes = {"PreconditionFailed", "ConditionalRequestConflict"}
    return status_of(error) == 412 or code_of(error) in codes


def is_garbled(error: ClientError) -> bool:
    """Whether the bytes that arrived did not have the checksum that came with them."""
    return code_of(error) in {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"}


def is_in_the_way(error: ClientError) -> bool:
    """Whether an object lies where a folder is needed, or the other way round.

    versitygw says so too when another client's deletion takes an empty folder away while this write
    makes one below it, so it is to be believed only when it is said again.
    """
    return code_of(error) in _IN_THE_WAY


def sent(send: Callable[[], Answer], passes: Callable[[ClientError], bool]) -> Answer:
    """What `send` returns, tried again after errors of which `passes` says that they may pass.

    boto3 has tried again for the reasons that it knows.
    """

    def pause(error: Exception, wait: float) -> float | None:
        return wait if isinstance(error, ClientError) and passes(error) else None

    return patiently(send, pause, _MORE_WAITS)


def is_gone(error: ClientError) -> bool:
    """Whether a multipart upload was completed or aborted by somebody else."""
    return code_of(error) == "NoSuchUpload"


@contextmanager
def translated(uri: str, subject: str | None = None, access: str = AMBIENT) -> Iterator[None]:
    """Turn boto3's errors into ours; `subject` is a file of the artifact, or all of `uri`.

    `access` says where the credentials are.
    """
    what = named(uri, subject or uri)
    try:
        yield
    except ClientError as error:
        if is_precondition(error):
            raise PreconditionError from error
        if is_gone(error):
            raise UploadGoneError from error
        raise _refusal(error, uri, what, access) from error
    except UNKNOWN_TO_THE_STORE as error:
        raise no_credentials(uri, FIELD) from error
    except (BotoCoreError, Boto3Error, ResponseParserError) as error:
        raise EnvironmentFault(
            Reason.StoreUnavailable,
            FIELD,
            f"{what} could not be read or written ({type(error).__name__}); check the network and "
            "AWS_ENDPOINT_URL, then run the same command again: it goes on where it stopped.",
        ) from None  # botocore's words repeat the endpoint, and with it any password


def _refusal(
    error: ClientError, uri: str, what: str, access: str
) -> RefusedInput | EnvironmentFault:
    code, status = code_of(error), status_of(error)
    if code in _EXPIRED:
        return RefusedInput(
            Reason.AccessDenied,
            FIELD,
            f"The credentials for `{uri}` ({access}) have expired; renew them and run the same "
            "command again: it goes on where it stopped.",
        )
    if code in _FULL or status == 507:
        return EnvironmentFault(
            Reason.QuotaExceeded,
            FIELD,
            f"The store has no room for {what}, or allows no more ({code}); make room (`halftone "
            "gc` lists what may go), then run the same command again.",
        )
    if code == "NoSuchBucket" or (status == 404 and code == "404"):
        bucket = uri.removeprefix("s3://").partition("/")[0]
        return RefusedInput(
            Reason.InvalidJob,
            FIELD,
            f"The store has no bucket `{bucket}`; create it, or correct `{FIELD}` or the region.",
        )
    if is_in_the_way(error):
        return RefusedInput(
            Reason.TargetOccupied,
            FIELD,
            f"{what} cannot be written, because an object lies where a folder is needed; choose "
            "another prefix.",
        )
    if status in (401, 403) or code in _DENIED:
        return RefusedInput(
            Reason.AccessDenied,
            FIELD,
            f"The store refused {what} ({code}); give credentials that may list, read, write and "
            f"delete there ({access}).",
        )
    return EnvironmentFault(
        Reason.StoreUnavailable,
        FIELD,
        f"The store answered {status or 'nothing'} ({code}) for {what}; run the same command "
        "again later: it goes on where it stopped.",
    )
