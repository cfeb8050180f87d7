"""The external controller: look, decide, and set the count if nobody else does.

Called by `halftone autoscale`. One look is: read the target, ask the law, renew the Lease, see
whether somebody else sets the count, and set it. Those who stand by look on and decide too, so
that whoever takes over has a history; they set nothing.
"""

import logging
import time
from dataclasses import dataclass
from threading import Event

from halftone.scaling.acting.conflicts import Conflict, Conflicts
from halftone.scaling.acting.deciding import Deciding, Judgement
from halftone.scaling.acting.leading import Lease
from halftone.scaling.acting.targets import Observed, Target, TargetError
from halftone.scaling.acting.telling import tell_judgement
from halftone.telemetry.scaling import ScalingMetrics

log = logging.getLogger("halftone.autoscale")

# Reasons of Events.
_CONFLICT = "ScalingConflict"


@dataclass(frozen=True)
class Look:
    """What came of one look, for tests and for the log. `set_to` is None when nothing was set."""

    seen: Observed
    judgement: Judgement
    leads: bool
    conflict: Conflict | None
    set_to: int | None


class Controller:
    """Looks at one target again and again. Without a `lease` it is the only one, and acts."""

    def __init__(
        self,
        target: Target,
        decider: Deciding,
        metrics: ScalingMetrics,
        lease: Lease | None = None,
        *,
        observe_only: bool = False,
    ) -> None:
        self._target = target
        self._decider = decider
        self._metrics = metrics
        self._lease = lease
        self._observe_only = observe_only
        self._conflicts = Conflicts()
        self._said: dict[str, str] = {}

    def run(self, interval_s: float, stop: Event) -> None:
        """Look every `interval_s` seconds until `stop` is set, then give the Lease back."""
        try:
            while not stop.is_set():
                began = time.monotonic()
                self.look(began)
                stop.wait(max(0.0, interval_s - (time.monotonic() - began)))
        finally:
            if self._lease is not None:
                self._lease.release()
            self._target.close()

    def look(self, time_s: float) -> Look | None:
        """One look at `time_s` of the monotonic clock; None when the target could not be read."""
        self._metrics.set_observe_only(observe_only=self._observe_only)
        leads = self._leads()
        self._metrics.set_leader(leads=leads)
        try:
            seen = self._target.observe()
            judgement = self._judged(time_s, seen)
            conflict = self._conflict(time_s, seen, judgement, leads=leads)
            set_to = self._acted(seen, judgement) if leads and conflict is None else None
        except TargetError as error:
            self._metrics.set_failed(failed=True)
            self._say("failed", str(error))
            return None
        self._metrics.set_failed(failed=False)
        self._say("failed", "")
        return Look(seen, judgement, leads, conflict, set_to)

    def _leads(self) -> bool:
        if self._lease is None:
            return True
        held = self._lease.hold(self._conflicts.note)
        if held.is_new:
            self._conflicts.take_over(held.note)
            log.info("this controller acts now")
        elif held.cleared:
            self._conflicts.clear()
            self._decider.forget()
            log.info("the conflict was cleared")
        return held.leads

    def _judged(self, time_s: float, seen: Observed) -> Judgement:
        self._decider.observe(time_s, seen.counts)
        judgement = self._decider.decide(seen.counts)
        tell_judgement(self._metrics, judgement)
        self._say("held", judgement.reason if judgement.is_held else "")
        return judgement

    def _conflict(
        self, time_s: float, seen: Observed, judgement: Judgement, *, leads: bool
    ) -> Conflict | None:
        if not leads or self._observe_only:
            self._metrics.set_conflict(None)
            return None
        found = self._conflicts.judge(time_s, seen.wanted, judgement.wanted, seen.rivals)
        self._metrics.set_conflict(None if found is None else found.kind)
        if self._say("conflict", "" if found is None else found.sentence) and found is not None:
            self._target.tell(_CONFLICT, found.sentence)
        return found

    def _acted(self, seen: Observed, judgement: Judgement) -> int | None:
        """The count that was set, None for no change. Raises TargetError."""
        wanted = judgement.wanted
        if wanted is None or wanted == seen.wanted:
            self._said.pop("change", None)
            return None
        change = f"{seen.wanted} -> {wanted}"
        if self._observe_only:
            self._say("change", f"would set {change}: {judgement.reason}", key=change)
            return None
        self._conflicts.try_to_set(wanted)
        if self._lease is not None and not self._lease.hold(self._conflicts.note).leads:
            return None
        self._target.scale(wanted, seen)
        self._conflicts.have_set(wanted)
        log.info("%s: %s: %s", self._target.name, change, judgement.reason)
        return wanted

    def _say(self, about: str, sentence: str, key: str = "") -> bool:
        """Log a sentence when it is another one than before; ages in it make no other one."""
        told = key or "".join("#" if letter.isdigit() else letter for letter in sentence)
        is_new = bool(sentence) and self._said.get(about) != told
        if is_new:
            log.warning("%s: %s", self._target.name, sentence)
        self._said[about] = told
        return is_new
