"""What happened when: a line for each act on the terminal, and all of it in a folder.

Called by `python -m tests.e2e`.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_WIDE: Final = 58
_EVENTS: Final = "events.log"


def is_for_a_story(folder: Path) -> bool:
    """Whether nothing is lost when `folder` is emptied: it is not there, empty, or a story's."""
    if not folder.exists():
        return True
    return folder.is_dir() and ((folder / _EVENTS).is_file() or not any(folder.iterdir()))


@dataclass
class Act:
    """One act: `facts` are what it found out, in words."""

    name: str
    begun_s: float
    seconds: float | None = None
    error: str = ""
    facts: list[str] = field(default_factory=list)


class Timeline:
    """Acts in order. Times are seconds since this was made."""

    def __init__(self, folder: Path) -> None:
        self.acts: list[Act] = []
        self._folder = folder
        self._began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self._log = (folder / _EVENTS).open("w", encoding="utf-8")

    def now(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def tell(self, what: str) -> None:
        """A line in the log, which is not on the page."""
        print(f"{self.now():7.1f} s  {what}", file=self._log, flush=True)

    @contextmanager
    def act(self, name: str) -> Iterator[Act]:
        """One line on the terminal when the block ends; an error is told and goes on."""
        act = Act(name, self.now())
        self.acts.append(act)
        self.tell(f"begins: {name}")
        print(f"{act.begun_s:6.0f} s  {name:<{_WIDE}}", end="", flush=True)
        try:
            yield act
        except BaseException as error:
            act.error = f"{type(error).__name__}: {error}"
            raise
        finally:
            act.seconds = self.now() - act.begun_s
            print(f"{act.seconds:6.0f} s  {'FAILED' if act.error else 'ok'}", flush=True)
            for fact in act.facts:
                print(f"{'':10}{fact}", flush=True)
            self.tell(f"ends: {name} {act.error}")
            self.save()

    def save(self) -> None:
        """Write `timeline.json`."""
        rows: list[dict[str, Any]] = [
            {
                "name": act.name,
                "beganSeconds": round(act.begun_s, 1),
                "seconds": None if act.seconds is None else round(act.seconds, 1),
                "facts": act.facts,
                "error": act.error or None,
            }
            for act in self.acts
        ]
        document = {"seconds": round(self.now(), 1), "acts": rows}
        text = json.dumps(document, indent=2)
        (self._folder / "timeline.json").write_text(f"{text}\n", encoding="utf-8")

    def close(self) -> None:
        """Save, and end the log."""
        self.save()
        self._log.close()
