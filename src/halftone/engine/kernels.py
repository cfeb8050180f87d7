"""Which of our kernels serve the loaded model: the engine gate writes them beside its verdict.

vLLM logs the kernel that it chose and then forgets it. Each of our kernels calls `note_kernel` when
a layer is prepared with it, and the process that loaded the model asks `kernels_in_use` afterwards
(`halftone.engine` re-exports it). The record belongs to the process; a second model in the same
process adds to it.
"""

from __future__ import annotations

_IN_USE: set[str] = set()


def note_kernel(name: str) -> None:
    """Say that a layer of the model is served by the kernel `name`; again changes nothing."""
    _IN_USE.add(name)


def kernels_in_use() -> tuple[str, ...]:
    """The names noted so far in this process, sorted; empty where no layer needed one of ours."""
    return tuple(sorted(_IN_USE))
