"""What stands in the way of our own files, in words of whoever named the directory.

Called by all here that write beside or into a directory that the user named.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
# What to do about errors that no second try mends.
_WAYS_OUT: Final = {
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "choose a directory below which there are directories only",
    errno.EROFS: "choose a directory on a disk that can be written",
    errno.EACCES: "choose a directory that you may write",
    errno.EPERM: "choose a directory that you may write",
    errno.ENOENT: "choose a directory in which directories can be made",
}
_OTHERWISE: Final = "mend this and run the same command again, or choose another directory"


@contextmanager
def storage_errors(
    place: Path, *, cannot: str = "cannot be the output", kept: str | None = None
) -> Iterator[None]:
    """Turn OSError into EnvironmentFault, OutOfSpace or StorageFailed, cause chained.

    `place` is the directory that the user named; what we call our files there says nothing to him.
    It `cannot` be or do what it is for. `kept` is what the next run goes on with, if anything.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise EnvironmentFault(
                Reason.OutOfSpace,
                str(place),
                f"The disk under '{place}' is full; free some space and run the same command "
                f"again{f': {kept} are kept' if kept else ''}.",
            ) from error
        way_out = _WAYS_OUT.get(error.errno or 0, _OTHERWISE)
        raise EnvironmentFault(
            Reason.StorageFailed,
            str(place),
            f"'{place}' {cannot} ({error.strerror or error}); {way_out}.",
        ) from error


def refuse_another_plan(root: Path, earlier: str, now: str) -> None:
    """Raise RefusedInput(OutputNotEmpty) unless the work in `root` is of this plan, by digests."""
    if earlier != now:
        raise RefusedInput(
            Reason.OutputNotEmpty,
            str(root),
            f"'{root}' holds unfinished work of another plan ({earlier[:12]}, this one is "
            f"{now[:12]}); finish that one or remove the directory.",
        )
