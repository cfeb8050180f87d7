"""The gates that run unasked against the quantization that they judge, as whole processes.

`halftone stage quantize` and `halftone stage validate` of one job without gates, on 2 GB, in turn.
"""

import shutil
from pathlib import Path

import yaml

from benchmarks import checkpoints
from benchmarks.measuring import HALFTONE, Result, Run, median_of, run

_PAIRS = 5


def main(scratch: Path) -> list[Result]:
    """`structure` and `WeightError` together, in time and memory."""
    source = checkpoints.dense(scratch / "dense-2gb")
    job = _job(scratch / "unmeasured.yaml", source)
    _pair(job, scratch)  # compiles kernels where they are not cached yet
    pairs = [_pair(job, scratch) for _ in range(_PAIRS)]
    ratio = median_of([gates.seconds / quantize.seconds for quantize, gates in pairs])
    peak = max(gates.peak_bytes for _, gates in pairs) / 1e6
    return [
        Result(
            "structure and WeightError of 2 GB, against the quantization",
            "<= 2 times",
            f"{ratio:.2f} times (peak memory {peak:.0f} MB)",
            ratio <= 2.0,
            {"seconds": [[quantize.seconds, gates.seconds] for quantize, gates in pairs]},
        )
    ]


def _job(path: Path, source: Path) -> Path:
    job = {
        "apiVersion": "halftone.dev/v1alpha1",
        "kind": "QuantizationJob",
        "metadata": {"name": "unmeasured"},
        "spec": {
            "source": {"directory": {"path": str(source.absolute())}},
            "quantization": {"preset": "nvfp4a16"},
            "validation": {"gates": []},
        },
    }
    path.write_text(yaml.safe_dump(job))
    return path


def _pair(job: Path, scratch: Path) -> tuple[Run, Run]:
    """(quantize, validate), each in a process of its own."""
    workdir = scratch / "work"
    shutil.rmtree(workdir, ignore_errors=True)
    run([HALFTONE, "stage", "plan", "--workdir", workdir, "--job", job])
    quantize, validate = (
        run([HALFTONE, "stage", name, "--workdir", workdir]) for name in ("quantize", "validate")
    )
    return quantize, validate
