"""Which of an artifact's capacity cards is a replica's own, and what it says that one can do.

Called by the replica once its engine is up, which then exports it for whoever scales it. Costs are
the card's, for they were measured; blocks and limits are the engine's, which knows them. Pure.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from halftone.scaling.capacity import Capacity
from halftone.scaling.capacity_fields import Stated, told
from halftone.spec.capacity import CapacityCard, engine_digest
from halftone.validate.serving.session import EngineFacts


class KnownCapacity(NamedTuple):
    """`fields` are those of `capacity_fields`. `is_exact`: measured with just this engine."""

    fields: Mapping[str, float]
    is_exact: bool


def known_capacity(cards: Iterable[CapacityCard], facts: EngineFacts) -> KnownCapacity | None:
    """Of the card that was measured with this engine, else of the one with most in common.

    A card of another device, or of another tensor-parallel size, is none; nor is one whose values
    are no numbers to reckon with.
    """
    digest = _digest(facts)
    like = [card for card in cards if _is_like(card, facts)]
    like.sort(key=lambda card: card.path)
    like.sort(key=lambda card: (card.digest == digest, _in_common(card, facts)), reverse=True)
    for card in like:
        try:
            return KnownCapacity(told(_stated(card, facts)), card.digest == digest)
        except (KeyError, TypeError, ValueError):
            continue
    return None


def unknown_sentence(facts: EngineFacts) -> str:
    """For the log: what is missing, and which command makes it."""
    size = facts.engineArguments.get("tensorParallel", "1")
    return (
        f"The artifact has no capacity card for '{facts.device}' with a tensor-parallel size of "
        f"{size}, so nobody knows from this replica how many are needed; `halftone bench URL "
        "--output DIRECTORY` makes one of an endpoint with one replica, for the artifact's "
        "`capacity/` or for `autoscaling.capacity`."
    )


def _digest(facts: EngineFacts) -> str:
    return engine_digest(facts.device, facts.driver, facts.engine, facts.engineArguments)


def _is_like(card: CapacityCard, facts: EngineFacts) -> bool:
    size = facts.engineArguments.get("tensorParallel")
    return card.device == facts.device and str(card.tensorParallel) == size


def _in_common(card: CapacityCard, facts: EngineFacts) -> tuple[int, bool, bool]:
    """The more of its arguments are this engine's the nearer it is; then version and driver."""
    alike = sum(
        facts.engineArguments.get(name) == value for name, value in card.engineArguments.items()
    )
    return alike, card.engine == facts.engine, card.driver == facts.driver


def _stated(card: CapacityCard, facts: EngineFacts) -> Stated:
    said = card.model_dump(mode="json") | {
        "kvBlocks": facts.kvBlocks,
        "cacheGroups": facts.cacheGroups,
        "tokenBudget": facts.tokenBudget,
        "maxSequences": facts.maxSequences,
    }
    return Stated(Capacity.from_card(said), float(card.warmUpSeconds))
