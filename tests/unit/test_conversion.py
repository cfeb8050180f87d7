"""Parts of the conversion between layouts that need no checkpoint.

We test these aspects:
- a divisor that is a BF16 number comes back from its multiplier, to the bit
- for any multiplier no divisor is nearer than the one chosen, and `exact` tells where it is it
- tensors of a shard are read whole, in few requests; only what is longer than a span is cut
- a scale that is no positive number is refused by its name, one without an inverse where it is
  inverted; what is no such scale may be anything
- the configuration is asked once for all experts of a layer
- directories made above an output that is not made are taken away, those in use are not
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftone.checkpoint.architectures import find
from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.serving_rules import (
    Activations,
    Rules,
    Scheme,
    ServedModule,
    WeightLayout,
)
from halftone.quantize.conversion.inversion import divisors_of, multipliers_of
from halftone.quantize.conversion.settling import settle
from halftone.quantize.conversion.source import formats_of
from halftone.quantize.conversion.spans import spans_of
from halftone.quantize.conversion.staging import staged_output
from halftone.quantize.conversion.steps import Action, Step
from halftone.spec.dtypes import Dtype
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.formats import Format
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


# Scales -------------------------------------------------------------------------------------------


def _settle(tmp_path: Path, value: float, action: Action, one_number: bool) -> None:
    (tmp_path / "shard").write_bytes(np.float32(value).tobytes())
    entry = TensorEntry("a.scale", Dtype.F32, (1,), "shard", 0, 4)
    step = Step(entry, "a.other", Dtype.F32, (1,), action, unit="a", one_number=one_number)
    source = open_source(tmp_path)
    try:
        assert settle(source, {"a.scale": step}).steps == {"a.scale": step}
    finally:
        source.close()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("action", Action)
def test_a_scale_that_is_no_positive_number_is_refused(
    tmp_path: Path, action: Action, value: float
) -> None:
    with pytest.raises(RefusedInput, match=rf"^`a\.scale` is {value}, and a .*scale must be a pos"):
        _settle(tmp_path, value, action, one_number=True)

    if action is Action.Copy:
        _settle(tmp_path, value, action, one_number=False)  # a norm, a bias, a scale of rows


def test_only_what_is_inverted_must_have_an_inverse(tmp_path: Path) -> None:
    for action in (Action.Multiplier, Action.Divisor):
        with pytest.raises(RefusedInput, match=r"must be a positive number whose inverse is one"):
            _settle(tmp_path, 1e-45, action, one_number=True)

    _settle(tmp_path, 1e-45, Action.Copy, one_number=True)


class _Counted(Rules):
    """Rules by which everything is NVFP4A16, and that count what they are asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def scheme_of(self, module: ServedModule) -> Scheme:
        self.asked[module.name] += 1
        return Scheme(WeightLayout.Nvfp4, Activations.Kept)


def test_the_configuration_is_asked_once_for_all_experts_of_a_layer() -> None:
    architecture, rules = find({"model_type": "qwen3_moe"}), _Counted()
    assert architecture is not None
    layers = [f"model.layers.{layer}" for layer in range(2)]
    names = [
        f"{layer}.mlp.experts.{expert}.{part}_proj"
        for layer in layers
        for expert in range(64)
        for part in ("gate", "up", "down")
    ]

    formats = formats_of([*names, "model.layers.0.self_attn.o_proj"], rules, architecture, False)

    assert set(formats.values()) == {Format.NVFP4A16}
    assert len(formats) == len(names) + 1
    once = [*(f"{layer}.mlp.experts" for layer in layers), "model.layers.0.self_attn.o_proj"]
    assert rules.asked == dict.fromkeys(once, 1)


# The output ---------------------------------------------------------------------------------------


def _fail(output: Path, before: Path | None = None) -> None:
    with staged_output(output):
        if before is not None:
            before.touch()
        raise KeyboardInterrupt


def test_directories_above_an_output_that_is_not_made_go_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "deep"
    with pytest.raises(KeyboardInterrupt):
        _fail(folder / "out")
    with pytest.raises(EnvironmentFault):
        _fail(folder / ("x" * 250))  # the name of the directory beside it would be too long
    assert list(tmp_path.iterdir()) == []

    with pytest.raises(KeyboardInterrupt):
        _fail(folder / "out", before=folder.parent / "notes")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "notes"]


def test_directories_above_an_output_that_is_made_stay(tmp_path: Path) -> None:
    with staged_output(tmp_path / "new" / "out") as staged:
        (staged / "config.json").touch()

    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == [
        "new",
        "new/out",
        "new/out/config.json",
    ]
