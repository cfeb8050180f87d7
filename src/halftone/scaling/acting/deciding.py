"""One look at an endpoint: read, measure the lead, ask the law. Nothing is carried out here.

Called by `ray_policy` and by `controlling`, so that both decide alike. Standard library only. It
never raises: whatever is wrong becomes a judgement that holds, and says why.
"""

import logging
from dataclasses import dataclass, field
from typing import Protocol

from halftone.scaling.acting.lead_time import LeadTimes
from halftone.scaling.follower import Follower
from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.scaling.policy import Decision, Memory, Term
from halftone.scaling.reading import Reading

log = logging.getLogger(__name__)


class Reader(Protocol):
    """What makes a reading; `inputs.prometheus.PrometheusReader` is one."""

    def read(self, counts: ReplicaCounts) -> Reading:
        """Everything at this moment, what is missing included."""
        ...


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came of one look. `decision` is None when not even the law could be asked."""

    counts: ReplicaCounts
    decision: Decision | None
    reason: str
    lead_s: float

    @property
    def is_held(self) -> bool:
        """Whether the count stays as it is for want of data."""
        return self.decision is None or self.decision.term is Term.Missing

    @property
    def wanted(self) -> int | None:
        """The count to be set; None where it holds, whatever it is."""
        return None if self.decision is None or self.is_held else self.decision.wanted


@dataclass(frozen=True, slots=True)
class Kept:
    """What one decider learnt and another begins with."""

    leads: LeadTimes = field(default_factory=LeadTimes)
    memory: Memory | None = None


class Deciding(Protocol):
    """What carriers of the law ask: a `Decider`, or one of `learning` or `arranged`."""

    @property
    def memory(self) -> Memory | None:
        """What the law keeps between looks; None before the first."""
        ...

    def observe(self, time_s: float, counts: ReplicaCounts) -> None:
        """Replicas as they are at `time_s`; may be called more often than `decide`."""
        ...

    def forget(self) -> None:
        """Take the count that is there for the right one."""
        ...

    def decide(self, counts: ReplicaCounts) -> Judgement:
        """What should be, with `counts` there. It does not raise."""
        ...


class Decider:
    """The law with its memory, its reader and its measured lead.

    `prior_s` is the lead until enough have been measured, in seconds; `kept` is what was learnt
    before.
    """

    def __init__(
        self,
        reader: Reader,
        follower: Follower,
        prior_s: float,
        kept: Kept | None = None,
    ) -> None:
        kept = kept or Kept()
        self._reader = reader
        self._follower = follower
        self._follower.memory = kept.memory
        self._prior_s = prior_s
        self._leads = kept.leads

    @property
    def memory(self) -> Memory | None:
        """What the law keeps between looks; None before the first."""
        return self._follower.memory

    @property
    def follower(self) -> Follower:
        """The law that is asked, with its settings as they are now."""
        return self._follower

    def observe(self, time_s: float, counts: ReplicaCounts) -> None:
        """Replicas as they are at `time_s`; may be called more often than `decide`."""
        self._leads.observe(time_s, counts.ready + counts.starting, counts.ready)

    def forget(self) -> None:
        """Take the count that is there for the right one."""
        self._follower.forget()

    def decide(self, counts: ReplicaCounts) -> Judgement:
        """What should be, with `counts` there."""
        lead_s = self._leads.lead_s(self._prior_s)
        self._follower.expect_lead(lead_s)
        try:
            self._follower(self._reader.read(counts))
        except Exception as error:  # whoever carries us must not fall over it
            log.exception("the law could not be asked")
            why = f"The count holds, because the law failed: {type(error).__name__}: {error}."
            return Judgement(counts, None, why, lead_s)
        decision = self._follower.decision
        reason = "" if decision is None else decision.reason
        return Judgement(counts, decision, reason, lead_s)
