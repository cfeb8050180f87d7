"""Many small reads in few requests, and never beyond the budget."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftone.stores import open_source
from halftone.validate.budget import Budget, Span, fit, largest_fit, read_ranges

SCATTERED = [Span(str(i), "a", i * 1_000_000, 4) for i in range(100)]


def test_neighbours_become_one_range() -> None:
    extents = [Span(str(i), "a", 100 + 4 * i, 4) for i in range(1000)]
    ranges = fit(extents, Budget(nbytes=4000, requests=1))
    assert ranges is not None
    assert [(r.offset, r.nbytes) for r in ranges] == [(100, 4000)]


def test_files_are_never_joined() -> None:
    extents = [Span("x", "a", 0, 4), Span("y", "b", 4, 4)]
    ranges = fit(extents, None)
    assert ranges is not None
    assert len(ranges) == 2
    assert fit(extents, Budget(nbytes=100, requests=1)) is None


def test_the_smallest_gaps_are_read_over_when_requests_are_few() -> None:
    extents = [Span("a", "f", 0, 4), Span("b", "f", 200_000, 4), Span("c", "f", 900_000, 4)]
    ranges = fit(extents, Budget(nbytes=300_000, requests=2))
    assert ranges is not None
    assert [r.nbytes for r in ranges] == [200_004, 4]


def test_what_does_not_fit_is_cut_to_the_longest_beginning() -> None:
    assert fit(SCATTERED, Budget(nbytes=1000, requests=10)) is None
    taken, ranges = largest_fit([[e] for e in SCATTERED], Budget(nbytes=1000, requests=10))
    assert taken == 10
    assert [r.extents[0].name for r in ranges] == [str(i) for i in range(10)]


def test_without_a_request_nothing_fits() -> None:
    assert fit(SCATTERED, Budget(nbytes=1000, requests=0)) is None
    assert fit([], Budget(nbytes=0, requests=0)) == []


@given(
    spans=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 64)), max_size=40),
    requests=st.integers(0, 20),
    nbytes=st.integers(0, 1 << 20),
)
def test_ranges_stay_within_the_budget_and_cover_everything(
    spans: list[tuple[int, int]], requests: int, nbytes: int
) -> None:
    extents, end = [], 0
    for number, (gap, length) in enumerate(spans):
        extents.append(Span(str(number), f"f{number // 16}", end + gap, length))
        end += gap + length
    ranges = fit(extents, Budget(nbytes=nbytes, requests=requests))
    if ranges is None:
        return
    assert len(ranges) <= requests
    assert sum(r.nbytes for r in ranges) <= nbytes
    assert sorted(e.name for r in ranges for e in r.extents) == sorted(e.name for e in extents)
    for wanted in ranges:
        for extent in wanted.extents:
            assert wanted.offset <= extent.offset
            assert extent.offset + extent.nbytes <= wanted.offset + wanted.nbytes


@pytest.mark.parametrize("gap", [0, 10, 100_000])
def test_every_extent_gets_its_own_bytes(tmp_path: Path, gap: int) -> None:
    data = bytes(i % 251 for i in range(400_000))
    (tmp_path / "file").write_bytes(data)
    extents = [Span(str(i), "file", i * (16 + gap), 16) for i in range(3)]
    with open_source(tmp_path) as source:  # type: ignore[attr-defined]
        ranges = fit(extents, None)
        assert ranges is not None
        got = dict(read_ranges(source, ranges))
    assert got == {e.name: data[e.offset : e.offset + 16] for e in extents}
