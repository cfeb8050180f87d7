"""What a place that artifacts are published to must offer, whatever kind it is.

`halftone.stores` implements it for directories, S3 and the Hub; `halftone.publish` works with it.
A reader of any of them sees the old artifact or the new one, never half of one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from halftone.spec.artifacts import Artifact
from halftone.spec.targets import Existing

# Called with the number of bytes that have just gone up (or were found there already).
Progress = Callable[[int], None]


class LeftoverKind(StrEnum):
    """Why something in a target can go."""

    # An artifact that another one replaced; still reachable by its digest.
    Superseded = "Superseded"
    # What a publisher left that did not come back.
    DeadUpload = "DeadUpload"


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that `halftone gc` may remove. `uri` is how a user would name it."""

    kind: LeftoverKind
    uri: str
    size_bytes: int
    checkpoint_digest: str | None


class ArtifactTarget(Protocol):
    """One name under which at most one artifact is visible."""

    @property
    def uri(self) -> str:
        """How the user names it: a path, `s3://bucket/prefix` or `hf://org/name`."""

    def current(self) -> Artifact | None:
        """What a reader finds now, or None.

        Raises RefusedInput(TargetOccupied) when something lies there that is no artifact.
        """

    def refuse_unusable(self) -> None:
        """Fail before hours of work, not after: access, conditional writes, a place that can be
        written. Leaves nothing behind. Raises RefusedInput or EnvironmentFault.
        """

    def publish(
        self, tree: Path, artifact: Artifact, existing: Existing, progress: Progress
    ) -> Artifact:
        """Make the files in `tree`, as `artifact.files` lists them, visible in one step.

        `artifact` is a draft: `uri` and `revision` are the target's to fill in, and then to seal.
        Returns what readers now find. The same checkpoint digest does nothing and returns what is
        there; another one raises RefusedInput(TargetOccupied) unless `existing` is Replace. May be
        killed at any moment and called again with the same tree: it goes on. Raises
        CheckFailed(DigestDiffers) when a file of `tree` is not what `artifact.files` says.
        """

    def add_cards(self, tree: Path, paths: Sequence[str]) -> None:
        """Put capacity cards and their signatures beside the artifact that is there.

        `paths` are files of `tree` such as `capacity/x.json`. Each appears whole or not at all and
        replaces one of the same name; they lie outside `artifact.files`, so that a device can be
        measured long after publishing. Does nothing for what is there already.
        """

    def leftovers(self) -> Sequence[Leftover]:
        """What could be removed; empty when the target has nothing superseded and nothing dead."""

    def remove(self, leftover: Leftover) -> None:
        """Remove one of `leftovers()`; never what `current()` needs."""

    def close(self) -> None:
        """Give back connections."""
