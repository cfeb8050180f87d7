"""One look at an endpoint: read, measure the lead, ask the law. Nothing is carried out here.

Called by `ray_policy` and by `controlling`, so that both decide alike. Standard library only. It
never raises: whatever is wrong becomes a judgement that holds, and says why.
"""

import logging
from dataclasses import dataclass, field, replace
from typing import Protocol

from halftone.scaling.acting.lead_time import LeadTimes
from halftone.scaling.capacity_fields import Stated
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
    """What came of one look. `decision` is None when not even the law could be asked.

    `observe_only` says that it was made to be looked at. `refused` is why newer arguments are not
    those that it was made by; empty where there are none. `most` replicas are allowed; None while
    nobody knows.
    """

    counts: ReplicaCounts
    decision: Decision | None
    reason: str
    lead_s: float
    observe_only: bool = False
    refused: str = ""
    most: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether the count stays as it is for want of data."""
        return self.decision is None or self.decision.term is Term.Missing

    @property
    def wanted(self) -> int | None:
        """The count to be set; None where it holds, whatever it is."""
        return None if self.decision is None or self.is_held else self.decision.wanted


@dataclass(frozen=True, slots=True)
class Learned:
    """What one decider has learnt, and another begins with: measured leads, what the law remembers,
    and what replicas said that they can do.
    """

    leads: LeadTimes = field(default_factory=LeadTimes)
    memory: Memory | None = None
    stated: Stated | None = None

    def observe(self, time_s: float, counts: ReplicaCounts) -> None:
        """Replicas as they are at `time_s`, of which leads are measured."""
        self.leads.observe(time_s, counts.ready + counts.starting, counts.ready)


class Deciding(Protocol):
    """What carriers of the law ask: a `Decider`, or one of `learning` or `reloading`."""

    @property
    def learned(self) -> Learned:
        """What another one may begin with."""
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

    `prior_s` is the lead until enough have been measured, in seconds; `learned` is what was learnt
    before.
    """

    def __init__(
        self,
        reader: Reader,
        follower: Follower,
        prior_s: float,
        learned: Learned | None = None,
    ) -> None:
        self._reader = reader
        self._follower = follower
        self._prior_s = prior_s
        self._learned = learned or Learned()
        self._follower.memory = self._learned.memory

    @property
    def learned(self) -> Learned:
        """What another one may begin with."""
        return replace(self._learned, memory=self._follower.memory)

    def observe(self, time_s: float, counts: ReplicaCounts) -> None:
        """Replicas as they are at `time_s`; may be called more often than `decide`."""
        self._learned.observe(time_s, counts)

    def forget(self) -> None:
        """Take the count that is there for the right one."""
        self._follower.forget()

    def decide(self, counts: ReplicaCounts) -> Judgement:
        """What should be, with `counts` there."""
        lead_s = self._learned.leads.lead_s(self._prior_s)
        self._follower.expect_lead(lead_s)
        most = self._follower.settings.max_replicas
        try:
            self._follower(self._reader.read(counts))
        except Exception as error:  # whoever carries us must not fall over it
            log.exception("the law could not be asked")
            why = f"The count holds, because the law failed: {type(error).__name__}: {error}."
            return Judgement(counts, None, why, lead_s, most=most)
        decision = self._follower.decision
        reason = "" if decision is None else decision.reason
        return Judgement(counts, decision, reason, lead_s, most=most)
