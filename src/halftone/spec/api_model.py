"""What every part of the API is made of: strict frozen models and bounded strings.

Called by the modules that mirror the blocks of a `QuantizationJob` (design §4).
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

ShortText = Annotated[str, Field(min_length=1, max_length=253)]
# Linux allows any character in a path but NUL.
FilePath = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
# The API has no floats: a measured or limiting value is written as a decimal in a string.
DecimalText = Annotated[str, Field(pattern=r"^[0-9]{1,6}(\.[0-9]{1,12})?$")]
Percent = Annotated[int, Field(ge=0, le=100)]
S3Uri = Annotated[str, Field(pattern=r"^s3://[^/]+/?.*$", max_length=1024)]
HttpUrl = Annotated[str, Field(pattern=r"^https?://", max_length=1024)]


class ApiModel(BaseModel):
    """Strict and frozen: an unknown field is an error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretKeyRef(ApiModel):
    """A key of a Secret in the job's namespace.

    A runner in the cluster mounts it; on a laptop the same secret comes from the environment.
    """

    name: ShortText
    key: ShortText
