"""What carrying out a plan takes: memory, disk and minutes, for one machine without a GPU.

The engine sizes its buffers from the same constants, so the promise and the use cannot differ.
"""

from collections.abc import Sequence
from typing import Final

from halftone.plan.layout import OutputShard
from halftone.spec.documents import Resources
from halftone.spec.job import ScaleSearch

# What an estimate is for, whatever machine makes the plan; a run takes as many as it has cores.
WORKERS: Final = 2
# One tile of a matrix per worker: large enough that a read costs more than its system call, small
# enough that the second pass finds it in the last-level cache.
TILE_BYTES: Final = 4 * 2**20
# Weights of a remote source are kept between the two passes up to this size, to fetch them once.
SPOOL_BYTES: Final = 384 * 2**20
# Interpreter, NumPy, numba and its compiled kernels, measured resident after the first group.
_BASE_BYTES: Final = 300 * 2**20
# A 35B mixture of experts has 93,000 tensors; each costs about this much in our own tables.
_TENSOR_BYTES: Final = 2_000
# Bytes of source per second with so many workers, by benchmarks/quantize.py; disks differ.
_RATES: Final = {
    ScaleSearch.MinMax: 1000e6,
    ScaleSearch.MeanSquaredError: 500e6,
    ScaleSearch.Exhaustive: 350e6,
}


def estimate(
    shards: Sequence[OutputShard], source_bytes: int, search: ScaleSearch, remote: bool
) -> Resources:
    """Peak resident memory, disk and seconds for `shards`, with `WORKERS` workers.

    Each further worker takes four more tiles of `TILE_BYTES`.
    """
    tensors = sum(len(shard.rows) for shard in shards)
    memory = _BASE_BYTES + WORKERS * 4 * TILE_BYTES + tensors * _TENSOR_BYTES
    return Resources(
        peakMemoryBytes=memory + (SPOOL_BYTES if remote else 0),
        diskBytes=sum(shard.size_bytes for shard in shards),
        expectedSeconds=round(source_bytes / _RATES[search]) + 1,
    )
