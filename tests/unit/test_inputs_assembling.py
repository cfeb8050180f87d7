"""What is made of the samples of replicas.

We test these aspects:
- every field, over its engines and reasons, with the age that Prometheus's clock gives;
- values that cannot be, series that are old, scraped twice or without a name, and what is said;
- fewer replicas than the orchestrator calls ready;
- nothing in any order of any samples raises, or lets a value through that is no number.
"""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftone.scaling.inputs.assembling import Asked, Remembered, assemble
from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.scaling.inputs.names import NATIVE, RAY, RECORDED, Family
from halftone.scaling.inputs.parsing import Sample
from halftone.scaling.inputs.queries import FIELD
from halftone.scaling.reading import COUNTERS, GAUGES, ITL_BOUNDS, TTFT_BOUNDS
from tests.input_samples import NOW, idle, node, read, ready, replica, target

VALUES = {
    "running": 3.0,
    "waiting": 2.0,
    "kv_usage": 0.5,
    "finished": 10.0,
    "prompt_tokens": 1000.0,
    "cached_tokens": 200.0,
    "generation_tokens": 400.0,
    "finished_prompt_tokens": 900.0,
    "finished_output_tokens": 300.0,
    "preemptions": 1.0,
}


@pytest.mark.parametrize("family", [RECORDED, NATIVE, RAY], ids=lambda each: each.title)
def test_every_field_is_read(family: Family) -> None:
    reading, _ = read(replica("a", family, values=VALUES), ready("a"), family=family)
    assert reading.missing == ()
    (found,) = reading.replicas
    assert {name: getattr(found, name) for name in VALUES} == VALUES
    assert (found.name, reading.age_s) == ("a", 4.0)


def test_counts_come_from_the_orchestrator() -> None:
    counts = ReplicaCounts(1, starting=2, draining=3, names=frozenset("a"), held=4)
    reading, _ = read(replica("a"), counts)
    assert (reading.ready, reading.starting, reading.draining, reading.held) == (1, 2, 3, 4.0)


def test_engines_of_a_replica_are_one_and_reasons_are_added() -> None:
    samples = replica("a", running=1, kv_usage=0.2)
    samples += replica("a", running=2, kv_usage=0.4, labels={"engine": "1"})
    for reason, count in (("stop", 5.0), ("abort", 1.0)):
        labels = {**samples[0].labels, FIELD: "finished", "finished_reason": reason}
        samples.append(Sample(labels, count))
    reading, _ = read(samples, ready("a"))
    (found,) = reading.replicas
    assert (found.running, found.finished) == (3.0, 6.0)
    assert found.kv_usage == pytest.approx(0.3)
    assert reading.missing == ()


def test_buckets_are_in_the_order_of_the_bounds_and_others_are_left_out() -> None:
    def buckets(field: str, bounds: tuple[float, ...]) -> list[Sample]:
        labels = {**replica("a")[0].labels, FIELD: field}
        return [Sample({**labels, "le": f"{bound:g}"}, bound) for bound in (*bounds, math.inf)]

    samples = replica("a") + buckets("ttft", TTFT_BOUNDS)[::-1] + buckets("itl", (1.0, 2.0))
    reading, _ = read(samples, ready("a"))
    assert reading.replicas[0].ttft == (*TTFT_BOUNDS, math.inf)
    assert reading.replicas[0].itl == ()
    assert len(ITL_BOUNDS) == 19


@pytest.mark.parametrize("skew", [-3600.0, 0.0, 3600.0])
def test_a_reader_whose_clock_is_wrong_sees_the_same_ages(skew: float) -> None:
    reading, _ = read(replica("a"), ready("a"), at=NOW + skew)
    assert (reading.time_s, reading.age_s, reading.missing) == (NOW + skew, 4.0, ())


def test_the_age_is_that_of_the_oldest_series() -> None:
    old = Sample({**replica("a")[0].labels, FIELD: "waiting:time"}, NOW - 50)
    samples = [one for one in replica("a") if one.labels[FIELD] != "waiting:time"]
    assert read([*samples, old], ready("a"))[0].age_s == 50


def test_old_series_are_missing() -> None:
    reading, _ = read(replica("a", at=NOW - 95) + replica("b"), ready("a", "b"))
    assert reading.missing == ("replica a was last scraped 95 s ago, more than 60 s",)
    assert reading.age_s == 95


def test_series_of_the_future_are_missing() -> None:
    reading, _ = read(replica("a", at=NOW + 30), ready("a"))
    assert reading.missing == ("replica a was scraped 30 s in Prometheus's own future",)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("kv_usage", math.nan, "`vllm:kv_cache_usage_perc` of replica a is nan, which is no"),
        ("running", math.inf, "`vllm:num_requests_running` of replica a is inf, which is no"),
        ("finished", -1.0, "`vllm:request_success_total` of replica a is -1, which cannot be"),
        ("kv_usage", 87.0, "`vllm:kv_cache_usage_perc` of replica a is 87, which cannot be"),
    ],
)
def test_a_value_that_cannot_be_is_told_and_not_handed_on(
    field: str, value: float, said: str
) -> None:
    samples = replica("a", NATIVE, values={field: value}) + replica("b", NATIVE)
    reading, _ = read(samples, ready("a", "b"), family=NATIVE)
    (sentence,) = reading.missing
    assert sentence.startswith(said)
    assert [each.name for each in reading.replicas] == ["b"]


def test_a_counter_that_began_anew_is_handed_on_as_it_is() -> None:
    _, before = read(replica("a", finished=100), ready("a"))
    reading, _ = read(replica("a", finished=2), ready("a"), before=before)
    assert (reading.replicas[0].finished, reading.missing) == (2.0, ())


def test_what_two_jobs_scrape_is_missing() -> None:
    samples = replica("a", NATIVE) + replica("a", NATIVE, labels={"job": "other"})
    reading, _ = read(samples, ready("a"), family=NATIVE)
    assert reading.replicas == ()
    assert "twice; is it scraped by two jobs?" in reading.missing[0]


def test_a_series_that_names_no_replica_is_missing() -> None:
    samples = replica("a", labels={"ReplicaId": ""})
    reading, _ = read([*samples, node("a")], ReplicaCounts(1))
    assert (
        "`ray_vllm_num_requests_running` has no label `ReplicaId` or `WorkerId`"
        " that names a replica"
    ) in reading.missing


def test_the_worker_names_a_replica_where_ray_does_not() -> None:
    samples = replica("a", labels={"ReplicaId": "", "WorkerId": "w"})
    reading, _ = read(samples, ReplicaCounts(1))
    assert ([each.name for each in reading.replicas], reading.missing) == (["w"], ())


def test_replicas_that_are_none_of_the_ready_ones_are_told_as_renamed() -> None:
    reading, _ = read([*replica("x"), node("x")], ready("a"))
    assert reading.missing == (
        "Prometheus knows the replicas x, and ready are a; are labels renamed?",
        "replica a is ready and has no series: it was never scraped",
    )


@pytest.mark.parametrize("field", [*GAUGES, *COUNTERS])
def test_vllm_itself_exports_every_series_or_something_is_missing(field: str) -> None:
    fields = [one for one in (*GAUGES, *COUNTERS) if one != field]
    reading, _ = read(replica("a", NATIVE, fields=fields), ready("a"), family=NATIVE)
    assert reading.missing == (f"replica a has no series of `{NATIVE.series[field]}`",)


@pytest.mark.parametrize("names", [frozenset("ab"), None])
def test_fewer_replicas_than_are_ready_are_missing(names: frozenset[str] | None) -> None:
    counts = ReplicaCounts(2, names=names)
    reading, _ = read([*replica("a", NATIVE), target("a")], counts, family=NATIVE)
    (sentence,) = reading.missing
    assert sentence.endswith("is ready and has no series: it was never scraped")
    samples = [*replica("a", NATIVE), target("b", is_up=False)]
    (sentence,) = read(samples, counts, family=NATIVE)[0].missing
    assert sentence.endswith("has no series: endpoint/b:8080 does not answer Prometheus")


def test_a_native_replica_whose_series_vanish_is_missing_although_its_target_answers() -> None:
    both = [*replica("a", NATIVE), *replica("b", NATIVE), target("a"), target("b")]
    _, before = read(both, ready("a", "b"), family=NATIVE)
    samples = [*replica("a", NATIVE), target("a"), target("b")]
    reading, _ = read(samples, ready("a", "b"), family=NATIVE, before=before)
    assert reading.missing == (
        "replica b is ready and has no series: endpoint/b:8080 exported them, idle or not",
    )


def test_an_answer_without_a_time_is_missing() -> None:
    asked = Asked(RAY, ready("a"), NOW, 60.0)
    reading, _ = assemble(tuple(replica("a")), asked, Remembered())
    assert reading.missing == ("Prometheus did not say what time it is",)


SOME = [
    *replica("a"),
    *replica("a", labels={"job": "other"}, running=math.nan),
    *idle("b", finished=-2),
    *replica("c", labels={"ReplicaId": ""}),
    node("a"),
    node("b", is_up=False),
    target("a"),
    Sample({}, 1.0),
    replace(replica("b")[0], labels={"ReplicaId": "b", FIELD: "ttft", "le": "wide"}),
]


@given(st.lists(st.sampled_from(SOME)), st.sampled_from([None, frozenset("ab"), frozenset()]))
def test_no_answer_raises_or_lets_through_what_is_no_number(
    samples: list[Sample], names: frozenset[str] | None
) -> None:
    reading, before = read(samples, ReplicaCounts(2, names=names))
    again, _ = read(samples, ReplicaCounts(2, names=names), before=before)
    for each in (*reading.replicas, *again.replicas):
        assert all(math.isfinite(getattr(each, field)) for field in (*GAUGES, *COUNTERS))
    if names is None:
        assert len(reading.replicas) >= 2 or reading.missing
