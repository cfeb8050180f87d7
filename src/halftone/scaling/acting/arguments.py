"""What Ray's policy is told: its arguments, checked, and what decides by them.

Called by `reloading`. Standard library only.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from halftone.scaling.acting.deciding import Decider, Deciding, Learned
from halftone.scaling.acting.learning import ASSUMED_LEAD_S, LearningDecider, TellingReader
from halftone.scaling.acting.ray_carrier import Manner
from halftone.scaling.capacity import Capacity
from halftone.scaling.capacity_fields import Stated, told
from halftone.scaling.follower import Follower
from halftone.scaling.inputs.asking import Access
from halftone.scaling.inputs.prometheus import PrometheusReader
from halftone.scaling.policy import Settings, itl_refusal

log = logging.getLogger("ray.serve")

# Three lost looks in a row must not be a gap that makes the law begin anew (`demand`).
LONGEST_INTERVAL_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Arguments:
    """Those of `ray_policy.KVPressurePolicy`, which says what they mean; `card` is no path here."""

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

    def __post_init__(self) -> None:
        """Raises ValueError that names the argument."""
        if not 0 < self.interval_s <= LONGEST_INTERVAL_S:
            raise ValueError(
                f"`interval_s` is {self.interval_s}, and must be above 0 and at most "
                f"{LONGEST_INTERVAL_S:.0f}"
            )

    @property
    def law(self) -> Settings:
        """Raises TypeError or ValueError that names what is wrong."""
        assumed_s = ASSUMED_LEAD_S
        if self.card is not None:
            try:
                assumed_s = float(self.card["warmUpSeconds"])
            except KeyError as error:
                raise _no_card(error) from None
        return Settings(
            **{**self.settings, "lead_s": float(assumed_s if self.lead_s is None else self.lead_s)}
        )

    @property
    def manner(self) -> Manner:
        """How often it looks, and how long what it saw counts."""
        # Reading may take three timeouts; an answer that old is still a late one, not a lost one.
        return Manner(self.interval_s, self.law.stale_s + self.interval_s)

    @property
    def source(self) -> tuple[Any, ...]:
        """What a reader is made of: the same one reads on while this stays the same."""
        chosen = tuple(sorted((self.selector or {}).items()))
        access = (self.token_file, self.ca_file)
        return self.prometheus, self.model, chosen, access, self.law.stale_s

    def reader(self) -> PrometheusReader:
        """What asks Prometheus. Raises ValueError for a URL that is none."""
        return PrometheusReader(
            self.prometheus,
            self.model,
            selector=self.selector,
            access=Access({}, _path(self.token_file), _path(self.ca_file)),
            stale_s=self.law.stale_s,
        )

    def decider(self, reader: TellingReader, learned: Learned) -> Deciding:
        """What decides by them, with what was learnt before. Raises ValueError for a card that is
        none.
        """
        law = self.law
        if self.card is None:
            return LearningDecider(reader, law, self.lead_s, self.interval_s, learned=learned)
        try:
            capacity = Capacity.from_card(self.card)
        except KeyError as error:
            raise _no_card(error) from None
        told(Stated(capacity, law.lead_s))  # or the law reckons with what no replica can be
        if (warning := itl_refusal(capacity, law)) is not None:
            log.warning("halftone: %s", warning)
        return Decider(reader, Follower(capacity, law, self.interval_s), law.lead_s, learned)


def said(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as they are now, files read: those of `file` and those beside it.

    Raises OSError or ValueError.
    """
    found = dict(given)
    if "file" in found:
        path = Path(found.pop("file"))
        inside = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(inside, dict):
            raise ValueError(f"`{path}` holds no JSON object")
        if twice := sorted(inside.keys() & found.keys()):
            raise ValueError(
                f"`{twice[0]}` stands in `{path}` and beside it; leave one of them out"
            )
        found |= inside
    if isinstance(found.get("card"), str):
        found["card"] = json.loads(Path(found["card"]).read_text(encoding="utf-8"))
    return found


def _no_card(missing: KeyError) -> ValueError:
    return ValueError(f"the capacity card has no {missing}; `halftone bench` makes a whole one")


def _path(named: str | None) -> Path | None:
    return None if named is None else Path(named)
