"""Capacity cards: the fit finds known costs, says how sure it is, and gives no negative one."""

from pathlib import Path

import numpy as np
import pytest

from halftone.spec.capacity import CapacityCard
from halftone.validate.capacity import (
    Step,
    build_card,
    fit,
    non_negative_least_squares,
)
from halftone.validate.serving.session import EngineFacts
from tests.measured import (
    BASE,
    FULL_ATTENTION,
    PER_KV,
    PER_SEQUENCE,
    PREFILL,
    STATE,
    facts,
    steps,
)


def card(engine: EngineFacts, noise: float = 0.02) -> CapacityCard:
    measured = {"steps": [list(step) for step in steps(noise)], "warmUpSeconds": 2.25}
    return build_card(engine, measured, "c" * 64)


def test_costs_of_exact_steps_are_found_exactly() -> None:
    costs = fit(steps(0.0))
    assert costs.base[0] == pytest.approx(BASE, rel=1e-6)
    assert costs.perKvToken[0] == pytest.approx(PER_KV, rel=1e-6)
    assert costs.perSequence[0] == pytest.approx(PER_SEQUENCE, rel=1e-6)
    assert costs.perPrefillToken[0] == pytest.approx(1 / PREFILL, rel=1e-6)
    assert costs.seconds(4096, 4, 100) == pytest.approx(
        BASE + 4096 * PER_KV + 4 * PER_SEQUENCE + 100 / PREFILL
    )


def test_the_stated_errors_are_those_of_repeated_measurements() -> None:
    """Over 60 noisy measurements, the truth lies within two standard errors in about 95 %."""
    truth = (BASE, PER_KV, PER_SEQUENCE, 1 / PREFILL)
    within = np.zeros(4)
    for seed in range(60):
        costs = fit(steps(0.05, seed))
        within += [abs(v - t) < 2 * e for (v, e), t in zip(costs, truth, strict=True)]
    assert (within / 60 > 0.83).all()
    assert within.sum() < 4 * 60


def test_a_cost_that_noise_would_make_negative_is_zero_with_its_error() -> None:
    """A linear-attention model's step hardly depends on KV tokens."""
    fits = [fit(steps(0.05, seed, per_kv=0.0)) for seed in range(20)]
    assert all(value >= 0 for costs in fits for value, _ in costs)
    held = [costs.perKvToken for costs in fits if costs.perKvToken[0] == 0]
    assert held
    assert all(error > 0 for _, error in held)


def test_the_bounded_fit_satisfies_its_optimality_conditions() -> None:
    """At the optimum no cost can be raised or lowered with gain, or it is held at 0."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(60):
        design, wanted = rng.standard_normal((12, 4)), rng.standard_normal(12)
        found = non_negative_least_squares(design, wanted)
        slope = design.T @ (design @ found - wanted)
        assert (found >= 0).all()
        assert np.abs(slope[found > 0]).max(initial=0) < 1e-9
        assert slope[found == 0].min(initial=0) > -1e-9
        held += int((found == 0).any())
    assert held > 30


@pytest.mark.parametrize(
    "poor", [[], steps(0.0)[:4], [Step(100, 1, 0, 0.01)] * 20, steps(0.0)[:12]]
)
def test_steps_that_cannot_tell_the_costs_apart_are_refused(poor: list[Step]) -> None:
    with pytest.raises(ValueError, match=r"cannot tell|too little"):
        fit(poor)


def test_a_card_holds_what_was_fitted_and_what_the_engine_said(tmp_path: Path) -> None:
    made = card(facts())
    rate = made.prefillTokensPerSecond
    assert abs(float(rate.value) - PREFILL) < 4 * float(rate.standardError)
    assert 0 < float(rate.standardError) < 0.05 * PREFILL
    assert "e" not in made.secondsPerKvToken.value  # decimals, as documents write them
    assert float(made.secondsPerKvToken.value) == pytest.approx(PER_KV, rel=0.1)
    assert made.warmUpSeconds == "43.75"
    assert (made.tensorParallel, made.tokenBudget, made.maxSequences) == (2, 2048, 64)
    assert made.samples == len(steps(0.0))
    made.save(tmp_path / "card.json")
    assert CapacityCard.load(tmp_path / "card.json") == made


def test_one_number_of_kv_tokens_is_true_for_plain_models_only() -> None:
    assert card(facts()).kvCacheTokens == 16_000
    assert card(facts(cacheGroups=(FULL_ATTENTION, STATE))).kvCacheTokens is None
    assert card(facts(cacheGroups=(STATE,))).kvCacheTokens is None


def test_a_card_is_filed_by_what_it_was_measured_on() -> None:
    made = card(facts())
    name = f"capacity/nvidia-b200-180-gb-vllm-0.32.0-tp2-{made.digest[:12]}.json"
    assert made.path == name
    for other in (
        facts(driver="600.1"),
        facts(device="NVIDIA H100"),
        facts(engine="vllm 0.33.0"),
        facts(engineArguments={"tensorParallel": "2", "dtype": "float16"}),
    ):
        assert card(other).digest != made.digest
    assert card(facts(kvBlocks=7, loadSeconds=1.0)).digest == made.digest
