"""From Ray's context to a count, ten times a second: what `ray_policy` hands on.

Called by `ray_policy` with a decider. Standard library only, and no wait: a thread looks
(`background`), and a call hands counts over and takes the last answer. Whatever is wrong holds the
count that Ray has.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from halftone.scaling.acting.background import Background
from halftone.scaling.acting.deciding import Deciding, Judgement
from halftone.scaling.inputs.counts import ReplicaCounts

log = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class Manner:
    """`interval_s` lies between two looks, and an answer counts for `fresh_s` seconds."""

    interval_s: float
    fresh_s: float


class RayCarrier:
    """Carries the law out in Serve's controller, in the `manner` of the moment.

    `told` hears of every look, from the thread.
    """

    def __init__(
        self,
        decider: Deciding,
        manner: Callable[[], Manner],
        told: Callable[[Judgement], None],
    ) -> None:
        self._background = Background(decider, lambda: manner().interval_s, told)
        self._manner = manner
        self._told = ""

    @property
    def end(self) -> Callable[[], None]:
        """Ends the thread; holds no reference to the carrier."""
        return self._background.stop.set

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """What Ray is to set, and what it shows as the policy's state."""
        held = int(context.target_num_replicas)
        try:
            self._background.see(counts(context))
            wanted, state = self._decided(held)
        except Exception as error:  # all applications of the cluster share this loop
            wanted, state = held, {"held": f"{type(error).__name__}: {error}"}
        self._tell(wanted, held, state)
        return wanted, state

    def _decided(self, held: int) -> tuple[int, dict[str, Any]]:
        found = self._background.judgement()
        if found is None:
            return held, {"held": "Prometheus has not answered yet."}
        age_s, judgement = found
        if age_s > self._manner().fresh_s:
            return held, {"held": f"The last look was {age_s:.0f} s ago."}
        if judgement.wanted is None or judgement.decision is None:
            return held, {"held": judgement.reason}
        state = {
            "wanted": judgement.wanted,
            "term": str(judgement.decision.term),
            "reason": judgement.reason,
            "leadSeconds": round(judgement.lead_s, 1),
        }
        if judgement.observe_only:
            return held, {**state, "held": "observeOnly"}
        return judgement.wanted, state

    def _tell(self, wanted: int, held: int, state: Mapping[str, Any]) -> None:
        """One line a change: of the count, or of why it holds; ages alone are no change."""
        why = str(state.get("held", ""))
        said = re.sub(r"\d+", "#", why) or (f"{held} -> {wanted}" if wanted != held else "")
        if said and said != self._told:
            log.info("halftone: %s", " ".join(filter(None, (why or said, state.get("reason")))))
        self._told = said


def counts(context: Any) -> ReplicaCounts:
    """Replicas as Ray sees them: `AutoscalingContext` of Ray Serve 2.60.

    It does not say what drains: replicas beyond the target take requests until they stop.
    """
    names = frozenset(str(each.unique_id) for each in context.running_replicas)
    starting = max(0, int(context.target_num_replicas) - len(names))
    held = 0.0 if names else float(context.total_queued_requests or 0)
    return ReplicaCounts(len(names), starting, 0, names, held)
