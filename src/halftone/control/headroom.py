"""How much room the score of a gate left to its limit. Pure; called by the operator's metrics.

    headrooms(body["spec"], body["status"])

A score of 0.015 nats under a limit of 0.02 leaves a quarter of the limit; a failed gate leaves
less than nothing. A gate without a limit of its own (`structure`, `engine-loads`, the weight error
that is judged by each format's own limits) has no room to speak of.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from halftone.spec.gates import Metric

# The field of a gate that holds its limit, and on which side of it a score is good.
_BELOW, _ABOVE = -1, 1
_LIMITS: Final[Mapping[Metric, tuple[str, int]]] = {
    Metric.WeightError: ("maximum", _BELOW),
    Metric.KlDivergence: ("maximum", _BELOW),
    Metric.Perplexity: ("maxIncreasePercent", _BELOW),
    Metric.TopOneAgreement: ("minPercent", _ABOVE),
    Metric.Task: ("minRecoveryPercent", _ABOVE),
    Metric.Speed: ("minRatioPercent", _ABOVE),
    Metric.AcceptanceLength: ("minimum", _ABOVE),
}


def headrooms(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(metric, room as a share of the limit) of each gate of a job that has a score and a limit.

    Both are taken as the API server has them; a gate with a limit of 0 leaves no share.
    """
    scores = {gate.get("name"): gate.get("value") for gate in status.get("gates") or ()}
    for gate in (spec.get("validation") or {}).get("gates") or ():
        metric, score = gate.get("metric"), _number(scores.get(gate.get("name")))
        if metric not in _LIMITS or score is None:
            continue
        field, side = _LIMITS[metric]
        limit = _number(gate.get(field))
        if limit:
            room = side * (score - limit) / limit
            if math.isfinite(room):
                yield str(metric), room


def _number(text: object) -> float | None:
    """A finite number; what an image says may be anything."""
    try:
        found = float(str(text))
    except ValueError:
        return None
    return found if math.isfinite(found) else None
