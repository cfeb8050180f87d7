"""The `publish` block of a job: where the artifact goes, and what may happen to what is there."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from halftone.spec.api_model import (
    ApiModel,
    FilePath,
    ObjectName,
    S3Place,
    SecretKeyRef,
)


def _allowed_by_the_hub(repository: str) -> str:
    if "--" in repository or ".." in repository or repository.endswith(".git"):
        raise ValueError("must not hold '--' or '..', nor end with '.git'")
    return repository


_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
HubRepository = Annotated[
    str,
    Field(pattern=rf"^{_NAME}/{_NAME}$", max_length=253),
    AfterValidator(_allowed_by_the_hub),
]


class Visibility(StrEnum):
    """Who may see a repository on the Hub."""

    Private = "Private"
    Public = "Public"


class Transfer(StrEnum):
    """How files reach the Hub. `Lfs` is the path that is tested here."""

    Lfs = "Lfs"
    Xet = "Xet"


class Existing(StrEnum):
    """What happens to another artifact under the same name."""

    Refuse = "Refuse"
    Replace = "Replace"  # the former stays reachable by its digest


class LicenceConsent(StrEnum):
    """Whether somebody has read a licence that restricts publishing."""

    Inherit = "Inherit"
    Acknowledged = "Acknowledged"


class HuggingFaceTarget(ApiModel):
    """A repository on the Hub; private unless asked otherwise.

    In the cluster only pods under the publisher's account get the token.
    """

    repository: HubRepository
    visibility: Visibility = Visibility.Private
    transfer: Transfer = Transfer.Lfs
    tokenSecretRef: SecretKeyRef | None = None


class S3Target(S3Place):
    """A prefix in a bucket, on any server that speaks S3 and honours `If-None-Match`."""


class DirectoryTarget(ApiModel):
    """A directory that becomes the artifact; relative paths start at the job file.

    In the cluster `path` lies in the claim.
    """

    path: FilePath
    claimName: ObjectName | None = None


class SigningKeyRef(ApiModel):
    """The private key: a key of a Secret (in the cluster), or a file (on a laptop).

    Only pods under the publisher's account get it.
    """

    secret: SecretKeyRef | None = None
    path: FilePath | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.secret is None) == (self.path is None):
            raise ValueError("exactly one of `secret` and `path` must be set")
        return self


class Publish(ApiModel):
    """Exactly one target, and the terms."""

    huggingFace: HuggingFaceTarget | None = None
    s3: S3Target | None = None
    directory: DirectoryTarget | None = None
    existing: Existing = Existing.Refuse
    signingKeyRef: SigningKeyRef | None = None
    licence: LicenceConsent = LicenceConsent.Inherit

    @model_validator(mode="after")
    def _exactly_one_target(self) -> Self:
        if [self.huggingFace, self.s3, self.directory].count(None) != 2:
            raise ValueError("exactly one of `huggingFace`, `s3` and `directory` must be set")
        return self

    @property
    def uri(self) -> str:
        """The target as a user would type it: `hf://…`, `s3://…` or a path."""
        if self.huggingFace is not None:
            return f"hf://{self.huggingFace.repository}"
        if self.s3 is not None:
            return self.s3.uri
        assert self.directory is not None
        return self.directory.path
