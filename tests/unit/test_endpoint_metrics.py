"""What a replica says of itself through Ray, which forgets a gauge that nobody sets again.

We test these aspects:
- each gauge is set again to its last value, by all its labels, and no other one is;
- counters are not counted again.
"""

from typing import Final

from halftone.telemetry.endpoint import EndpointMetrics

DIGEST: Final = "ab" * 32


class Page:
    """Ray's metrics and what it exports of them; `forget` is what its agent does after a while."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[str, ...]], float] = {}
        self.counted: dict[tuple[str, tuple[str, ...]], float] = {}

    def forget(self) -> None:
        self.values.clear()

    def gauge(self, name: str, description: str, tag_keys: tuple[str, ...]) -> "Metric":
        return Metric(self, name, tag_keys)

    counter = gauge


class Metric:
    """A counter or a gauge with Ray's signatures, which takes all labels that it has, or none."""

    def __init__(self, page: Page, name: str, labels: tuple[str, ...]) -> None:
        self._page, self._name, self._labels = page, name, labels

    def _key(self, tags: dict[str, str]) -> tuple[str, tuple[str, ...]]:
        assert tags.keys() == set(self._labels)
        return self._name, tuple(tags[label] for label in self._labels)

    def set(self, value: float, tags: dict[str, str]) -> None:
        self._page.values[self._key(tags)] = value

    def inc(self, value: float, tags: dict[str, str]) -> None:
        key = self._key(tags)
        self._page.counted[key] = self._page.counted.get(key, 0) + value


def test_every_gauge_that_was_set_is_set_again_to_its_last_value() -> None:
    page = Page()
    metrics = EndpointMetrics("qwen", page.counter, page.gauge)
    metrics.set_load_seconds("weights", 3.5)
    metrics.set_load_seconds("engine", 42)
    metrics.set_requests(2, 64)
    metrics.set_requests(1, 64)
    metrics.set_artifact(DIGEST, "Passed")
    metrics.set_capacity({"maxSequences": 8}, is_exact=True)
    said = dict(page.values)
    page.forget()
    metrics.repeat()
    assert page.values == said
    assert page.values["halftone_endpoint_requests_in_flight", ("qwen",)] == 1
    assert page.values["halftone_endpoint_load_seconds", ("qwen", "engine")] == 42
    assert page.values["halftone_endpoint_artifact", ("qwen", DIGEST, "Passed")] == 1


def test_what_was_never_set_is_not_said() -> None:
    page = Page()
    EndpointMetrics("qwen", page.counter, page.gauge).repeat()
    assert page.values == {}


def test_counters_are_not_counted_again() -> None:
    page = Page()
    metrics = EndpointMetrics("qwen", page.counter, page.gauge)
    metrics.count_answer("/v1/completions", 200)
    metrics.count_failure("EngineFailed")
    metrics.repeat()
    assert set(page.counted.values()) == {1}
    assert len(page.counted) == 2
