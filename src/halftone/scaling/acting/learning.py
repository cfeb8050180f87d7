"""The law where nobody gave a capacity card: it begins once replicas say what they can do.

Called by `ray_policy` and `halftone autoscale`. A replica exports the card of its artifact
(`capacity_fields`); until one of them does, the count holds, and the reason says what is missing.
Standard library only. It never raises.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from halftone.scaling.acting.deciding import Decider, Judgement, Learned, Reader
from halftone.scaling.capacity_fields import Stated
from halftone.scaling.follower import Follower
from halftone.scaling.inputs.capacity_gauges import SERIES
from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.scaling.inputs.parsing import UnusableAnswer
from halftone.scaling.policy import Settings, itl_refusal

log = logging.getLogger(__name__)

# Until a card says how long warming up takes; a large model with a warm cache takes this.
ASSUMED_LEAD_S: Final = 300.0
# Another artifact may have taken the place of the one whose card was read.
AGAIN_S: Final = 600.0

UNSAID: Final = (
    f"Prometheus has no whole `{SERIES}` of this model. A replica that is up exports it where its "
    "artifact has a capacity card for its device; `halftone bench` makes one, for the artifact's "
    "`capacity/`, or for `autoscaling.capacity` of the chart and `--card`"
)


class TellingReader(Reader, Protocol):
    """A reader that also knows what replicas say; `inputs.prometheus.PrometheusReader` is one."""

    def stated(self) -> Stated | None:
        """What one replica can do; None where none says it. Raises UnusableAnswer."""
        ...


class LearningDecider:
    """Asks at each look until it knows, and every `AGAIN_S` seconds from then on.

    What was found once is kept, whatever is said or not said later, until something else is found.
    `lead_s` is the lead that somebody gave; without it the warm-up of the card counts, and until
    there is one `settings.lead_s`. `learned` is what was learnt before.
    """

    def __init__(
        self,
        reader: TellingReader,
        settings: Settings,
        lead_s: float | None,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
        learned: Learned | None = None,
    ) -> None:
        self._reader = reader
        self._settings = settings
        self._lead_s = lead_s
        self._interval_s = interval_s
        self._clock = clock
        self._learned = learned or Learned()
        self._decider: Decider | None = None
        self._asked_at = -math.inf
        if self._learned.stated is not None:
            self._take(self._learned.stated)

    @property
    def learned(self) -> Learned:
        """What another one may begin with."""
        return self._learned if self._decider is None else self._decider.learned

    def observe(self, time_s: float, counts: ReplicaCounts) -> None:
        """Replicas as they are at `time_s`; leads are measured before anything else is known."""
        self._learned.observe(time_s, counts)

    def forget(self) -> None:
        """Take the count that is there for the right one."""
        self._learned = replace(self._learned, memory=None)
        if self._decider is not None:
            self._decider.forget()

    def decide(self, counts: ReplicaCounts) -> Judgement:
        """What should be, with `counts` there; held while no capacity is known."""
        why = self._learn()
        if self._decider is not None:
            return self._decider.decide(counts)
        held = f"The count holds until it is known what a replica can do: {why}."
        lead_s = self._learned.leads.lead_s(self._settings.lead_s)
        return Judgement(counts, None, held, lead_s, most=self._settings.max_replicas)

    def _learn(self) -> str:
        """Ask if it is time to; why nothing came of it, as the end of a sentence."""
        now = self._clock()
        if self._decider is not None and now - self._asked_at < AGAIN_S:
            return ""
        self._asked_at = now
        try:
            said = self._reader.stated()
            if said is None:
                return UNSAID
            if said != self.learned.stated:
                self._take(said)
        except UnusableAnswer as error:
            return str(error)
        except Exception as error:  # whoever carries us must not fall over it
            log.exception("what replicas say could not be used")
            return f"{type(error).__name__}: {error}"
        return ""

    def _take(self, said: Stated) -> None:
        log.info("replicas say that each can do this: %s", said.capacity)
        if (warning := itl_refusal(said.capacity, self._settings)) is not None:
            log.warning("%s", warning)
        prior_s = said.warm_up_s if self._lead_s is None else self._lead_s
        settings = replace(self._settings, lead_s=prior_s)
        follower = Follower(said.capacity, settings, self._interval_s)
        self._decider = Decider(self._reader, follower, prior_s, replace(self.learned, stated=said))
