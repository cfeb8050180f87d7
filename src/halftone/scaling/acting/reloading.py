"""The law inside Ray, with arguments that may change while it runs.

Called by `ray_policy`. Ray starts every replica anew when an argument of its policy changes, so the
chart puts them into a file, which is read again at each look: what was learnt is kept. Standard
library only; it never raises.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from halftone.scaling.acting.arguments import Arguments, said
from halftone.scaling.acting.deciding import Delegating, Judgement
from halftone.scaling.acting.learning import ASSUMED_LEAD_S, TellingReader
from halftone.scaling.acting.ray_carrier import Manner
from halftone.scaling.acting.ray_metrics import tell_ray
from halftone.scaling.inputs.counts import ReplicaCounts

log = logging.getLogger("ray.serve")

_UNTIL_KNOWN: Final = Manner(interval_s=1.0, fresh_s=60.0)


class ReloadingDecider(Delegating):
    """Decides by what `given` says, which `arguments.said` reads in the thread that looks.

    `manner` is that of the arguments that count. `make_reader` is for a test without a Prometheus.
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        make_reader: Callable[[Arguments], TellingReader] = Arguments.reader,
    ) -> None:
        super().__init__()
        self.manner = _UNTIL_KNOWN
        self._given = dict(given)
        self._make_reader = make_reader
        self._said: dict[str, Any] = {}
        self._arguments: Arguments | None = None
        self._reader: TellingReader | None = None
        self._refused = ""
        self._tell: tuple[str, bool, Callable[[Judgement], None]] | None = None

    def decide(self, counts: ReplicaCounts) -> Judgement:
        """What should be, with `counts` there; held while no arguments can be used."""
        self._reload()
        if self._decider is None or self._arguments is None:
            lead_s = self._learned.leads.lead_s(ASSUMED_LEAD_S)
            return Judgement(counts, None, self._refused, lead_s, refused=self._refused)
        judgement = self._decider.decide(counts)
        return replace(
            judgement,
            reason=" ".join(filter(None, (judgement.reason, self._refused))),
            observe_only=self._arguments.observe_only,
            refused=self._refused,
        )

    def tell(self, judgement: Judgement) -> None:
        """Of a look, in Ray's metrics."""
        model = str(self._said.get("model", self._given.get("model", "")))
        if self._tell is None or self._tell[:2] != (model, judgement.observe_only):
            tell = tell_ray(model, observe_only=judgement.observe_only)
            self._tell = model, judgement.observe_only, tell
        self._tell[2](judgement)

    def _reload(self) -> None:
        """Take what is new; what cannot be used changes nothing but what is told."""
        try:
            now = said(self._given)
            if self._arguments is None or now != self._said:
                self._take(Arguments(**now))
                self._said = now
            self._refused = ""
        except Exception as error:
            stands = "" if self._decider is None else "; those before stand"
            why = f"{type(error).__name__}: {error}"
            refused = f"The policy's arguments cannot be used{stands}: {why}."
            if refused != self._refused:
                log.error("halftone: %s", refused)
            self._refused = refused

    def _take(self, new: Arguments) -> None:
        """Decide by `new` from here on. Raises what is wrong with them, before anything changes."""
        manner, old, reader = new.manner, self._arguments, self._reader
        # What a replica last counted tells one that is idle from one that is not scraped any more.
        if reader is None or old is None or old.source != new.source:
            reader = self._make_reader(new)
        learned = self.learned
        if old is not None and old.observe_only and not new.observe_only:
            # Nobody carried out what was wanted; it begins with the count that is there.
            learned = replace(learned, memory=None)
        self._decider = new.decider(reader, learned)
        self.manner, self._arguments, self._reader = manner, new, reader
