"""Two endpoints beside each other, on paper.

We test these aspects:
- prompts: both kinds, limits of their own, and a sentence with the line for everything else
- the least divergence: zero for equals, the KL itself where all is listed, never more than it
  whatever is left out, large where the lists have nothing in common, and no worse for a token that
  is listed beside the likeliest
- ratios of percentiles: a known ratio is within its bounds as often as they say, and few prompts
  give none
- the verdict: Same only where every measure is proven, Worse where one is beyond its limit and not
  by chance, else Undecided; reasons are those measures' sentences
- failures: none on the new endpoint alone, a few, and too many for chance
- a limit that is no number is refused, for whatever is compared with it would pass
- other tokenizers leave the divergence open, and say so
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftone.serve.comparing.answering import Answer
from halftone.serve.comparing.divergence import Scored, estimate, least_kl, scored
from halftone.serve.comparing.document import Comparison, Verdict
from halftone.serve.comparing.judging import Limits, Subject, judge
from halftone.serve.comparing.prompts import Prompt, read_prompts
from halftone.serve.comparing.replaying import Pair, Plan, Replayed
from halftone.serve.comparing.resampling import percentile_ratio
from halftone.spec.errors import RefusedInput
from tests.commands import halftone

OLD, NEW = Subject("http://old", "model"), Subject("http://new", "model")


# -- prompts


def test_prompts_of_both_kinds(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"prompt": "Once"}\n\n{"messages": [{"role": "user", "content": "2+3"}], "max_tokens": 5}'
    )
    first, second = read_prompts(path, 64)
    assert (first.line, first.path, first.body()["max_tokens"]) == (1, "/v1/completions", 64)
    assert (second.line, second.path) == (3, "/v1/chat/completions")
    assert second.body() == {"messages": [{"role": "user", "content": "2+3"}], "max_tokens": 5}


def test_a_text_may_hold_the_separators_of_unicode(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a\u2028b\x85c"}\r\n{"prompt": "d"}\n', encoding="utf-8")
    first, second = read_prompts(path, 64)
    assert (first.text, first.line) == ("a\u2028b\x85c", 1)
    assert (second.text, second.line) == ("d", 2)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no json", "is not a JSON object"),
        pytest.param("[" * 100_000, "is not a JSON object", id="deep"),
        ("[1]", "is not a JSON object"),
        ("{}", "exactly one of `prompt` and `messages`"),
        ('{"prompt": "a", "messages": []}', "exactly one of `prompt` and `messages`"),
        ('{"prompt": ""}', "must have text as `prompt`"),
        ('{"prompt": 3}', "must have text as `prompt`"),
        ('{"messages": []}', "must have a list of messages"),
        ('{"messages": ["hello"]}', "must have a list of messages"),
        ('{"prompt": "a", "max_tokens": 0}', "a whole number from 1"),
        ('{"prompt": "a", "max_tokens": true}', "a whole number from 1"),
        ('{"prompt": "a", "temperature": 1}', "has `temperature`"),
    ],
)
def test_bad_prompts_are_named_by_their_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Once"}\n' + line)
    with pytest.raises(RefusedInput, match=r"^Line 2 of `--prompts` ") as refused:
        read_prompts(path, 64)
    assert said in refused.value.message


@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xff\xfe"])
def test_a_file_without_prompts(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(data)
    with pytest.raises(RefusedInput, match="--prompts"):
        read_prompts(path, 64)


# -- divergence

weights = st.lists(st.floats(0.001, 1.0), min_size=12, max_size=12)


def distribution(values: list[float]) -> np.ndarray:
    return np.asarray(values) / sum(values)


def likeliest(probabilities: np.ndarray, top_k: int, *also: int) -> dict[str, float]:
    best = set(np.argsort(-probabilities, kind="stable")[:top_k].tolist()) | set(also)
    return {str(token): math.log(probabilities[token]) for token in best}


def exact_kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.sum(p * np.log(p / q)))


@given(weights, weights, st.integers(1, 11), st.integers(0, 11))
def test_the_least_divergence_is_at_most_the_true_one(
    one: list[float], other: list[float], top_k: int, also: int
) -> None:
    p, q = distribution(one), distribution(other)
    found = least_kl(likeliest(p, top_k, also), likeliest(q, top_k, also), top_k)
    assert 0 <= found <= exact_kl(p, q) + 1e-5


@given(weights, weights)
def test_where_all_is_listed_it_is_the_divergence(one: list[float], other: list[float]) -> None:
    p, q = distribution(one), distribution(other)
    found = least_kl(likeliest(p, 12), likeliest(q, 12), 12)
    assert found == pytest.approx(exact_kl(p, q), abs=1e-5)


@given(weights, st.integers(1, 12))
def test_equal_models_do_not_diverge(one: list[float], top_k: int) -> None:
    listed = likeliest(distribution(one), top_k)
    assert least_kl(listed, listed, top_k) == pytest.approx(0, abs=1e-9)


def test_lists_with_nothing_in_common_diverge_much() -> None:
    # Both models are sure, of different tokens; neither lists the other's.
    old = {str(token): math.log(0.249) for token in range(4)}
    new = {str(token): math.log(0.2499) for token in range(4, 8)}
    # The new model has 0.0004 left for the old one's four: 0.996 ln(0.996 / 0.0004) at least.
    assert least_kl(old, new, 4) > 7


def test_agreement_counts_ties() -> None:
    rows = scored(
        [{"1": -0.7, "2": -0.7}, {"1": -0.1, "2": -3.0}, {}],
        [{"2": -0.5, "1": -1.0}, {"2": -0.1, "1": -3.0}, {"1": -1.0}],
        2,
    )
    assert rows.agrees.tolist() == [1, 0]


def test_a_mean_of_one_prompt_has_no_bounds() -> None:
    found = estimate([np.array([0.1, 0.2]), np.array([])])
    assert (found.prompts, found.tokens, found.bound(0.05, +1)) == (1, 2, math.inf)


# -- ratios of percentiles


@pytest.mark.timeout(20)
def test_bounds_hold_the_truth_as_often_as_they_say() -> None:
    numbers = np.random.default_rng(7)
    outside = 0
    for _ in range(24):
        speed = numbers.lognormal(0, 0.5, (25, 1))
        old = speed * numbers.lognormal(0, 0.2, (25, 4))
        new = 1.5 * speed * numbers.lognormal(0, 0.2, (25, 4))
        found = percentile_ratio(old.tolist(), new.tolist(), 50)
        assert found is not None
        outside += not found.bound(0.05, -1) <= 1.5 <= found.bound(0.05, +1)
    # One in ten is expected; more than 8 of 24 happen less than once in a thousand times.
    assert outside <= 8


def test_few_prompts_have_no_bounds() -> None:
    found = percentile_ratio([[1.0]] * 7, [[2.0]] * 7, 50)
    assert found is not None
    assert (found.value, found.bound(0.05, -1), found.bound(0.05, +1)) == (2.0, 0.0, math.inf)
    assert percentile_ratio([[]], [[1.0]], 50) is None


# -- the verdict


def answered(first: float = 0.1, gap: float = 0.01, tokens: Sequence[int] = (5, 6, 7)) -> Answer:
    arrivals = [first + gap * i for i in range(len(tokens))]
    return Answer(str(tokens), list(tokens), [1, 2], arrivals=arrivals)


def failed(how: str = "answered 500: no") -> Answer:
    return Answer(failure=how)


def pair(line: int, new: Answer, kl: float | None = 0.001, old: Answer | None = None) -> Pair:
    made = Pair(Prompt(line, "text", None, 8), [old or answered(0.1 + line / 1e4)], [new])
    if kl is None:
        made.unscored = "is not the same tokens for both, so tokenizers or chat templates differ"
    else:
        made.scored = Scored(np.array([kl, kl * 1.5]), np.ones(2))
    return made


def compared(make: Callable[[int], Pair], count: int = 20, **limits: float) -> Comparison:
    replayed = Replayed(tuple(make(line) for line in range(1, count + 1)), True, None)
    return judge(replayed, OLD, NEW, Plan(), Limits(**limits))


def test_an_equal_endpoint_is_the_same() -> None:
    found = compared(lambda line: pair(line, answered(0.101 + line / 1e4)))
    assert found.verdict is Verdict.Same
    assert len(found.reasons) == 4
    assert (
        "No prompt of 20 failed on the new endpoint alone; what fails less often than in 14 %"
        in (found.reasons[0])
    )
    assert found.answers.equalPercent == 100
    assert found.answers.firstDifference is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda line: pair(line, answered(), kl=0.4 + line / 100), "nats a token from the old one"),
        (lambda line: pair(line, answered(0.2 + line / 1e4)), "The median first token is 201 ms"),
        (lambda line: pair(line, answered(gap=0.02)), "The median time between tokens is 20 ms"),
        (lambda line: pair(line, failed()), "20 of 20 prompts failed on the new endpoint alone"),
    ],
)
def test_a_worse_endpoint_is_worse_by_name(make: Callable[[int], Pair], said: str) -> None:
    found = compared(make)
    assert found.verdict is Verdict.Worse
    assert said in found.reasons[0]


def test_too_few_prompts_decide_nothing() -> None:
    found = compared(lambda line: pair(line, answered(0.3, 0.02)), count=4)
    assert found.verdict is Verdict.Undecided
    assert all("use more prompts" in reason for reason in found.reasons)


def test_a_few_failures_are_undecided_and_named() -> None:
    found = compared(lambda line: pair(line, failed("broke off") if line == 3 else answered()))
    assert found.verdict is Verdict.Undecided
    assert found.reasons[0] == (
        "1 of 20 prompts failed on the new endpoint alone, which may be chance; prompt 3 broke off."
    )
    assert [(each.endpoint, each.line) for each in found.failures] == [("new", 3)]
    assert (found.new.failed, found.new.requests, found.old.failed) == (1, 20, 0)


def test_what_fails_on_both_is_nobodys_fault() -> None:
    found = compared(
        lambda line: pair(line, failed(), old=failed()) if line < 5 else pair(line, answered())
    )
    assert found.measures[0].outcome == "Passed"


def test_other_tokenizers_leave_it_open() -> None:
    found = compared(lambda line: pair(line, answered(), kl=None))
    assert found.verdict is Verdict.Undecided
    assert found.reasons == (
        "The answers' distributions could not be compared. Prompt 1 is not the same tokens for "
        "both, so tokenizers or chat templates differ.",
    )


def test_one_prompt_that_cannot_be_compared_leaves_it_open() -> None:
    found = compared(lambda line: pair(line, answered(), kl=None if line == 9 else 0.001))
    assert found.verdict is Verdict.Undecided
    assert "; 1 of 20 prompts could not be compared. Prompt 9 is" in found.reasons[0]


def test_limits_are_the_users() -> None:
    slow = lambda line: pair(line, answered(0.15 + line / 1e4))  # noqa: E731
    assert compared(slow).verdict is Verdict.Worse
    assert compared(slow, ttft_percent=80).verdict is Verdict.Same


def test_where_answers_part() -> None:
    found = compared(lambda line: pair(line, answered(tokens=(5, 6, 8) if line % 2 else (5, 6))))
    assert (found.answers.equal, found.answers.firstDifference) == (0, 3)


@pytest.mark.parametrize("limit", ["divergence", "ttft-increase-percent", "itl-increase-percent"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_limit_is_a_number(limit: str, value: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n')
    # Nobody listens there: the limit is looked at first.
    places = ("http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1")
    found = halftone("compare", *places, "--prompts", file, f"--max-{limit}", value)
    assert found.code == 2
    assert f"{value} is not a number to compute with" in found.err
