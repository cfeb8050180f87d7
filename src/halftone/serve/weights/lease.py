"""A proven checkpoint, and the hold that keeps it where it is.

Made by `obtaining`, kept by whoever has vLLM load the files, on one node or on several.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import IO, NamedTuple, Self

from halftone.serve.served_model import ServedModel
from halftone.serve.weights.stamps import Stamps, first_changed
from halftone.spec.errors import CheckFailed, EnvironmentFault
from halftone.spec.names import Reason


class Found(NamedTuple):
    """The digest of a proven checkpoint, and the directory where it lies."""

    digest: str
    directory: str


class Lease:
    """`model`, whose files are not evicted until `release`, or until this process ends.

    It must be referred to as long as it is needed: the kernel gives the hold back with the open
    file that this object owns. Also a context manager.
    """

    def __init__(self, model: ServedModel, stamps: Stamps, hold: IO[bytes] | None) -> None:
        self.model = model
        self._stamps = stamps
        self._hold = hold

    @property
    def found(self) -> Found:
        """What another node must have too, for workers there to read what was proven here."""
        return Found(self.model.digest, str(self.model.path))

    def require_unchanged(self) -> None:
        """To be called once the engine has loaded: are the files still those that were proven?

        Raises CheckFailed(SourceChanged) with the first that was written to, replaced or removed
        since. What was loaded may then be something that nobody proved, and must not serve.
        """
        path = first_changed(self.model.path, self._stamps)
        if path is not None:
            raise CheckFailed(
                Reason.SourceChanged,
                path,
                f"'{path}' of `{self.model.path}` was changed after it was proven, so what was "
                "loaded of it may be something else; start again once nothing writes there.",
            )

    def release(self) -> None:
        """Let go; may be called more than once."""
        if self._hold is not None:
            with suppress(OSError), self._hold:
                os.utime(self._hold.fileno())  # used until now, for whoever evicts
            self._hold = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def require_alike(here: Iterable[Found], there: Iterable[Found]) -> None:
    """Raise EnvironmentFault(SourceChanged) unless two nodes of one replica have the same.

    vLLM's workers read on their own node the directory that the replica names. In the cache it also
    says which publication of a checkpoint lies there.
    """
    for mine, theirs in zip(here, there, strict=True):
        if mine != theirs:
            raise EnvironmentFault(
                Reason.SourceChanged,
                mine.directory,
                f"One node of the replica has the checkpoint {mine.digest} in '{mine.directory}', "
                f"and another {theirs.digest} in '{theirs.directory}'; pin `artifact.digest` and "
                "`draft.digest`, and where they are pinned remove other publications from "
                "`cache.directory`.",
            )
