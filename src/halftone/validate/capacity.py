"""Fits a capacity card from timed steps of an engine.

Called by `gates/speed.py` with what `serving/speed.py` measured, and in parts by
`serve/measuring/steps.py`, which times an endpoint from outside. The model is the autoscaler's:

    seconds of a step = base + a · KV tokens + b · sequences + prompt tokens / V_P

KV tokens and sequences are those that decode in the step. All four are costs, so none may come out
negative: least squares without that bound would sell noise as a step that gets cheaper with load.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import combinations
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from halftone.spec.capacity import CacheGroup, CapacityCard, Fitted
from halftone.validate.serving.session import EngineFacts

_DIGITS: Final = 5  # significant ones of a fitted value; its error is far above

Floats = npt.NDArray[np.float64]


class Step(NamedTuple):
    """One timed step, or the median of a few alike."""

    kvTokens: float
    sequences: float
    prefillTokens: float
    seconds: float


class StepCosts(NamedTuple):
    """Seconds, each with its standard error: base, a, b, and of one prompt token."""

    base: tuple[float, float]
    perKvToken: tuple[float, float]
    perSequence: tuple[float, float]
    perPrefillToken: tuple[float, float]

    def seconds(self, kv_tokens: float, sequences: float, prefill_tokens: float = 0.0) -> float:
        """What a step of this composition takes."""
        costs = np.array([self.base[0], self.perKvToken[0], self.perSequence[0]])
        decode = float(costs @ np.array([1.0, kv_tokens, sequences]))
        return decode + self.perPrefillToken[0] * prefill_tokens


def fit(steps: Sequence[Step]) -> StepCosts:
    """The costs that explain `steps` best in relative terms, so that short steps count as much.

    Raises ValueError for fewer than five steps, or steps that do not differ enough to tell the
    costs apart.
    """
    if len(steps) < 5:
        raise ValueError(f"{len(steps)} steps cannot tell four costs and their errors")
    rows = np.asarray(steps, np.float64)
    seconds = rows[:, 3]
    design = np.column_stack([np.ones(len(rows)), rows[:, :3]]) / seconds[:, None]
    if np.linalg.matrix_rank(design / np.linalg.norm(design, axis=0).clip(min=1e-300)) < 4:
        raise ValueError("the steps differ too little to tell their costs apart")
    values = non_negative_least_squares(design, np.ones(len(rows)))
    errors = standard_errors(design, values)
    return StepCosts(*zip(values.tolist(), errors.tolist(), strict=True))


def non_negative_least_squares(design: Floats, wanted: Floats) -> Floats:
    """The x ≥ 0 that minimises |design · x - wanted|; design float64[rows, few], full rank.

    The best of the plain fits of every subset of columns that has no negative value: exact, and
    there are only sixteen subsets of four columns.
    """
    columns = design.shape[1]
    scale = np.linalg.norm(design, axis=0).clip(min=1e-300)
    best, best_rest = np.zeros(columns), float(wanted @ wanted)
    for size in range(1, columns + 1):
        for chosen in combinations(range(columns), size):
            part = design[:, chosen] / scale[list(chosen)]
            found = np.linalg.lstsq(part, wanted, rcond=None)[0]
            rest = float(np.sum((part @ found - wanted) ** 2))
            if (found >= 0).all() and rest < best_rest:
                best, best_rest = np.zeros(columns), rest
                best[list(chosen)] = found / scale[list(chosen)]
    return best


def standard_errors(design: Floats, values: Floats) -> Floats:
    """Of a fit of `design` to ones, of all columns together, also of a cost that was held at 0: it
    may be that much greater.
    """
    scale = np.linalg.norm(design, axis=0)
    rest = float(np.sum((design @ values - 1) ** 2)) / (len(design) - design.shape[1])
    spread = np.linalg.inv((design / scale).T @ (design / scale))
    errors: Floats = np.sqrt(rest * np.diag(spread)) / scale
    return errors


def build_card(
    facts: EngineFacts, measured: Mapping[str, Any], checkpoint_digest: str
) -> CapacityCard:
    """The card of the model that `facts` and `measured` (`serving/speed.py`) are about.

    `warmUpSeconds` is loading and the first load of requests, after which steps are timed. Raises
    ValueError where `fit` does.
    """
    steps = [Step(*row) for row in measured["steps"]]
    warm_up = facts.loadSeconds + float(measured["warmUpSeconds"])
    return card_of(facts, fit(steps), len(steps), warm_up, checkpoint_digest)


def card_of(
    facts: EngineFacts,
    costs: StepCosts,
    samples: int,
    warm_up_seconds: float,
    checkpoint_digest: str,
) -> CapacityCard:
    """The card that states `costs`, which `samples` steps of the engine of `facts` gave."""
    groups = [CacheGroup(**group) for group in facts.cacheGroups]
    plain = groups[0] if len(groups) == 1 and not groups[0].blocksPerRequest else None
    card = CapacityCard(
        digest="",
        checkpointDigest=checkpoint_digest,
        device=facts.device,
        driver=facts.driver,
        engine=facts.engine,
        emulated=facts.emulated,
        tensorParallel=int(facts.engineArguments["tensorParallel"]),
        engineArguments=facts.engineArguments,
        prefillTokensPerSecond=_rate(*costs.perPrefillToken),
        stepBaseSeconds=_fitted(*costs.base),
        secondsPerKvToken=_fitted(*costs.perKvToken),
        secondsPerSequence=_fitted(*costs.perSequence),
        kvBlocks=facts.kvBlocks,
        cacheGroups=tuple(groups),
        kvCacheTokens=facts.kvBlocks * plain.blockTokens if plain else None,
        tokenBudget=facts.tokenBudget,
        maxSequences=facts.maxSequences,
        warmUpSeconds=_decimal(warm_up_seconds),
        samples=samples,
    )
    return card.model_copy(update={"digest": card.compute_digest()})


def _rate(seconds: float, error: float) -> Fitted:
    """Tokens per second. A cost that was held at 0 is taken for one standard error of it."""
    cost = seconds or error
    return _fitted(1 / cost, error / cost**2)


def _fitted(value: float, error: float) -> Fitted:
    return Fitted(value=_decimal(value), standardError=_decimal(error))


def _decimal(value: float) -> str:
    """Significant digits without an exponent."""
    return format(Decimal(f"{value:.{_DIGITS}g}"), "f")
