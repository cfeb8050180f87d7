"""The law inside Ray, with arguments that may change while it runs.

Called by `ray_policy`. Ray starts every replica anew when an argument of its policy changes, so the
chart puts them into a file, which is read again at each look: what was learnt is kept. Standard
library only; it never raises.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from halftone.scaling.acting.deciding import Decider, Deciding, Judgement, Kept
from halftone.scaling.acting.learning import ASSUMED_LEAD_S, LearningDecider
from halftone.scaling.acting.ray_carrier import Manner
from halftone.scaling.acting.ray_metrics import tell_ray
from halftone.scaling.capacity import Capacity
from halftone.scaling.follower import Follower
from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.scaling.inputs.prometheus import Access, PrometheusReader
from halftone.scaling.policy import Memory, Settings, itl_refusal

log = logging.getLogger("ray.serve")

_UNTIL_KNOWN: Final = Manner(interval_s=1.0, fresh_s=60.0)


@dataclass(frozen=True, slots=True)
class Arguments:
    """Those of `ray_policy.KVPressurePolicy`, which says what they mean; `card` is read."""

    prometheus: str
    model: str
    card: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    lead_s: float | None = None
    observe_only: bool = False
    interval_s: float = 5.0
    selector: Mapping[str, str] | None = None
    token_file: str | None = None
    ca_file: str | None = None

    @property
    def law(self) -> Settings:
        """Raises TypeError or ValueError that names what is wrong."""
        assumed_s = ASSUMED_LEAD_S if self.card is None else self.card["warmUpSeconds"]
        return Settings(
            **{**self.settings, "lead_s": float(assumed_s if self.lead_s is None else self.lead_s)}
        )

    @property
    def manner(self) -> Manner:
        """How often it looks, and how long what it saw counts."""
        # Reading may take three timeouts; an answer that old is still a late one, not a lost one.
        fresh_s = self.law.stale_s + self.interval_s
        return Manner(self.interval_s, fresh_s, observe_only=self.observe_only)

    def decider(self, kept: Kept) -> Deciding:
        """What decides by them, with what was learnt before."""
        law = self.law
        access = Access({}, _path(self.token_file), _path(self.ca_file))
        reader = PrometheusReader(
            self.prometheus,
            self.model,
            selector=self.selector,
            access=access,
            stale_s=law.stale_s,
        )
        if self.card is None:
            return LearningDecider(reader, law, self.lead_s, self.interval_s, kept=kept)
        capacity = Capacity.from_card(self.card)
        if (warning := itl_refusal(capacity, law)) is not None:
            log.warning("halftone: %s", warning)
        return Decider(reader, Follower(capacity, law, self.interval_s), law.lead_s, kept)


class Arranged:
    """Decides by what `source` says; it is asked at each look, in the thread that looks."""

    def __init__(self, source: Callable[[], Mapping[str, Any]]) -> None:
        self.manner = _UNTIL_KNOWN
        self._source = source
        self._known: Mapping[str, Any] | None = None
        self._kept = Kept()
        self._decider: Deciding | None = None
        self._tell: Callable[[Judgement], None] | None = None
        self._problem = ""

    @property
    def memory(self) -> Memory | None:
        """What the law keeps between looks."""
        return self._kept.memory if self._decider is None else self._decider.memory

    def observe(self, time_s: float, counts: ReplicaCounts) -> None:
        """Replicas as they are at `time_s`; leads are measured whatever the arguments are."""
        self._kept.leads.observe(time_s, counts.ready + counts.starting, counts.ready)

    def forget(self) -> None:
        """Take the count that is there for the right one."""
        if self._decider is not None:
            self._decider.forget()

    def decide(self, counts: ReplicaCounts) -> Judgement:
        """What should be, with `counts` there; held while no arguments can be used."""
        self._arrange()
        if self._decider is None:
            return Judgement(counts, None, self._problem, 0.0)
        judgement = self._decider.decide(counts)
        if not self._problem:
            return judgement
        return replace(judgement, reason=f"{judgement.reason} {self._problem}")

    def tell(self, judgement: Judgement) -> None:
        """Of a look, in Ray's metrics."""
        if self._tell is None:
            model = str((self._known or {}).get("model", ""))
            self._tell = tell_ray(model, observe_only=self.manner.observe_only)
        self._tell(judgement)

    def _arrange(self) -> None:
        """Take what is new; what cannot be used changes nothing but the reason."""
        try:
            said = self._source()
            said = {**said, "card": _card(said.get("card"))}
            if said == self._known:
                self._problem = ""
                return
            arguments = Arguments(**said)
            manner = arguments.manner
            decider = arguments.decider(replace(self._kept, memory=self.memory))
        except Exception as error:
            stands = "" if self._decider is None else "; those before stand"
            why = f"{type(error).__name__}: {error}"
            problem = f"The policy's arguments cannot be used{stands}: {why}."
            if problem != self._problem:
                log.error("halftone: %s", problem)
            self._problem = problem
            return
        self._known, self._decider, self.manner = said, decider, manner
        self._tell, self._problem = None, ""


def read_arguments(path: Path) -> Mapping[str, Any]:
    """Those of a file. Raises OSError or ValueError."""
    said = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(said, dict):
        raise ValueError(f"`{path}` holds no JSON object")
    return said


def _card(card: Mapping[str, Any] | str | None) -> Mapping[str, Any] | None:
    """A capacity card, or that of a path."""
    if not isinstance(card, str):
        return card
    found: Mapping[str, Any] = json.loads(Path(card).read_text(encoding="utf-8"))
    return found


def _path(named: str | None) -> Path | None:
    return None if named is None else Path(named)
