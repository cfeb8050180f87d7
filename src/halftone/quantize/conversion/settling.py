"""What only the numbers of scales decide: dtypes, what is no scale, and what merged matrices share.

Called by `converting` before anything is written; it reads the scales that it judges and no codes.

A server merges q, k and v, or gate and up, into one matrix with one scale for its input and, in
NVFP4, one global scale. Of members that differ vLLM 0.32 keeps the largest stored number: of
ModelOpt's multipliers that is the widest range of inputs, of compressed-tensors' divisors the
narrowest, and of the per-tensor FP8 experts it keeps the last one or refuses them. So a group's
inputs get its widest range, by which nothing is clipped in either layout. No such choice keeps
codes that were made with different global scales: they are refused.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.serving_limits import SCALE_TOLERANCE
from halftone.checkpoint.stored_weights import as_float32
from halftone.plan.layout import natural_key
from halftone.quantize.conversion.spans import spans_of
from halftone.quantize.conversion.steps import Action, Step, survives_as_bf16
from halftone.spec.dtypes import Dtype
from halftone.spec.errors import RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.formats import Part
from halftone.spec.names import Reason


@dataclass(frozen=True)
class Settled:
    """Steps by name in the source; `widened` are the outputs that got a wider range than theirs."""

    steps: dict[str, Step]
    widened: tuple[str, ...]


def settle(source: FileSource, steps: Mapping[str, Step]) -> Settled:
    """`steps` with what their scales' numbers decide.

    A scale that loses digits in BF16 keeps its float32, which servers read as well. Raises
    RefusedInput(MalformedCheckpoint) for a scale that is no positive number, (NotSupported) for
    matrices that a server merges and that have different global scales.
    """
    narrowed = [s.source for s in steps.values() if s.action is Action.Cast and s.is_narrowed]
    single = [step for step in steps.values() if step.one_number]
    wanted = {entry.name: entry for entry in (*narrowed, *(step.source for step in single))}
    lost, numbers = _read(source, wanted)
    for step in single:
        _refuse_unusable(step, numbers[step.source.name])
    groups = _groups(single)
    for members in groups[Part.GlobalScale]:
        _refuse_unequal(members, numbers)
    settled = dict(steps)
    for entry in narrowed:
        if entry.name in lost:
            settled[entry.name] = replace(steps[entry.name], dtype=entry.dtype, action=Action.Copy)
    widened: list[str] = []
    for members in groups[Part.InputScale]:
        for step in _shared(members, numbers):
            settled[step.source.name] = step
            if numbers[step.source.name] != step.given:
                widened.append(step.name)
    return Settled(settled, tuple(sorted(widened, key=natural_key)))


def _read(
    source: FileSource, entries: Mapping[str, TensorEntry]
) -> tuple[set[str], dict[str, np.float32]]:
    """Names of those that lose digits in BF16, and the number of those that have one."""
    lost, numbers = set(), {}
    shards: defaultdict[str, list[TensorEntry]] = defaultdict(list)
    for entry in entries.values():
        shards[entry.file].append(entry)
    for held in shards.values():
        for piece in spans_of(source, sorted(held, key=lambda entry: entry.offset)):
            entry = piece.entry
            if entry.dtype is Dtype.F32 and not survives_as_bf16(piece.data):
                lost.add(entry.name)
            if entry.nbytes == entry.dtype.nbytes((1,)):
                numbers[entry.name] = as_float32(entry.dtype, piece.data)[0]
    return lost, numbers


def _groups(steps: Sequence[Step]) -> dict[Part, list[list[Step]]]:
    """The scales of each merged matrix that has several, by what they are to it."""
    found: defaultdict[tuple[Part | None, str], list[Step]] = defaultdict(list)
    for step in steps:
        found[step.part, step.unit].append(step)
    return {
        kind: [members for (part, _), members in found.items() if part is kind and members[1:]]
        for kind in (Part.GlobalScale, Part.InputScale)
    }


def _shared(members: Sequence[Step], numbers: Mapping[str, np.float32]) -> list[Step]:
    """The steps of a group whose input scales differ, with the widest range; none where not.

    The narrowest divisor is the widest range, and the largest multiplier is.
    """
    own = [numbers[step.source.name] for step in members]
    if min(own) == max(own):
        return []
    are_divisors = members[0].action is Action.Multiplier
    given = min(own) if are_divisors else max(own)
    return [_with(step, given) for step in members]


def _with(step: Step, given: np.float32) -> Step:
    if step.action in {Action.Multiplier, Action.Divisor}:
        return replace(step, given=given)
    fits = survives_as_bf16(np.array([given], np.float32).view(np.uint8))
    return replace(step, given=given, action=Action.Cast, dtype=step.dtype if fits else Dtype.F32)


def _refuse_unusable(step: Step, number: np.float32) -> None:
    is_inverted = step.action in {Action.Multiplier, Action.Divisor}
    with np.errstate(all="ignore"):
        usable = np.isfinite(number) and number > 0
        usable = usable and not (is_inverted and np.isinf(np.float32(1.0) / number))
    if not usable:
        needed = "a global scale must be a positive number whose inverse is one too"
        raise RefusedInput(
            Reason.MalformedCheckpoint,
            step.source.name,
            f"`{step.source.name}` is {float(number)}, and "
            f"{needed if is_inverted else 'a scale must be a positive number'}; look at the "
            "checkpoint with `halftone inspect`.",
        )


def _refuse_unequal(members: Sequence[Step], numbers: Mapping[str, np.float32]) -> None:
    least, most = (
        choose(members, key=lambda step: numbers[step.source.name]) for choose in (min, max)
    )
    low, high = (float(numbers[step.source.name]) for step in (least, most))
    if high - low > SCALE_TOLERANCE * high:
        raise RefusedInput(
            Reason.NotSupported,
            most.source.name,
            f"`{most.source.name}` is {high:.6g} and `{least.source.name}` {low:.6g}, but a server "
            f"merges both into `{most.unit}` and decodes them with one of the two; no choice keeps "
            "the codes of both, so quantize the source anew.",
        )
