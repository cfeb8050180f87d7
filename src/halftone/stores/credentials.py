"""Credentials that a runner gave to a pod: one for each use, so that none serves two ends.

Called by whatever opens a store for a job, and for the key that signs. The job names a Secret, the
pod's environment holds the text of one key of it, and nothing else: no text is in a message, in a
representation or in a document. Where a process was given none, as on a laptop, the libraries look
for their own.
"""

import dataclasses
import os
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from halftone.spec.api_model import SecretKeyRef
from halftone.spec.errors import RefusedInput
from halftone.spec.names import CREDENTIALS_PREFIX, Reason

# Of a file of credentials, what is shorter is no secret but a word that occurs elsewhere too.
_SHORTEST_SECRET: Final = 8


class GivenFor(StrEnum):
    """What a credential is for; the end of its variable's name."""

    Source = "SOURCE"
    Dataset = "DATASET"
    Work = "WORK"
    Publish = "PUBLISH"
    SigningKey = "SIGNING_KEY"


@dataclasses.dataclass(frozen=True)
class Credential:
    """The `text` of the key `key` of the Secret `name`, which the job's `field` names."""

    field: str
    name: str
    key: str
    text: str = dataclasses.field(repr=False)

    @property
    def place(self) -> str:
        """How a message speaks of it."""
        return f"the key '{self.key}' of the Secret '{self.name}'"

    @property
    def token(self) -> str:
        """The one line that it holds, as a token. Raises RefusedInput(AccessDenied) if it is none.

        The line feed that an editor left behind it is no part of it.
        """
        found = self.text.strip()
        if not found.isascii() or not found.isprintable() or " " in found:
            raise self.refused("is no token", "a token of the Hub, and nothing beside it")
        return found

    def refused(self, flaw: str, wanted: str) -> RefusedInput:
        """What to raise for a text that is not what it should be; it is not repeated."""
        return RefusedInput(
            Reason.AccessDenied,
            self.field,
            f"{self.place[0].upper()}{self.place[1:]}, which `{self.field}` names, {flaw}; write "
            f"{wanted} into it, and set another value of the annotation `halftone.dev/retry`.",
        )


def given(use: GivenFor, ref: SecretKeyRef | None, field: str) -> Credential | None:
    """What this process was given for `use`, None where it was given nothing.

    `ref` stands in `field` of the job. Raises RefusedInput(AccessDenied) for an empty text.
    """
    text = os.environ.get(CREDENTIALS_PREFIX + use)
    if text is None or ref is None:
        return None
    found = Credential(field, ref.name, ref.key, text)
    if not text.strip():
        raise found.refused("is empty", "the credential")
    return found


def without_secrets(text: str) -> str:
    """`text` with `***` for every secret that this process was given."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secrets() -> Iterable[str]:
    """Tokens, values of a file of credentials, and lines of a key."""
    for variable, whole in os.environ.items():
        if not variable.startswith(CREDENTIALS_PREFIX):
            continue
        lines = [line.strip() for line in whole.splitlines()]
        values = [line.partition("=")[2].strip() for line in lines]
        yield from {
            found
            for found in (whole.strip(), *lines, *values)
            if len(found) >= _SHORTEST_SECRET and not found.startswith("-----")
        }
