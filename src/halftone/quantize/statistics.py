"""Statistics of a calibration as the engine takes them: proved to be the plan's own, then numbers.

Called by whoever quantizes or rebuilds a calibrated plan, with the folder that `halftone calibrate`
wrote or with what a published artifact holds. Both files are read whole, up to a size; they may
come from anyone, so nothing in them is believed before it was checked. Nothing is measured here.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path, PurePath, PurePosixPath
from typing import Final, NoReturn

import numpy as np
from pydantic import ValidationError

from halftone.checkpoint.headers import ShardHeader, parse_header
from halftone.plan.measurements import cached_attention, input_group
from halftone.plan.planning import Planned
from halftone.plan.tensors import LogicalTensor
from halftone.spec.documents import sha256_hex
from halftone.spec.dtypes import Dtype
from halftone.spec.errors import CheckFailed, EnvironmentFault, RefusedInput
from halftone.spec.formats import FORMATS
from halftone.spec.names import (
    CALIBRATION_DIRECTORY,
    STATISTICS_FILE,
    STATISTICS_TENSORS,
    Reason,
)
from halftone.spec.roles import Role
from halftone.spec.statistics import StatisticsDocument

# The largest header that safetensors are read with takes 100 MB, the numbers behind it less.
_MAX_BYTES: Final = 256 * 2**20
_NUMPY: Final = {Dtype.F32: np.float32, Dtype.I64: np.int64}
_AGAIN: Final = "run `halftone calibrate` on this plan again"
_DO_NOT_USE: Final = "do not use this artifact, and tell its publisher"


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


@dataclass(frozen=True)
class _Place:
    """The folder that both files lie in, as messages name it, and what to do about a flaw."""

    folder: PurePath
    published: bool = False

    @property
    def document(self) -> PurePath:
        return self.folder / STATISTICS_FILE

    @property
    def tensors(self) -> PurePath:
        return self.folder / STATISTICS_TENSORS

    def way_out(self, first: str = "") -> str:
        """`first` is what to mend before measuring again; nobody else can measure for a reader."""
        if self.published:
            return _DO_NOT_USE
        return f"{first}, and {_AGAIN}" if first else _AGAIN


def read_statistics(directory: Path, planned: Planned) -> Statistics:
    """The statistics that `halftone calibrate` wrote to `directory` for `planned`.

    Raises RefusedInput: CalibrationRequired where there are none; StatisticsDiffer for those of
    another plan, or that were changed since, or that count less than no token; ModuleUnmeasured for
    a module that saw no token, or that the file lacks; NonFiniteActivation for a magnitude that is
    NaN, infinite or negative. EnvironmentFault(StorageFailed) where a file cannot be read.
    """
    place = _Place(directory)
    document = _document(_bytes(directory / STATISTICS_FILE), place, planned)
    data = _bytes(directory / STATISTICS_TENSORS, document.file.sizeBytes)
    return _taken(document, data, place, planned)


def published_statistics(files: Mapping[str, bytes], planned: Planned) -> Statistics:
    """The statistics of an artifact, whose `files` (by name) lie in its folder `calibration`.

    Raises CheckFailed with the file that cannot have given a checkpoint of `planned`; the reasons
    are those of `read_statistics`.
    """
    place = _Place(PurePosixPath(CALIBRATION_DIRECTORY), published=True)
    try:
        document = _document(files[STATISTICS_FILE], place, planned)
        return _taken(document, files[STATISTICS_TENSORS], place, planned)
    except RefusedInput as error:
        in_document = error.subject == str(place.document)
        subject = place.document if in_document else place.tensors
        raise CheckFailed(error.reason, str(subject), error.message) from error


def _document(data: bytes, place: _Place, planned: Planned) -> StatisticsDocument:
    path = place.document
    try:
        document = StatisticsDocument.model_validate_json(data)
    except ValidationError as error:
        raise RefusedInput(
            Reason.StatisticsDiffer,
            str(path),
            f"'{path}' is not a {STATISTICS_FILE} of this version; {place.way_out()}.",
        ) from error
    if document.compute_digest() != document.digest:
        _differs(path, "was changed after it was written (its digest differs)", place)
    if document.planDigest != planned.plan.digest:
        _differs(
            path,
            f"was measured for another plan ({document.planDigest[:12]}, this one is "
            f"{planned.plan.digest[:12]}): another source, revision or recipe, or without the "
            "`--scale-search` or `--max-shard-bytes` of this one",
            place,
            "give what `halftone plan` was given, or its file with `--plan`; or",
        )
    if document.file.path != STATISTICS_TENSORS:
        _differs(path, f"does not state {STATISTICS_TENSORS}", place)
    return document


def _taken(
    document: StatisticsDocument, data: bytes, place: _Place, planned: Planned
) -> Statistics:
    """The numbers in `data`, which must be the file that `document` states."""
    stated = (document.file.sizeBytes, document.file.sha256)
    if (len(data), sha256_hex(data)) != stated:
        told = f"is not the file that {STATISTICS_FILE} states (its SHA-256 differs)"
        _differs(place.tensors, told, place)
    tensors = _Tensors(place, data)
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


def _bytes(path: Path, size: int = _MAX_BYTES) -> bytes:
    """The whole file; what is longer than `size`, or than any of ours can be, is refused unread."""
    most = min(size, _MAX_BYTES)
    try:
        if path.stat().st_size > most:
            _differs(path, f"holds more than the {most:,} bytes that it may", _Place(path.parent))
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
            tensors.refuse_unmeasured(module)
        tokens[group] += seen
        largest[group] = max(largest[group], tensors.amax(f"{name}.input_amax", module, number))
    for group, count in tokens.items():
        if not count:
            tensors.refuse_unmeasured(group)
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

    def __init__(self, place: _Place, data: bytes) -> None:
        self._place = place
        self._data = np.frombuffer(data, np.uint8)
        self._header = _header(place, data)
        self._known: dict[str, list[float]] = {}

    def amax(self, name: str, module: str, number: int = 0) -> float:
        """Entry `number` of the F32 array `name`, which is of `module`."""
        value = self._entry(name, Dtype.F32, module, number)
        if not 0 <= value < inf:
            first = "run the source itself on the data, mend what overflows there"
            raise RefusedInput(
                Reason.NonFiniteActivation,
                module,
                f"What was measured of `{module}` is NaN, infinite or negative (`{name}` in "
                f"'{self._place.tensors}'); {self._place.way_out(first)}.",
            )
        return value

    def count(self, name: str, module: str, number: int) -> int:
        """Entry `number` of the I64 array `name`, which is of `module`."""
        found = int(self._entry(name, Dtype.I64, module, number))
        if found < 0:
            told = f"counts {found} tokens for `{module}` (`{name}`)"
            _differs(self._place.tensors, told, self._place)
        return found

    def refuse_unmeasured(self, module: str) -> NoReturn:
        """Raise RefusedInput(ModuleUnmeasured), which names `module` or a group of experts."""
        raise RefusedInput(
            Reason.ModuleUnmeasured,
            module,
            f"`{module}` was not measured: '{self._place.tensors}' knows of no token that reached "
            f"it; {self._place.way_out('give data that reach it')}.",
        )

    def _entry(self, name: str, dtype: Dtype, module: str, number: int) -> float:
        values = self._known.get(name)
        if values is None:
            values = self._known[name] = self._read(name, dtype, module)
        if number >= len(values):
            self.refuse_unmeasured(module)
        return values[number]

    def _read(self, name: str, dtype: Dtype, module: str) -> list[float]:
        entry = self._header.tensors.get(name)
        if entry is None:
            self.refuse_unmeasured(module)
        if entry.dtype is not dtype or len(entry.shape) != 1:
            told = f"holds `{name}` as {entry.dtype} {list(entry.shape)}"
            _differs(self._place.tensors, told, self._place)
        data = self._data[entry.offset : entry.offset + entry.nbytes]
        values: list[float] = data.view(_NUMPY[dtype]).tolist()
        return values


def _header(place: _Place, data: bytes) -> ShardHeader:
    path = place.tensors
    try:
        return parse_header(path.name, len(data), data)
    except RefusedInput as error:
        raise RefusedInput(
            Reason.StatisticsDiffer,
            str(path),
            f"'{path}' is not safetensors; {place.way_out()}.",
        ) from error


def _differs(path: PurePath, how: str, place: _Place, first: str = "") -> NoReturn:
    way_out = place.way_out()
    told = way_out if place.published or not first else f"{first} {way_out}"
    raise RefusedInput(Reason.StatisticsDiffer, str(path), f"'{path}' {how}; {told}.")
