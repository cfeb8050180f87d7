"""Peak resident memory while the shard grows: one file, stacked experts of 1 GB."""

import shutil
from pathlib import Path

from benchmarks import checkpoints
from benchmarks.measuring import HALFTONE, Result, run

_LIMIT = 1e9
_FLAT = 1.15  # the largest shard's peak may be this much above the smallest's


def main(scratch: Path) -> list[Result]:
    """Quantize one shard of about 2 GB and one of about 5 GB; compare the peaks."""
    peaks = {}
    for gigabytes in (2, 5):
        source = checkpoints.stacked_experts(scratch / f"stacked-{gigabytes}gb", gigabytes)
        size = checkpoints.tensor_bytes(source)
        target = scratch / "ours"
        shutil.rmtree(target, ignore_errors=True)
        done = run([HALFTONE, "quantize", source, target, "--recipe", "nvfp4a16", "--json"])
        peaks[size] = done.peak_bytes
        shutil.rmtree(target)
        shutil.rmtree(source)
    small, large = (peaks[size] for size in sorted(peaks))
    shown = ", ".join(f"{peak / 1e6:.0f} MB at {size / 1e9:.1f} GB" for size, peak in peaks.items())
    return [
        Result(
            "peak resident memory, one shard with stacked experts of 1 GB",
            "<= 1 GB, flat as shards grow",
            shown,
            large <= _LIMIT and large <= _FLAT * small,
            {"peakBytes": {str(size): peak for size, peak in peaks.items()}},
        )
    ]
