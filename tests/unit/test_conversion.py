"""Parts of the conversion between layouts that need no checkpoint.

We test these aspects:
- a divisor that is a BF16 number comes back from its multiplier, to the bit
- for any multiplier no divisor is nearer than the one chosen, and `exact` tells where it is it
- tensors of a shard are read whole, in few requests; only what is longer than a span is cut
- a scale that cannot be inverted is refused by its name
"""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftone.checkpoint.headers import TensorEntry
from halftone.quantize.conversion.inversion import divisors_of, multipliers_of
from halftone.quantize.conversion.spans import spans_of
from halftone.quantize.conversion.steps import Action, Step, apply
from halftone.spec.dtypes import Dtype
from halftone.spec.errors import RefusedInput
from halftone.spec.files import FileSource
from halftone.stores import open_source

# More than any global scale of a real model, which is 2688 over some magnitude, or the inverse.
SCALES = st.floats(2.0**-60, 2.0**80, width=32)


def _bf16(value: float) -> np.float32:
    pattern = np.float32(value).view(np.uint32) & np.uint32(0xFFFF0000)
    return np.float32(pattern.view(np.float32))


@given(SCALES)
def test_a_bf16_divisor_comes_back_from_its_multiplier(value: float) -> None:
    divisor = np.array([_bf16(value)])

    found, exact = divisors_of(multipliers_of(divisor))

    assert exact.all()
    assert found.tobytes() == divisor.tobytes()


@given(SCALES)
def test_any_divisor_comes_back_as_one_that_means_the_same(value: float) -> None:
    multiplier = multipliers_of(np.array([value], np.float32))

    found, exact = divisors_of(multiplier)

    assert exact.all()
    assert multipliers_of(found).tobytes() == multiplier.tobytes()


@given(st.lists(SCALES, min_size=1, max_size=8))
def test_no_divisor_is_nearer_than_the_one_chosen(values: list[float]) -> None:
    multipliers = np.array(values, np.float32)
    found, exact = divisors_of(multipliers)
    off = np.abs(np.float64(multipliers_of(found)) - multipliers)

    around = found.view(np.int32)[:, None] + np.arange(-16, 17, dtype=np.int32)
    others = np.abs(np.float64(multipliers_of(around.view(np.float32))) - multipliers[:, None])

    assert (off == others.min(axis=1)).all()
    assert (exact == (off == 0)).all()
    assert (off <= np.spacing(multipliers)).all()


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileSource]:
    """A file of 5,000 bytes that no two places of have in common."""
    folder = tmp_path_factory.mktemp("shard")
    (folder / "shard").write_bytes(np.random.default_rng(0).integers(0, 256, 5000, "u1").tobytes())
    source = open_source(folder)
    yield source
    source.close()


def _entries(sizes: list[int], gaps: list[int]) -> list[TensorEntry]:
    entries, at = [], 0
    for number, (size, gap) in enumerate(zip(sizes, gaps, strict=True)):
        at += gap
        entries.append(TensorEntry(f"t{number}", Dtype.U8, (size,), "shard", at, size))
        at += size
    return entries


@given(
    st.lists(st.tuples(st.integers(0, 300), st.sampled_from([0, 0, 0, 5, 60])), max_size=12),
    st.integers(1, 128),
)
def test_spans_give_every_byte_once_and_cut_only_what_is_too_long(
    shard: FileSource, tensors: list[tuple[int, int]], span: int
) -> None:
    entries = _entries([size for size, _ in tensors], [gap for _, gap in tensors])

    read: dict[str, bytes] = {entry.name: b"" for entry in entries}
    for piece in spans_of(shard, entries, span_bytes=span, gap_bytes=16):
        assert piece.begin == len(read[piece.entry.name])
        assert piece.is_part is (piece.entry.nbytes > span)
        read[piece.entry.name] += piece.data.tobytes()

    expected = {e.name: shard.read_range("shard", e.offset, e.nbytes) for e in entries}
    assert read == expected


def test_neighbours_are_read_together(shard: FileSource) -> None:
    before = shard.traffic.requests

    assert len(list(spans_of(shard, _entries([4] * 1000, [0] * 1000)))) == 1000
    assert shard.traffic.requests == before + 1


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e-45])
@pytest.mark.parametrize("action", [Action.Multiplier, Action.Divisor])
def test_a_scale_that_has_no_inverse_is_refused(action: Action, value: float) -> None:
    entry = TensorEntry("a.weight_scale_2", Dtype.F32, (), "shard", 0, 4)
    step = Step(entry, "a.weight_global_scale", Dtype.F32, (1,), action, unit="a")

    with pytest.raises(RefusedInput, match=r"`a\.weight_scale_2` is .*positive"):
        apply(step, np.array([value], np.float32).view(np.uint8))
