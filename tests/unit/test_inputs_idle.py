"""Replicas whose series vanished: which are idle, and which are missing.

We test these aspects:
- an idle replica of Ray is zeros with its counters, those of now or the last known;
- one that Prometheus does not reach is missing, whatever it was before;
- one that never had series is idle only while that can be true;
- Ray's counters of replicas that are gone make none.
"""

import pytest

from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.scaling.inputs.names import RECORDED
from halftone.scaling.inputs.parsing import Sample
from tests.input_samples import NOW, STALE_S, idle, node, read, ready, replica

A_AND_B = [*replica("a", running=1), *replica("b", running=2, finished=7), node("a"), node("b")]


def test_a_replica_with_counters_alone_is_idle() -> None:
    reading, _ = read([*replica("a", running=1), *idle("b", finished=7)], ready("a", "b"))
    assert reading.missing == ()
    b = reading.replicas[1]
    assert (b.name, b.running, b.waiting, b.kv_usage, b.finished) == ("b", 0, 0, 0, 7)


def test_counters_that_never_counted_are_zero() -> None:
    reading, _ = read(replica("a", fields=("running", "waiting", "kv_usage")), ready("a"))
    assert (reading.missing, reading.replicas[0].preemptions) == ((), 0.0)


def test_some_gauges_without_the_others_are_missing() -> None:
    reading, _ = read(replica("a", fields=("kv_usage", "finished")), ready("a"))
    assert reading.missing == (
        "replica a has no series of `ray_vllm_num_requests_running`, "
        "`ray_vllm_num_requests_waiting`",
    )


@pytest.mark.parametrize("names", [frozenset("ab"), None])
def test_one_that_lost_all_series_keeps_its_last_counters_while_its_node_answers(
    names: frozenset[str] | None,
) -> None:
    counts = ReplicaCounts(2, names=names)
    _, before = read(A_AND_B, counts)
    for _ in range(3):
        later = [*replica("a", running=1), node("a"), node("b")]
        reading, before = read(later, counts, before=before)
        assert reading.missing == ()
        b = reading.replicas[1]
        assert (b.name, b.running, b.finished, reading.age_s) == ("b", 0, 7, 4)


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([node("a"), node("b", is_up=False)], "endpoint/b:8080 does not answer Prometheus"),
        ([node("a")], "endpoint/b:8080 is no longer scraped"),
    ],
)
@pytest.mark.parametrize("names", [frozenset("ab"), None])
def test_one_that_lost_all_series_is_missing_while_its_node_does_not_answer(
    nodes: list[Sample], why: str, names: frozenset[str] | None
) -> None:
    counts = ReplicaCounts(2, names=names)
    _, before = read(A_AND_B, counts)
    reading, after = read([*replica("a", running=1), *nodes], counts, before=before)
    assert reading.missing == (f"replica b is ready and has no series: {why}",)
    assert [each.name for each in reading.replicas] == ["a"]

    again, _ = read(A_AND_B, counts, before=after)
    assert (again.missing, again.replicas[1].running) == ((), 2)


@pytest.mark.parametrize("names", [frozenset("ab"), None])
def test_a_new_one_is_idle_until_all_others_have_worked_for_too_long(
    names: frozenset[str] | None,
) -> None:
    counts = ReplicaCounts(2, names=names)
    before = None
    for seconds, is_idle in ((0, True), (STALE_S, True), (STALE_S + 1, False)):
        samples = [*replica("a", running=1, at=NOW + seconds), node("a")]
        reading, before = read(samples, counts, before=before, now=NOW + seconds)
        assert (not reading.missing) == is_idle
    assert reading.missing[0].endswith("for 61 s, while all others work; is its node scraped?")

    samples = [*idle("a", at=NOW + 99), node("a")]
    reading, _ = read(samples, counts, before=before, now=NOW + 99)
    assert reading.missing == ()


def test_a_new_one_is_missing_while_a_node_does_not_answer() -> None:
    samples = [*replica("a"), node("a"), node("head", is_up=False)]
    reading, _ = read(samples, ready("a", "b"))
    assert reading.missing == (
        "replica b is ready and has no series: endpoint/head:8080 does not answer Prometheus",
    )


def test_a_new_one_is_missing_where_no_node_is_known() -> None:
    reading, _ = read(replica("a"), ready("a", "b"))
    assert reading.missing == (
        "replica b is ready and has no series: Prometheus reaches no node of Ray",
    )


@pytest.mark.parametrize("names", [frozenset("ab"), None])
def test_counters_of_a_replica_that_is_gone_make_none(names: frozenset[str] | None) -> None:
    counts = ReplicaCounts(2, names=names)
    _, before = read(A_AND_B, counts)
    samples = [*replica("a", running=1), *idle("b"), *idle("ab-gone")]
    reading, after = read(samples, counts, before=before)
    assert ([each.name for each in reading.replicas], reading.missing) == (["a", "b"], ())

    fewer, _ = read(samples, ReplicaCounts(1, names=names and frozenset("a")), before=after)
    assert ([each.name for each in fewer.replicas], fewer.missing) == (["a"], ())


def test_one_that_was_let_go_is_not_looked_for() -> None:
    _, before = read(A_AND_B, ReplicaCounts(2))
    reading, after = read([*replica("a"), node("a")], ReplicaCounts(1), before=before)
    assert (reading.missing, sorted(after.replicas)) == ((), ["a"])


@pytest.mark.parametrize(("source", "is_idle"), [("ray", True), ("native", False)])
def test_a_recorded_one_may_be_idle_if_it_came_through_ray(source: str, is_idle: bool) -> None:
    labels = {"source": source}
    both = [*replica("a", RECORDED, labels=labels), *replica("b", RECORDED, labels=labels)]
    nodes = [node("a"), node("b")]
    _, before = read([*both, *nodes], ready("a", "b"), family=RECORDED)
    samples = [*replica("a", RECORDED, labels=labels), *nodes]
    reading, _ = read(samples, ready("a", "b"), family=RECORDED, before=before)
    assert (not reading.missing) == is_idle
