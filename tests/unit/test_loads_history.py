"""One's own history as a load, from a Prometheus that says what the test wants.

We test these aspects: what arrived is what was answered and what is in flight more; lengths follow
the means of their time; vLLM's own metrics before Ray's; one model of several; what is asked, and
with which labels and which token; every fault is a sentence.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halftone.scaling.loads.history import read_history
from halftone.spec.errors import HalftoneError
from halftone.spec.names import Reason
from tests.doubles.loopback import LoopbackServer
from tests.doubles.range_queries import RangeQueries, Series

POINTS = 61  # an hour, and the minute before


def hour(first: float, second: float | None = None) -> Sequence[float | None]:
    """Half an hour of one value, then of another."""
    return [first] * 31 + [first if second is None else second] * 30


def traffic(family: str = "vllm:", model: str = "pocket", **changes: Series) -> dict[str, Series]:
    """120 requests a minute and then 240, prompts of 500 tokens and then 2000, answers of 50."""
    named = {
        "request_success_total": {model: hour(120, 240)},
        "request_prompt_tokens_sum": {model: hour(120 * 500, 240 * 2000)},
        "request_prompt_tokens_count": {model: hour(120, 240)},
        "request_generation_tokens_sum": {model: hour(120 * 50, 240 * 50)},
        "request_generation_tokens_count": {model: hour(120, 240)},
        "num_requests_running": {model: hour(8)},
        "num_requests_waiting": {model: hour(0)},
        **changes,
    }
    return {f"({family}{name}": rows for name, rows in named.items()}


def test_requests_and_lengths_follow_their_time() -> None:
    with RangeQueries(traffic()) as prometheus:
        load = read_history(prometheus.origin, 3600, end_s=10_000.0, seed=1)
    early = load.arrival_s < 1800
    assert load.name == "history"
    assert 3500 < load.duration_s < 3600
    assert np.count_nonzero(early) == pytest.approx(30 * 120, rel=0.06)
    assert np.count_nonzero(~early) == pytest.approx(30 * 240, rel=0.06)
    assert load.prompt[early].mean() == pytest.approx(500, rel=0.1)
    assert load.prompt[~early].mean() == pytest.approx(2000, rel=0.1)
    assert load.output.mean() == pytest.approx(50, rel=0.1)


def test_equal_histories_and_seeds_give_equal_loads() -> None:
    with RangeQueries(traffic()) as prometheus:
        one, same, other = (
            read_history(prometheus.origin, 3600, end_s=10_000.0, seed=seed) for seed in (1, 1, 2)
        )
    assert np.array_equal(one.arrival_s, same.arrival_s)
    assert np.array_equal(one.output, same.output)
    assert len(one) != len(other)


def test_what_piles_up_has_arrived_though_nothing_was_answered() -> None:
    waiting = {"pocket": [0.0] * 31 + [600.0 * minute for minute in range(1, 31)]}
    answered = {"pocket": hour(120, 0)}
    series = traffic(num_requests_waiting=waiting, request_success_total=answered)
    with RangeQueries(series) as prometheus:
        load = read_history(prometheus.origin, 3600, end_s=10_000.0)
    assert np.count_nonzero(load.arrival_s >= 1800) == pytest.approx(30 * 600, rel=0.05)


def test_idle_time_without_series_has_no_requests() -> None:
    idle: dict[str, Any] = {"pocket": [None] * 31 + [120.0] * 30}
    gone: dict[str, Any] = {"pocket": [None] * POINTS}
    series = traffic(request_success_total=idle, num_requests_running=gone)
    series["count by"] = {"pocket": [1.0] * POINTS}  # but it was there
    series = {"count by": series["count by"], **series}
    with RangeQueries(series) as prometheus:
        load = read_history(prometheus.origin, 3600, end_s=10_000.0)
    assert load.arrival_s.min() >= 1800
    assert len(load) == pytest.approx(30 * 120, rel=0.06)


def test_rays_metrics_are_taken_where_vllms_own_are_not() -> None:
    with RangeQueries(traffic("ray_vllm_")) as prometheus:
        assert len(read_history(prometheus.origin, 3600)) > 0
    both = {**traffic("ray_vllm_"), **traffic()}
    with RangeQueries(both) as prometheus:
        read_history(prometheus.origin, 3600)
        assert not [x for x in prometheus.asked if "ray_vllm_" in x["query"]]


def test_of_several_models_one_is_named() -> None:
    both = {"count by": {"pocket": hour(1), 'a "b"': hour(1)}}
    series = {**both, **traffic(model='a "b"')}
    with RangeQueries(series) as prometheus:
        assert len(read_history(prometheus.origin, 3600, model='a "b"')) > 0
        chosen = [x["query"] for x in prometheus.asked if "increase" in x["query"]]
        assert all('{model_name="a \\"b\\""}[60s]' in query for query in chosen)


def test_a_range_is_asked_for_in_minutes_and_no_more_than_prometheus_gives() -> None:
    month = 31 * 86_400
    with RangeQueries({}) as prometheus:
        for seconds in (3600, month):
            with pytest.raises(HalftoneError):
                read_history(f"{prometheus.origin}/prefix/", seconds, end_s=1e9)
        short, long_ = prometheus.asked[0], prometheus.asked[-1]
    assert short["path"] == "/prefix/api/v1/query_range"
    assert [float(short[name]) for name in ("start", "end", "step")] == [1e9 - 3600, 1e9, 60]
    assert (1e9 - float(long_["start"])) / float(long_["step"]) <= 10_000


def test_every_question_has_the_labels_that_were_chosen() -> None:
    selector = {"namespace": 'a "b"', "job": "endpoint"}
    with RangeQueries(traffic()) as prometheus:
        assert len(read_history(prometheus.origin, 3600, selector=selector)) > 0
        asked = [each["query"] for each in prometheus.asked]
    assert len(asked) > 5
    assert all('namespace="a \\"b\\"", job="endpoint"}' in query for query in asked)
    with (
        RangeQueries({}) as prometheus,
        pytest.raises(HalftoneError, match=r'with {namespace="a .*", job="endpoint"} in that time'),
    ):
        read_history(prometheus.origin, 3600, selector=selector)


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "ca.pem", tmp_path / "none.pem"):
        (tmp_path / "ca.pem").write_text("no certificate")
        with pytest.raises(HalftoneError, match=r"holds no certificates.*name a PEM file"):
            read_history("https://127.0.0.1:9", 3600, ca_file=path)


def test_a_token_is_shown_and_never_said(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    with RangeQueries({}, status=403) as prometheus:
        with pytest.raises(HalftoneError) as refused:
            read_history(prometheus.origin, 3600, token_file=token)
        assert prometheus.tokens == ["Bearer s3cret"]
    assert refused.value.reason is Reason.AccessDenied
    assert "s3cret" not in refused.value.message


@pytest.mark.parametrize("text", ["", "two words", "two\nlines", "a\x00null"])
def test_a_file_without_a_token_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(HalftoneError, match="holds no bearer token"):
        read_history("http://127.0.0.1:9", 3600, token_file=tmp_path / "token")


@pytest.mark.parametrize(
    ("answer", "reason", "said"),
    [
        ({"series": {}}, Reason.InvalidTrace, "has no history of `vllm:num_requests_running`"),
        (
            {"series": {"count by": {"b": hour(1), "a": hour(1)}}},
            Reason.InvalidTrace,
            "knows 'a', 'b'; name one with `--model`",
        ),
        (
            {"series": traffic(request_prompt_tokens_count={})},
            Reason.InvalidTrace,
            "saw no request to 'pocket' answered",
        ),
        (
            {"series": traffic(request_success_total={})},
            Reason.InvalidTrace,
            "saw no request to 'pocket' answered",
        ),
        ({"series": {}, "status": 401}, Reason.AccessDenied, "lets us not in"),
        (
            {"series": {}, "status": 400, "body": b"bad\n query"},
            Reason.StoreUnavailable,
            "answers with status 400: bad query",
        ),
        ({"series": {}, "body": b"<html>"}, Reason.StoreUnavailable, "not answer as Prometheus"),
        ({"series": {}, "body": b"[1]"}, Reason.StoreUnavailable, "not answer as Prometheus"),
        (
            {"series": {}, "body": b'{"data": {"result": [{"metric": {}}]}}'},
            Reason.StoreUnavailable,
            "not answer as Prometheus",
        ),
        (
            {
                "series": {},
                "body": b'{"data": {"result": [{"metric": {}, "values": [[1e999, 1]]}]}}',
            },
            Reason.StoreUnavailable,
            "not answer as Prometheus",
        ),
        ({"series": {}, "body": b"[" * 100_000}, Reason.StoreUnavailable, "as Prometheus does"),
    ],
)
def test_what_is_no_history_is_a_sentence(
    answer: dict[str, Any], reason: Reason, said: str
) -> None:
    with RangeQueries(**answer) as prometheus, pytest.raises(HalftoneError) as found:
        read_history(prometheus.origin, 3600)
    assert found.value.reason is reason
    assert said in found.value.message


def test_an_unknown_model_is_told_those_that_there_are() -> None:
    with (
        RangeQueries(traffic()) as prometheus,
        pytest.raises(HalftoneError, match="knows 'pocket' and not 'rocket'; name one"),
    ):
        read_history(prometheus.origin, 3600, model="rocket")


def test_a_prometheus_that_is_not_there_is_a_sentence() -> None:
    gone: LoopbackServer
    with RangeQueries({}) as gone:
        origin = gone.origin
    with pytest.raises(HalftoneError, match="does not answer") as found:
        read_history(origin, 3600)
    assert found.value.reason is Reason.StoreUnavailable
