"""Whether somebody else sets the same count, and when we may set it again.

Called by `controlling`. Pure. The rule, which `docs/serving.md` tells users:

- Another scaler that has the same target (`rivals`) is a conflict for as long as it is there.
- A count of 0 is how people stop an endpoint. It stands until there is another.
- A count that is not the one we set last is somebody's edit. It stands. The conflict is over when
  what we want has been that very count for `AGREED_S`, or when somebody says so (`clear`): then the
  count that is there is taken as ours.

We never set a count during a conflict, so two of us cannot pull in turn.
"""

from dataclasses import dataclass
from typing import Final

# As long as the shortest window of scale-in: whoever edited saw what they wanted to see.
AGREED_S: Final = 300.0
_STOPPED: Final = "The count is 0, which stops scaling; set another count to go on."


@dataclass(frozen=True, slots=True)
class Conflict:
    """Who disagrees: `kind` is `Rival` or `Edited`, `sentence` names both sides and the way out."""

    kind: str
    sentence: str


class Conflicts:
    """`last_set` is the count that we set last, None when we have set none and take what is there.

    conflicts = Conflicts()
    if conflicts.judge(time_s, seen=3, wanted=4, rivals=()) is None:
        conflicts.try_to_set(4)
        ...
        conflicts.have_set(4)
    """

    def __init__(self) -> None:
        self.last_set: int | None = None
        self._trying: int | None = None
        self._agreed_at: float | None = None

    def try_to_set(self, count: int) -> None:
        """We are about to set `count`, and may never hear whether that was done."""
        self._trying = count

    def have_set(self, count: int) -> None:
        """We set `count`; from here on any other is somebody else's."""
        self.last_set = count
        self._trying = None
        self._agreed_at = None

    @property
    def note(self) -> str | None:
        """Our counts, for whoever acts after us: `3`, or `3,4` while 4 is being set."""
        counts = [each for each in (self.last_set, self._trying) if each is not None]
        return ",".join(map(str, counts)) or None

    def take_over(self, note: str | None) -> None:
        """Go on where another one's `note` ends; one that cannot be read is none."""
        self.clear()
        try:
            counts = [int(part) for part in (note or "").split(",")]
        except ValueError:
            return
        if min(counts) >= 0:
            self.last_set, self._trying = counts[0], counts[-1]

    def clear(self) -> None:
        """Take the count that is there as ours."""
        self.last_set = None
        self._trying = None
        self._agreed_at = None

    def judge(
        self, time_s: float, seen: int, wanted: int | None, rivals: tuple[str, ...]
    ) -> Conflict | None:
        """The conflict at `time_s`, None when we may act.

        `seen` is the count that the target has, `wanted` what the law would set, None while it
        holds on missing data.
        """
        if rivals:
            self._agreed_at = None
            return Conflict(
                "Rival",
                f"{', '.join(rivals)} scales the same target; delete it, or leave scaling to it.",
            )
        if seen == 0 and wanted != 0:
            self._agreed_at = None
            return Conflict("Edited", _STOPPED)
        if self.last_set is None or seen == self._trying:
            self.have_set(seen)
        if seen == self.last_set:
            self._agreed_at = None
            return None
        if seen != wanted:
            self._agreed_at = None
        elif self._agreed_at is None:
            self._agreed_at = time_s
        elif time_s - self._agreed_at >= AGREED_S:
            self.have_set(seen)
            return None
        return Conflict(
            "Edited",
            f"Somebody set {seen} replicas where {self.last_set} were set; nothing is changed "
            f"until {seen} is also what is wanted for {AGREED_S:.0f} s, or until it is cleared.",
        )
