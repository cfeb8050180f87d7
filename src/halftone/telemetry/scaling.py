"""Metrics of autoscaling, of Ray's policy and of the external controller: the same names.

Called by `scaling.ray_policy`, whose process has Ray's kinds of metrics, and by `scaling.acting`,
whose process has Prometheus's. Both hand over what makes a gauge, so this module is the standard
library alone. No label has values without a bound.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

# Sets one gauge: its value, by the labels that it has beside `model`.
Set = Callable[[float, Mapping[str, str]], None]
# Makes a gauge of name, description and names of labels.
Make = Callable[[str, str, tuple[str, ...]], Set]

# Name -> what it is, and its labels.
GAUGES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "halftone_scaling_decision_info": (
        "1 for the term of the law that decided last, 0 for the others.",
        ("model", "term"),
    ),
    "halftone_scaling_asked_replicas": (
        "Replicas that each term of the law alone would want, before rounding.",
        ("model", "term"),
    ),
    "halftone_scaling_desired_replicas": (
        "Replicas that the law wants, ready and starting together.",
        ("model",),
    ),
    "halftone_scaling_max_replicas": (
        "The most replicas that the law may want.",
        ("model",),
    ),
    "halftone_scaling_ready_replicas": ("Replicas that take requests.", ("model",)),
    "halftone_scaling_starting_replicas": (
        "Replicas that were asked for and are not ready.",
        ("model",),
    ),
    "halftone_scaling_held": (
        "1 while the count holds because an input is missing or stale.",
        ("model",),
    ),
    "halftone_scaling_arguments_refused": (
        "1 while newer arguments of the policy cannot be used.",
        ("model",),
    ),
    "halftone_scaling_observe_only": ("1 while decisions are not carried out.", ("model",)),
    "halftone_scaling_capacity_ratio": (
        "How many times as fast replicas were measured to be as their capacity card says.",
        ("model",),
    ),
    "halftone_scaling_lead_seconds": (
        "From the ask until a replica is ready: the 90th percentile that the law reckons with.",
        ("model",),
    ),
    "halftone_scaling_conflict": (
        "1 while somebody else sets the same count, by kind (Rival, Edited).",
        ("model", "kind"),
    ),
    "halftone_scaling_leader": ("1 for the controller that acts.", ("model",)),
    "halftone_scaling_failed": (
        "1 while the target cannot be read or set.",
        ("model",),
    ),
}
CONFLICTS: Final = ("Rival", "Edited")


class ScalingMetrics:
    """The metrics of one endpoint; `terms` are the law's. Names in `only` are made, or all."""

    def __init__(
        self, model: str, terms: Iterable[str], make: Make, only: Iterable[str] = GAUGES
    ) -> None:
        self._model = model
        self._terms = tuple(terms)
        self._asked: set[str] = set()
        self._gauges = {name: make(name, *GAUGES[name]) for name in only}

    def set_counts(self, ready: int, starting: int) -> None:
        """What is there."""
        self._set("halftone_scaling_ready_replicas", ready)
        self._set("halftone_scaling_starting_replicas", starting)

    def set_most(self, most: int) -> None:
        """The bound from above."""
        self._set("halftone_scaling_max_replicas", most)

    def set_decision(self, wanted: int, term: str, asked: Mapping[str, float]) -> None:
        """What the law said last, and what each term would want alone."""
        self._set("halftone_scaling_desired_replicas", wanted)
        for name in self._terms:
            self._set("halftone_scaling_decision_info", float(name == term), term=name)
        self._asked |= asked.keys()
        for name in sorted(self._asked):  # one that asks no more asks for none
            self._set("halftone_scaling_asked_replicas", asked.get(name, 0.0), term=name)

    def set_held(self, *, held: bool) -> None:
        """Whether the count holds for want of data."""
        self._set("halftone_scaling_held", float(held))

    def set_arguments_refused(self, *, refused: bool) -> None:
        """Whether what somebody changed has no effect."""
        self._set("halftone_scaling_arguments_refused", float(refused))

    def set_observe_only(self, *, observe_only: bool) -> None:
        """Whether anything is carried out."""
        self._set("halftone_scaling_observe_only", float(observe_only))

    def set_capacity_ratio(self, ratio: float) -> None:
        """Measured speed over stated speed."""
        self._set("halftone_scaling_capacity_ratio", ratio)

    def set_lead(self, seconds: float) -> None:
        """The lead that the law reckons with."""
        self._set("halftone_scaling_lead_seconds", seconds)

    def set_conflict(self, kind: str | None) -> None:
        """Who disagrees, a word of `CONFLICTS`; None for nobody."""
        for name in CONFLICTS:
            self._set("halftone_scaling_conflict", float(name == kind), kind=name)

    def set_leader(self, *, leads: bool) -> None:
        """Whether this controller acts."""
        self._set("halftone_scaling_leader", float(leads))

    def set_failed(self, *, failed: bool) -> None:
        """Whether the target could not be read or set."""
        self._set("halftone_scaling_failed", float(failed))

    def _set(self, name: str, value: float, **labels: str) -> None:
        if name in self._gauges:
            self._gauges[name](value, {"model": self._model, **labels})
