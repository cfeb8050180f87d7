"""Statistics of a calibration as the engine takes them: proved to be the plan's own, then numbers.

Called by whoever quantizes or rebuilds a calibrated plan. Two small files are read whole; they may
come from anyone, so nothing in them is believed before it was checked. Nothing is measured here.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
from pydantic import ValidationError

from halftone.checkpoint.headers import ShardHeader, parse_header
from halftone.plan.measurements import cached_attention, input_group
from halftone.plan.planning import Planned
from halftone.plan.tensors import LogicalTensor
from halftone.spec.documents import sha256_hex
from halftone.spec.dtypes import Dtype
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.formats import FORMATS
from halftone.spec.names import STATISTICS_FILE, STATISTICS_TENSORS, Reason
from halftone.spec.roles import Role
from halftone.spec.statistics import StatisticsDocument

# 400,000 tensors, more than a checkpoint may hold, are stated in less.
_MAX_BYTES: Final = 256 * 2**20
_NUMPY: Final = {Dtype.F32: np.float32, Dtype.I64: np.int64}
_AGAIN: Final = "run `halftone calibrate` on this plan again"


@dataclass(frozen=True)
class Statistics:
    """What was measured for one plan.

    `inputs` has the largest magnitude that entered any module of an input group (see
    `halftone.plan.measurements`), `caches` those of keys and values by attention module. All are
    finite and at least 0; 0 says that only zeros were seen, and gives the scale that
    compressed-tensors gives where a scale would be zero.
    """

    document: StatisticsDocument
    inputs: Mapping[str, float]
    caches: Mapping[str, tuple[float, float]]

    def input_amax(self, group: str) -> float:
        """The largest magnitude that entered a module of `group`."""
        return self.inputs[group]

    def kv_amax(self, attention: str) -> tuple[float, float]:
        """The largest magnitudes of keys and values as they enter the cache of `attention`."""
        return self.caches[attention]


def read_statistics(directory: Path, planned: Planned) -> Statistics:
    """The statistics that `halftone calibrate` wrote to `directory` for `planned`.

    Raises RefusedInput: CalibrationRequired where there are none; StatisticsDiffer for those of
    another plan, or that were changed since; ModuleUnmeasured for a module that saw no token, or a
    cache that is missing; NonFiniteActivation for a value that is NaN, infinite or negative.
    EnvironmentFault(StorageFailed) where a file cannot be read.
    """
    document = _document(directory, planned)
    path = directory / STATISTICS_TENSORS
    data = _bytes(path, document.file.sizeBytes)
    if (len(data), sha256_hex(data)) != (document.file.sizeBytes, document.file.sha256):
        _differs(path, f"is not the file that {STATISTICS_FILE} states (its SHA-256 differs)")
    tensors = _Tensors(path, data)
    recipe = planned.plan.recipe
    if recipe is None:
        raise AssertionError("an accepted plan has a recipe. This is a bug. Please report.")
    caches = {
        attention: (
            tensors.amax(f"{attention}.k_amax", attention),
            tensors.amax(f"{attention}.v_amax", attention),
        )
        for attention in cached_attention(planned.tensors, recipe)
    }
    return Statistics(document, _inputs(planned, tensors), caches)


def _document(directory: Path, planned: Planned) -> StatisticsDocument:
    path = directory / STATISTICS_FILE
    try:
        document = StatisticsDocument.model_validate_json(_bytes(path))
    except ValidationError as error:
        raise RefusedInput(
            Reason.StatisticsDiffer,
            str(path),
            f"'{path}' is not a {STATISTICS_FILE} of this version; {_AGAIN}.",
        ) from error
    if document.compute_digest() != document.digest:
        _differs(path, "was changed after it was written (its digest differs)")
    if document.planDigest != planned.plan.digest:
        _differs(
            path,
            f"was measured for another plan ({document.planDigest[:12]}, this one is "
            f"{planned.plan.digest[:12]}): another source, revision or recipe",
        )
    if document.file.path != STATISTICS_TENSORS:
        _differs(path, f"does not state {STATISTICS_TENSORS}")
    return document


def _bytes(path: Path, size: int = _MAX_BYTES) -> bytes:
    """The whole file; what is longer than `size` or than any of ours is refused unread."""
    try:
        if path.stat().st_size > min(size, _MAX_BYTES):
            _differs(path, f"is larger than any that goes with {STATISTICS_FILE}")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RefusedInput(
            Reason.CalibrationRequired,
            str(path),
            f"'{path}' is not there; run `halftone calibrate` first, which writes it.",
        ) from error
    except OSError as error:
        raise EnvironmentFault(
            Reason.StorageFailed,
            str(path),
            f"'{path}' cannot be read ({error.strerror}); mend this and try again.",
        ) from error


def _inputs(planned: Planned, tensors: "_Tensors") -> dict[str, float]:
    """The largest value of each input group, every member looked at.

    Of experts, a group counts as measured if any of them saw a token: they share one scale.
    """
    largest: defaultdict[str, float] = defaultdict(float)
    tokens: defaultdict[str, int] = defaultdict(int)
    for tensor in planned.tensors:
        if tensor.format is None or not FORMATS[tensor.format].needs_calibration:
            continue
        group = input_group(tensor)
        module = tensor.name.removesuffix(".weight")
        name, number = _measured_as(tensor)
        seen = tensors.count(f"{name}.tokens", module, number)
        if tensor.role is not Role.Experts and not seen:
            _unmeasured(module)
        tokens[group] += seen
        largest[group] = max(largest[group], tensors.amax(f"{name}.input_amax", module, number))
    for group, count in tokens.items():
        if not count:
            _unmeasured(group)
    return dict(largest)


def _measured_as(tensor: LogicalTensor) -> tuple[str, int]:
    """What the file calls the module of `tensor`, and its place there: experts lie in one array."""
    module = tensor.name.removesuffix(".weight")
    if tensor.role is not Role.Experts:
        return module, 0
    expert, _, projection = module.rpartition(".")
    parent, _, number = expert.rpartition(".")
    return f"{parent}.{projection}", int(number)


class _Tensors:
    """The numbers of `statistics.safetensors`; each array is looked at once."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        self._data = np.frombuffer(data, np.uint8)
        self._header = _header(path, data)
        self._known: dict[str, list[float]] = {}

    def amax(self, name: str, module: str, number: int = 0) -> float:
        """Entry `number` of the F32 array `name`, which is of `module`."""
        value = self._entry(name, Dtype.F32, module, number)
        if not 0 <= value < inf:
            raise RefusedInput(
                Reason.NonFiniteActivation,
                module,
                f"What was measured of `{module}` is NaN, infinite or negative (`{name}` in "
                f"'{self._path}'); run the source itself on the data, mend what overflows there, "
                f"and {_AGAIN}.",
            )
        return value

    def count(self, name: str, module: str, number: int) -> int:
        """Entry `number` of the I64 array `name`, which is of `module`."""
        return int(self._entry(name, Dtype.I64, module, number))

    def _entry(self, name: str, dtype: Dtype, module: str, number: int) -> float:
        values = self._known.get(name)
        if values is None:
            values = self._known[name] = self._read(name, dtype, module)
        if number >= len(values):
            _unmeasured(module)
        return values[number]

    def _read(self, name: str, dtype: Dtype, module: str) -> list[float]:
        entry = self._header.tensors.get(name)
        if entry is None:
            _unmeasured(module)
        if entry.dtype is not dtype or len(entry.shape) != 1:
            _differs(self._path, f"holds `{name}` as {entry.dtype} {list(entry.shape)}")
        data = self._data[entry.offset : entry.offset + entry.nbytes]
        values: list[float] = data.view(_NUMPY[dtype]).tolist()
        return values


def _header(path: Path, data: bytes) -> ShardHeader:
    try:
        return parse_header(path.name, len(data), data)
    except RefusedInput as error:
        raise RefusedInput(
            Reason.StatisticsDiffer, str(path), f"'{path}' is not safetensors; {_AGAIN}."
        ) from error


def _unmeasured(module: str) -> NoReturn:
    raise RefusedInput(
        Reason.ModuleUnmeasured,
        module,
        f"`{module}` was not measured: it saw no token of the calibration data; give data that "
        f"reach it, and {_AGAIN}.",
    )


def _differs(path: Path, how: str) -> NoReturn:
    raise RefusedInput(Reason.StatisticsDiffer, str(path), f"'{path}' {how}; {_AGAIN}.")
