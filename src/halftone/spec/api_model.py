"""What every part of the API is made of: strict frozen models and bounded strings.

Called by the modules that mirror the blocks of a `QuantizationJob` (design §4).
"""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt


def _without_credentials(url: str) -> str:
    """Documents are kept and published, so an address with a password in it is refused."""
    if "@" in urlsplit(url).netloc:
        raise ValueError(
            "must hold no user name and no password; credentials come from the environment"
        )
    return url


ShortText = Annotated[str, Field(min_length=1, max_length=253)]
# A name of a Kubernetes object that becomes part of a path or an address (RFC 1123 subdomain).
ObjectName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        min_length=1,
        max_length=253,
    ),
]
# Linux allows any character in a path but NUL.
FilePath = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
# The API has no floats: a measured or limiting value is written as a decimal in a string.
DecimalText = Annotated[str, Field(pattern=r"^[0-9]{1,6}(\.[0-9]{1,12})?$", max_length=19)]
# Numbers are strict, as they are to the API server: a number in quotes is a string.
Percent = Annotated[StrictInt, Field(ge=0, le=100)]
S3Uri = Annotated[str, Field(pattern=r"^s3://[^/]+/?.*$", max_length=1024)]
HttpUrl = Annotated[
    str, Field(pattern=r"^https?://", max_length=1024), AfterValidator(_without_credentials)
]


class ApiModel(BaseModel):
    """Strict and frozen: an unknown field is an error that names it."""

    # pydantic's own text would repeat a value, which may be a password in the wrong place.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SecretKeyRef(ApiModel):
    """A key of a Secret in the job's namespace.

    Of a bucket it holds the text of an AWS credentials file (a section `[default]`), of the Hub a
    token, of a signing key its PEM. A pod gets it as a variable of its environment; on a laptop the
    same secret comes from where its library looks for it.
    """

    name: ObjectName
    # A key may not begin with two dots, nor be one.
    key: Annotated[
        str, Field(pattern=r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$", min_length=1, max_length=253)
    ]


class S3Place(ApiModel):
    """Where something lies in a bucket, and what opens it."""

    uri: S3Uri
    endpointUrl: HttpUrl | None = None
    credentialsSecretRef: SecretKeyRef | None = None
