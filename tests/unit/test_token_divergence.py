"""The arithmetic of divergence, against whole distributions computed by NumPy.

We test these aspects: truncated divergence with a tail is at most the whole one, equal when the top
is the vocabulary, and never negative; numbers that are not finite; tied first choices; clustered
standard errors; perplexity.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftone.validate.gates.token_divergence import (
    clustered_mean,
    compare,
    perplexities,
    token_divergence,
)

Floats = Any


def normalized(logits: Floats) -> Floats:
    """Log probabilities in FP32, as an engine answers."""
    whole = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return whole.astype(np.float32)


def pair(seed: int, tokens: int, vocabulary: int, apart: float) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    source = random.normal(0, 3, (tokens, vocabulary))
    return normalized(source), normalized(source + random.normal(0, apart, source.shape))


def answers(source: Floats, other: Floats, top: int, name: str = "a") -> tuple[Any, Any]:
    """What `score` and `follow` would answer about two whole distributions."""
    ids = np.argsort(-source, axis=1, kind="stable")[:, :top]
    own = np.arange(len(source)) % source.shape[1]
    one, two = (
        {
            "id": name,
            "tokens": [0, *own.tolist()],
            "positions": list(range(1, len(own) + 1)),
            "pieces": [str(token) for token in own],
            "ids": ids.tolist(),
            "logprobs": np.take_along_axis(whole, ids, axis=1).tolist(),
            "targets": whole[np.arange(len(own)), own].tolist(),
            "best": whole.argmax(axis=1).tolist(),
            "bestLogprobs": whole.max(axis=1).tolist(),
        }
        for whole in (source, other)
    )
    return one, two


def exact(source: Floats, other: Floats) -> Floats:
    p, q = source.astype(np.float64), other.astype(np.float64)
    return (np.exp(p) * (p - q)).sum(axis=1)


def measured(*prompts: tuple[Any, Any], vocabulary: int, floor: list[Any] | None = None) -> Any:
    sources = [source for source, _ in prompts]
    score = {"prompts": sources, "vocabulary": vocabulary, "topK": len(sources[0]["ids"][0])}
    follow = {"prompts": [other for _, other in prompts], "method": "by hand"}
    again = {"prompts": floor or sources}
    return compare(score, follow, again, {"a": "prose"}, "0" * 64)


@given(
    seed=st.integers(0, 2**32),
    vocabulary=st.integers(2, 200),
    share=st.floats(0, 1),
    apart=st.floats(0, 3),
)
def test_truncated_divergence_is_between_zero_and_the_whole_one(
    seed: int, vocabulary: int, share: float, apart: float
) -> None:
    source, other = pair(seed, 6, vocabulary, apart)
    top = max(1, round(share * vocabulary))
    found = token_divergence(*answers(source, other, top), vocabulary)
    assert (found >= 0).all()
    assert (found <= exact(source, other) + 2e-5).all()


@given(seed=st.integers(0, 2**32), vocabulary=st.integers(2, 200), apart=st.floats(0, 3))
def test_divergence_over_the_whole_vocabulary_is_exact(
    seed: int, vocabulary: int, apart: float
) -> None:
    source, other = pair(seed, 6, vocabulary, apart)
    found = token_divergence(*answers(source, other, vocabulary), vocabulary)
    np.testing.assert_allclose(found, exact(source, other), rtol=1e-4, atol=2e-6)


def test_more_ids_see_more_of_the_divergence() -> None:
    source, other = pair(3, 200, 500, 1.0)
    means = [token_divergence(*answers(source, other, top), 500).mean() for top in (1, 8, 64, 500)]
    assert means == sorted(means)
    assert means[2] > 0.8 * means[3]


def test_a_model_does_not_diverge_from_itself() -> None:
    source, _ = pair(5, 50, 300, 1.0)
    assert (token_divergence(*answers(source, source, 16), 300) == 0).all()


def test_without_the_tail_the_sum_would_be_no_divergence() -> None:
    """The other model moved everything to ids that the source's top does not hold."""
    source = normalized(np.array([[2.0, 1.0, 0.0, 0.0]]))
    other = normalized(np.array([[1.0, 2.0, 9.0, 9.0]]))
    found = token_divergence(*answers(source, other, 2), 4)
    np.testing.assert_allclose(
        found,
        np.exp(source[0, :2]) @ (source[0, :2] - other[0, :2])
        + np.exp(source[0, 2:]).sum()
        * np.log(np.exp(source[0, 2:]).sum() / np.exp(other[0, 2:]).sum()),
        rtol=1e-5,
    )


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_numbers_that_are_none_diverge_without_bound(value: float) -> None:
    source, other = pair(1, 3, 20, 0.1)
    broken = other.copy()
    broken[1] = value
    found = token_divergence(*answers(source, broken, 5), 20)
    assert np.isinf(found[1])
    assert np.isfinite(found[[0, 2]]).all()


def test_tied_first_choices_agree_and_others_do_not() -> None:
    tied = normalized(np.array([[4.0, 4.0, 0.0, 1.0]] * 3))
    other = normalized(np.array([[1.0, 4.0, 0.0, 0.0], [4.0, 0.0, 0.0, 0.0], [0.0, 0, 0, 4.0]]))
    found = measured(answers(tied, other, 3), vocabulary=4)
    assert found.prompts[0].agrees.tolist() == [True, True, False]
    reverse = measured(answers(other, tied, 3), vocabulary=4)
    assert reverse.prompts[0].agrees.tolist() == [True, True, False]


def test_clustered_errors_are_the_plain_ones_when_every_cluster_is_one_token() -> None:
    values = np.random.default_rng(2).normal(1, 2, 400)
    mean, error = clustered_mean([np.array([value]) for value in values])
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / 20)


def test_clustered_errors_grow_when_tokens_of_a_prompt_are_alike() -> None:
    """Twenty copies of each value say no more than the value: same mean, same error."""
    values = np.random.default_rng(2).normal(1, 2, 400)
    alone = clustered_mean([np.array([value]) for value in values])
    copied = clustered_mean([np.full(20, value) for value in values])
    assert copied == pytest.approx(alone)


def test_the_clustered_error_is_how_far_means_really_spread() -> None:
    """Clusters of different sizes whose tokens share a part of their value."""
    random = np.random.default_rng(11)

    def sample() -> list[Any]:
        sizes = random.integers(5, 40, 60)
        return [random.normal(random.normal(0, 1), 0.5, size) for size in sizes]

    samples = [clustered_mean(sample()) for _ in range(400)]
    spread = np.std([mean for mean, _ in samples])
    claimed = np.mean([error for _, error in samples if error is not None])
    assert claimed == pytest.approx(spread, rel=0.15)


def test_one_prompt_has_no_standard_error() -> None:
    assert clustered_mean([np.array([1.0, 3.0])]) == (2.0, None)
    mean, error = clustered_mean([])
    assert np.isnan(mean)
    assert error is None


def test_perplexity_is_that_of_the_prompts_own_tokens() -> None:
    source, other = pair(4, 30, 60, 0.5)
    found = measured(answers(source, other, 4), vocabulary=60)
    own = np.arange(30) % 60
    expected = [np.exp(-w[np.arange(30), own].astype(np.float64).mean()) for w in (source, other)]
    assert perplexities(found) == pytest.approx(tuple(expected))


def test_answers_about_different_prompts_are_not_compared() -> None:
    source, other = pair(4, 3, 9, 0.5)
    one, _ = answers(source, other, 4, "a")
    _, two = answers(source, other, 4, "b")
    with pytest.raises(ValueError, match="`a` and `b`"):
        measured((one, two), vocabulary=9)
