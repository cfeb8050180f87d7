"""`statistics.safetensors` and `statistics.json`, from what was measured.

Called by `calibrating`. Equal work gives equal tensors and an equal digest: names are sorted, and
what is of the machine or the time stays outside of both.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from halftone import __version__
from halftone.plan.planning import Planned
from halftone.quantize.calibration.measured import Measured
from halftone.spec.calibration import Calibration
from halftone.spec.documents import WrittenFile, sha256_hex, write_atomically
from halftone.spec.names import STATISTICS_FILE, STATISTICS_TENSORS
from halftone.spec.statistics import MeasuredData, StatisticsDocument

_LIBRARIES: Final = ("compressed-tensors", "llmcompressor", "torch", "transformers")

Arrays = dict[str, NDArray[np.float32] | NDArray[np.int64]]


def versions() -> tuple[tuple[str, str], ...]:
    """The libraries that measure."""
    return tuple((name, version(name)) for name in _LIBRARIES)


def write_statistics(
    planned: Planned,
    calibration: Calibration,
    data: tuple[MeasuredData, ...],
    measured: Measured,
    source_stamp: str | None,
    output: Path,
) -> StatisticsDocument:
    """Write both files to `output`, the document last. Raises OSError."""
    tensors = save(dict(sorted(arrays(measured).items())))
    write_atomically(output / STATISTICS_TENSORS, tensors)
    document = StatisticsDocument(
        digest="",
        planDigest=planned.plan.digest,
        halftoneVersion=__version__,
        versions=versions(),
        seed=calibration.seed,
        maxSequenceLength=calibration.maxSequenceLength,
        unroutedExperts=calibration.unroutedExperts,
        data=data,
        unrouted=unrouted(measured),
        sourceStamp=source_stamp,
        file=WrittenFile(
            path=STATISTICS_TENSORS, sizeBytes=len(tensors), sha256=sha256_hex(tensors)
        ),
    ).sealed()
    document.save(output / STATISTICS_FILE)
    return document


def unrouted(measured: Measured) -> tuple[str, ...]:
    """Experts that the router sent no token."""
    return tuple(
        f"{parent}.{expert}"
        for parent, experts in sorted(measured.routed.items())
        for expert, (tokens, _) in enumerate(experts)
        if tokens == 0
    )


def arrays(measured: Measured) -> Arrays:
    """The tensors of `statistics.safetensors` by name (see `halftone.spec.statistics`)."""
    found: Arrays = {}
    experts: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for module, seen in measured.inputs.items():
        parent, number, projection = _expert(module, measured.routed)
        if parent is not None:
            experts[f"{parent}.{projection}"][number] = seen.amax
            continue
        found[f"{module}.input_amax"] = np.array([seen.amax], np.float32)
        found[f"{module}.tokens"] = np.array([seen.tokens], np.int64)
        found[f"{module}.samples"] = np.array([seen.samples], np.int64)
    for name, largest in experts.items():
        routed = measured.routed[name.rpartition(".")[0]]
        amax = [largest.get(number, 0.0) for number in range(len(routed))]
        found[f"{name}.input_amax"] = np.array(amax, np.float32)
        found[f"{name}.tokens"] = _column(routed, 0)
        found[f"{name}.samples"] = _column(routed, 1)
    for attention, (keys, values) in measured.caches.items():
        found[f"{attention}.k_amax"] = np.array([keys], np.float32)
        found[f"{attention}.v_amax"] = np.array([values], np.float32)
    return found


def _expert(module: str, parents: Mapping[str, object]) -> tuple[str | None, int, str]:
    """The parent of experts, the number and the projection of `module`, if it is one of those."""
    expert, _, projection = module.rpartition(".")
    parent, _, number = expert.rpartition(".")
    return (parent, int(number), projection) if parent in parents else (None, 0, "")


def _column(rows: Sequence[tuple[int, int]], place: int) -> NDArray[np.int64]:
    return np.array([row[place] for row in rows], np.int64)
