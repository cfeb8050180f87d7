"""Finds out whether an S3 server keeps the promises that publishing rests on.

Called by `halftone.stores.s3_target`, before hours of work and once more before an upload. A server
that ignores `If-None-Match` answers 200 as if it had heard, so the only way to know is to try.
"""

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from halftone.spec.documents import sha256_hex
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.stores.s3_checksums import of_object
from halftone.stores.s3_client import AMBIENT
from halftone.stores.s3_layout import PROBES
from halftone.stores.s3_writing import (
    FIELD,
    is_garbled,
    is_in_the_way,
    is_precondition,
    sent,
    status_of,
    translated,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_BODY: Final = b"halftone asks what this server does\n"
_SUM: Final = of_object(sha256_hex(_BODY))
_OTHER_SUM: Final = of_object(sha256_hex(b""))
_BAD_DIGEST, _PRECONDITION, _NOT_IMPLEMENTED = 400, 412, 501
_NO_ETAG: Final = f'"{"0" * 32}"'


def refuse_unsafe(
    client: "S3Client",
    bucket: str,
    prefix: str,
    uri: str,
    *,
    replacing: bool,
    access: str = AMBIENT,
) -> None:
    """Write below `prefix`, and look; `replacing`: whether `If-Match` will be needed too.

    Raises RefusedInput(TargetUnsafe) for a server that lets a second writer win, or that does not
    check and keep SHA-256; what `translated` raises where writing fails. Leaves nothing behind.
    """
    key = f"{prefix}{PROBES}{uuid.uuid4().hex}"

    def put(checksum: str, condition: dict[str, str] | None = None) -> int:
        where: Any = {"Bucket": bucket, "Key": key, **(condition or {})}
        return _status(client.put_object, Body=_BODY, ChecksumSHA256=checksum, **where)

    with translated(uri, access=access):
        try:
            if put(_OTHER_SUM) != _BAD_DIGEST:
                raise _unsafe(uri, "takes objects whose SHA-256 is wrong")
            if put(_SUM, {"IfNoneMatch": "*"}) == _NOT_IMPLEMENTED:
                raise _unsafe(uri, "does not know `If-None-Match`")
            if put(_SUM, {"IfNoneMatch": "*"}) != _PRECONDITION:
                raise _unsafe(uri, "ignores `If-None-Match`, so two publishers could both win")
            if replacing and put(_SUM, {"IfMatch": _NO_ETAG}) != _PRECONDITION:
                raise _unsafe(uri, "ignores `If-Match`, so an artifact cannot be replaced safely")
            kept = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
            if kept.get("ChecksumSHA256") != _SUM:
                raise _unsafe(uri, "does not keep the SHA-256 of its objects")
        finally:
            client.delete_object(Bucket=bucket, Key=key)


def _status(write: Callable[..., Any], **request: Any) -> int:
    """200, or one of the refusals that a probe provokes; anything else is raised."""
    try:
        sent(lambda: write(**request), is_in_the_way)
    except ClientError as error:
        if is_precondition(error):
            return _PRECONDITION
        if is_garbled(error):
            return _BAD_DIGEST
        if status_of(error) == _NOT_IMPLEMENTED:
            return _NOT_IMPLEMENTED
        raise
    return 200


def _unsafe(uri: str, how: str) -> RefusedInput:
    return RefusedInput(
        Reason.TargetUnsafe,
        FIELD,
        f"The server of `{uri}` {how}; publish to a server that honours conditional writes and "
        "checksums, or to a directory or the Hub.",
    )
