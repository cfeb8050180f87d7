"""Every error that Halftone raises on purpose, and what the caller should do about it.

    HalftoneError
    ├── RefusedInput      the input is wrong; trying again is useless      exit 2
    ├── CheckFailed       the work was done and found wanting              exit 1
    └── EnvironmentFault  the surroundings failed; trying again may help   exit 3

Each carries a `reason` (one CamelCase word from `halftone.spec.names`, the same that a condition
shows in the cluster), the `subject` (a field, file or tensor) and a message: one sentence that
names the subject and the way out. Errors of third-party clients are translated at the border, in
the room that imports the client, and never travel further than that.
"""

from typing import ClassVar, Self

from halftone.spec.names import Reason


class HalftoneError(Exception):
    """The root; callers that want "anything we said on purpose" catch this."""

    exit_code: ClassVar[int] = 1

    def __init__(self, reason: Reason, subject: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.subject = subject
        self.message = message

    def __reduce__(self) -> tuple[type[Self], tuple[Reason, str, str]]:
        # Between processes, such as those of Ray, an error is made again of what it was made of.
        return type(self), (self.reason, self.subject, self.message)


class RefusedInput(HalftoneError):
    """The input cannot be accepted as it is; nothing was written."""

    exit_code = 2


class CheckFailed(HalftoneError):
    """A check looked at real data and did not pass."""

    exit_code = 1


class EnvironmentFault(HalftoneError):
    """Disk, network, or an environment that is not there; the same command may succeed later."""

    exit_code = 3
