"""What reading from S3 and writing to it share: addresses, and a client.

Called by the S3 modules of this room. Region, `AWS_ENDPOINT_URL` and credentials that nobody gave
us are boto3's business; nothing here, and no message, holds them.
"""

import os
import re
from configparser import ConfigParser
from configparser import Error as ConfigError
from typing import TYPE_CHECKING, Final, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)

from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.stores.credentials import Credential

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_URI: Final = re.compile(r"^s3://([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])(?:/+(.*?))?/*$")
# botocore's own default of three gives up within two seconds.
_ATTEMPTS: Final = 6
_CONNECTIONS: Final = 32
# The first that is set counts, as botocore has it.
_ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
# What is read of a profile.
_KEYS: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "region")
# Where credentials come from that nobody gave us.
AMBIENT: Final = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
# What boto3 raises before it has asked anybody.
UNKNOWN_TO_THE_STORE: Final = (
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)


def no_credentials(uri: str, subject: str) -> RefusedInput:
    """Nobody gave us any, and none of `UNKNOWN_TO_THE_STORE` found some."""
    return RefusedInput(
        Reason.AccessDenied,
        subject,
        f"No usable credentials for `{uri}` were found; set {AMBIENT}.",
    )


def parsed(uri: str) -> tuple[str, str]:
    """Bucket, and prefix with its closing slash ("" for a whole bucket)."""
    match = _URI.match(uri)
    if match is None or not uri.isprintable():
        raise RefusedInput(
            Reason.InvalidJob, uri, f"{uri!r} is no S3 address; write `s3://bucket/prefix`."
        )
    return match[1], f"{match[2]}/" if match[2] else ""


def access_by(credentials: Credential | None) -> str:
    """Where a client has its credentials from, in brackets behind a word about them."""
    return AMBIENT if credentials is None else f"in {credentials.place}"


def make_client(
    endpoint_url: str | None, field: str, credentials: Credential | None = None
) -> "S3Client":
    """A client with standard retries.

    `credentials` hold the text of an AWS credentials file; without any they come from the
    environment. So does the endpoint, unless `endpoint_url` is given, which stands in `field` of
    the job. Raises RefusedInput(InvalidJob) for an endpoint that is no address,
    RefusedInput(AccessDenied) for a text that is no such file, BotoCoreError.
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
        # Every body that we send has its SHA-256 in a signed header, which the server checks.
        # Over TLS botocore leaves out the second pass by itself.
        s3={"addressing_style": style, "payload_signing_enabled": False},
    )
    # A session of our own: the default one is not safe to make clients from in several threads.
    keys = _keys(credentials) if credentials else {}
    session = boto3.session.Session(
        aws_access_key_id=keys.get("aws_access_key_id"),
        aws_secret_access_key=keys.get("aws_secret_access_key"),
        aws_session_token=keys.get("aws_session_token"),
        region_name=keys.get("region"),
    )
    try:
        return session.client("s3", config=config, endpoint_url=endpoint_url)
    except BotoCoreError:
        raise
    except ValueError as error:  # botocore's only way to say that an endpoint is no address
        # Without its cause, which repeats the address and with it any password.
        raise _unusable_setting(error, field if endpoint_url else None) from None


def _keys(credentials: Credential) -> dict[str, str]:
    """What a session takes of the profile `default`, or of the only one.

    Raises RefusedInput(AccessDenied) for anything else; no message holds a word of it.
    """
    parser = ConfigParser(interpolation=None)
    try:
        parser.read_string(credentials.text)
        sections = parser.sections()
        if "default" in sections or len(sections) == 1:
            profile = parser["default" if "default" in sections else sections[0]]
            found = {key: profile[key] for key in _KEYS if profile.get(key)}
            if {"aws_access_key_id", "aws_secret_access_key"} <= found.keys():
                return found
    except ConfigError:  # its words repeat the line
        pass
    raise credentials.refused(
        "is no text of an AWS credentials file",
        "a section `[default]` with `aws_access_key_id` and `aws_secret_access_key`",
    ) from None


def _unusable_setting(error: ValueError, field: str | None) -> RefusedInput:
    """Names who set the endpoint, never the address, which may hold a password."""
    if "endpoint" not in str(error) and "URL" not in str(error):
        return RefusedInput(
            Reason.InvalidJob,
            "AWS_MAX_ATTEMPTS",
            "A setting of AWS is no number where one is needed; correct AWS_MAX_ATTEMPTS, or the "
            "AWS configuration file.",
        )
    of_aws = next(filter(os.environ.get, _ENDPOINT_VARIABLES), "endpoint_url")
    subject = field or of_aws
    return RefusedInput(
        Reason.InvalidJob,
        subject,
        f"`{subject}` is no address of a server; write it as `https://host:port`, or leave it out "
        "for Amazon's own.",
    )
