"""`KlDivergence`, `TopOneAgreement` and `Perplexity`: the limits, the culprit, and the evidence."""

import json
from typing import Any

import numpy as np
import pytest

from halftone.spec.gates import KlDivergence, Metric, Perplexity, TopOneAgreement
from halftone.spec.reports import Outcome
from halftone.validate.gates.divergence import evidence, judge
from halftone.validate.gates.token_divergence import Divergence, PromptMeasure


def prompt(name: str, kl: list[float], agrees: list[bool], worse: float = 0.0) -> PromptMeasure:
    """A prompt whose tokens cost the source 1 nat and the quantized model `worse` more."""
    size = len(kl)
    return PromptMeasure(
        name,
        "prose",
        np.array(kl),
        np.array(agrees),
        np.ones(size),
        np.ones(size) + worse,
        tuple(range(1, size + 1)),
        tuple(f"token {i}" for i in range(size)),
    )


def measured(*prompts: PromptMeasure) -> Divergence:
    return Divergence(prompts, np.array([1e-6, 3e-6]), "0" * 64, 64, "by hand")


GOOD = prompt("calm", [0.01, 0.02, 0.03], [True, True, True])
BAD = prompt("storm", [0.05, 0.07, 0.09], [True, False, False], worse=0.03)


def kl(maximum: str) -> KlDivergence:
    return KlDivergence(name="kl", metric=Metric.KlDivergence, maximum=maximum)


@pytest.mark.parametrize(("maximum", "outcome"), [("0.045", "Passed"), ("0.0449", "Failed")])
def test_the_mean_divergence_may_reach_its_limit_and_not_more(maximum: str, outcome: str) -> None:
    result = judge(kl(maximum), measured(GOOD, BAD))
    assert result.outcome.value == outcome
    assert result.score == "0.045000"
    assert result.limit == f"≤ {maximum} nats"
    assert result.items == 2
    assert result.culprit == (None if outcome == "Passed" else "storm")
    assert "the source against itself has 0.000002" in result.message


def test_a_limit_finer_than_six_decimals_is_not_rounded_away() -> None:
    result = judge(kl("0.0000001"), measured(prompt("calm", [4e-7], [True])))
    assert result.outcome is Outcome.Failed
    assert (result.score, result.limit) == ("0.0000004", "≤ 0.0000001 nats")


def test_the_error_of_the_divergence_is_by_prompts() -> None:
    result = judge(kl("1"), measured(GOOD, BAD))
    assert result.standardError == "0.025000"
    assert result.interval is not None
    assert (result.interval.lower, result.interval.upper) == ("-0.003999", "0.093999")


def test_divergence_without_bound_fails_and_names_its_prompt() -> None:
    result = judge(kl("1"), measured(GOOD, prompt("broken", [float("inf")], [False])))
    assert result.outcome is Outcome.Failed
    assert (result.score, result.culprit) == ("unbounded", "broken")
    assert result.standardError is None


@pytest.mark.parametrize(("percent", "outcome"), [(66, "Passed"), (67, "Failed")])
def test_agreement_counts_tokens_and_not_prompts(percent: int, outcome: str) -> None:
    gate = TopOneAgreement(name="top", metric=Metric.TopOneAgreement, minPercent=percent)
    result = judge(gate, measured(GOOD, BAD))
    assert result.outcome.value == outcome
    assert result.score == "66.6667"
    assert result.culprit == (None if outcome == "Passed" else "storm")


@pytest.mark.parametrize(("percent", "outcome"), [(2, "Passed"), (1, "Failed")])
def test_perplexity_is_judged_by_its_increase(percent: int, outcome: str) -> None:
    """Half of the tokens cost 0.03 nats more: exp(0.015) - 1 is 1.51 %."""
    gate = Perplexity(name="ppl", metric=Metric.Perplexity, maxIncreasePercent=percent)
    result = judge(gate, measured(GOOD, BAD))
    assert result.outcome.value == outcome
    assert result.score == "1.5113"
    assert (result.sourceScore, result.quantizedScore) == ("2.7183", "2.7594")
    assert result.culprit == (None if outcome == "Passed" else "storm")


def test_a_perplexity_that_is_no_number_fails() -> None:
    gate = Perplexity(name="ppl", metric=Metric.Perplexity, maxIncreasePercent=1000)
    result = judge(gate, measured(GOOD, prompt("broken", [1.0], [False], worse=float("inf"))))
    assert result.outcome is Outcome.Failed
    assert result.culprit == "broken"
    nothing = judge(gate, measured(prompt("nan", [1.0], [False], worse=float("nan"))))
    assert nothing.outcome is Outcome.Failed


def test_a_source_without_a_perplexity_makes_nobody_better() -> None:
    gate = Perplexity(name="ppl", metric=Metric.Perplexity, maxIncreasePercent=5)
    broken = prompt("broken", [1.0], [False])
    broken.source_loss[:] = float("inf")
    assert judge(gate, measured(broken)).outcome is Outcome.Failed


def test_evidence_is_json_that_any_reader_takes() -> None:
    document = evidence(measured(GOOD, BAD, prompt("broken", [float("inf")], [False])))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert [row["id"] for row in document["prompts"]] == ["calm", "storm", "broken"]
    assert document["prompts"][2]["meanKl"] is None
    assert document["mean"] is None
    assert document["worst"][0] == {
        "prompt": "broken", "position": 1, "token": "token 0", "kl": None,
    }  # fmt: skip


def test_the_histogram_counts_every_token_once() -> None:
    values = [0.0, 1e-9, 1e-4, 0.02, 5.0, 1e3]
    document = evidence(measured(prompt("all", values, [True] * 6)))
    edges: Any = document["histogram"]["edges"]
    counts = document["histogram"]["counts"]
    assert len(edges) == len(counts) + 1
    assert edges == sorted(edges)
    assert (edges[0], edges[-1]) == (1e-8, 10.0)
    assert sum(counts) == 6
    assert counts[0] == 2


def test_evidence_names_the_worst_tokens_first() -> None:
    document = evidence(measured(GOOD, BAD))
    found = [(row["prompt"], row["token"]) for row in document["worst"]]
    assert found[:3] == [("storm", "token 2"), ("storm", "token 1"), ("storm", "token 0")]
    assert document["p99"] == 0.09
    assert document["noiseFloor"] == {"mean": pytest.approx(2e-6), "p99": 3e-6}
