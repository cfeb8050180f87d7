"""What a replica can do, on its way through gauges and Prometheus.

We test these aspects:
- what is told is read again as it was, and its names are bounded
- a capacity of which a field is missing, or that nothing can be reckoned with, is none
- series of vLLM's own server and of Ray say the same
- replicas that agree are one; where they differ the smallest counts, and what is not whole does not
- the reader's names are those of the telemetry
"""

from dataclasses import replace

import pytest

from halftone.scaling.capacity import CacheGroup
from halftone.scaling.capacity_fields import MOST_GROUPS, Stated, stated, told
from halftone.scaling.inputs import capacity_gauges
from halftone.scaling.inputs.capacity_gauges import capacity
from halftone.telemetry.endpoint import GAUGES, EndpointMetrics
from tests.input_samples import SAID
from tests.input_samples import capacity_gauges as gauges


def changed(said: Stated = SAID, **changes: object) -> Stated:
    """Another capacity."""
    return said._replace(capacity=replace(said.capacity, **changes))  # type: ignore[arg-type]


SLOWER = changed(prefill_tokens_per_second=2500.0)
SMALLER = changed(kv_blocks=1900)


def test_what_is_told_is_read_again_as_it_was() -> None:
    assert stated(told(SAID)) == SAID
    assert len(told(SAID)) == 9 + 3 * len(SAID.capacity.groups)


def test_names_are_bounded() -> None:
    most = changed(groups=(CacheGroup(16),) * MOST_GROUPS)
    assert stated(told(most)) == most
    with pytest.raises(ValueError, match="finite numbers"):
        told(changed(groups=(CacheGroup(16),) * (MOST_GROUPS + 1)))


@pytest.mark.parametrize("field", sorted(told(SAID)))
def test_a_capacity_without_one_of_its_fields_is_none(field: str) -> None:
    assert stated({name: value for name, value in told(SAID).items() if name != field}) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prefill_tokens_per_second", 0.0),
        ("prefill_tokens_per_second", float("nan")),
        ("step_base_s", -0.01),
        ("step_base_s", float("inf")),
        ("kv_blocks", 0.0),
        ("token_budget", 0.5),
        ("groups", 0.0),
        ("groups", 1e9),
        ("group_1_block_tokens", 0.0),
        ("warm_up_s", float("inf")),
    ],
)
def test_what_nothing_can_be_reckoned_with_is_none(field: str, value: float) -> None:
    assert stated({**told(SAID), field: value}) is None


@pytest.mark.parametrize("prefix", ["", "ray_"])
def test_it_is_read_whoever_exports_it(prefix: str) -> None:
    assert capacity(gauges(SAID, prefix=prefix)) == SAID


def test_replicas_that_agree_are_one() -> None:
    assert capacity([*gauges(SAID, "a"), *gauges(SAID, "b")]) == SAID


@pytest.mark.parametrize("least", [SLOWER, SMALLER])
def test_where_replicas_differ_the_smallest_counts(least: Stated) -> None:
    mixed = [*gauges(SAID, "a"), *gauges(least, "b"), *gauges(SAID, "c")]
    assert capacity(mixed) == least
    assert capacity(reversed(mixed)) == least


def test_the_longest_warm_up_counts_whoever_is_the_smallest() -> None:
    longer = SAID._replace(warm_up_s=300.0)
    assert capacity([*gauges(longer, "a"), *gauges(SLOWER, "b")]) == SLOWER._replace(
        warm_up_s=300.0
    )


def test_what_is_not_whole_does_not_count() -> None:
    part = gauges(SLOWER, "b", without=["kv_blocks"])
    assert capacity(part) is None
    assert capacity([*gauges(SAID, "a"), *part]) == SAID
    assert capacity([]) is None


class Kept:
    """A gauge of Ray's kind that keeps what it was set to."""

    values: dict[tuple[str, ...], float]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.tag_keys = name, tag_keys
        KEPT[name] = self
        self.values = {}

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Keep it by its labels, which must be those that were declared."""
        assert tuple(tags) == self.tag_keys
        self.values[tuple(tags.values())] = value


KEPT: dict[str, Kept] = {}


def test_the_names_are_those_of_the_telemetry() -> None:
    assert GAUGES[capacity_gauges.SERIES][1] == (capacity_gauges.MODEL, capacity_gauges.FIELD)
    metrics = EndpointMetrics("qwen", Kept, Kept)
    metrics.set_capacity(told(SAID), is_exact=True)
    kept = KEPT[capacity_gauges.SERIES].values
    assert stated({field: value for (_, field), value in kept.items()}) == SAID
    assert KEPT["halftone_endpoint_capacity_exact"].values == {("qwen",): 1.0}
