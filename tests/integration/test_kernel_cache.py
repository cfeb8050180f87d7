"""Compiled kernels in a cache that several processes share.

We test these aspects, with real processes and an empty HALFTONE_CACHE_DIR:
- several that compile the same kernels for different types at once all compute right, and what
  they leave behind is right for whoever comes later
- a cache that cannot be written any more costs time, and is no error
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

KERNELS = 12
DTYPES = ("uint16", "int16", "float32")

MODULE = """
from typing import Any

from halftone.checkpoint.jit import kernel
"""
KERNEL = """
@kernel
def kernel_{number}(values: Any) -> Any:
    return values[0] + {number} * values[1]
"""
# Says that it is ready, and begins when it is told; then each dtype through every kernel.
PROGRAM = """
import json, sys
import numpy as np
import many_kernels

print("ready", flush=True)
sys.stdin.readline()
results, hits = {}, 0
for number in range(int(sys.argv[1])):
    compiled = getattr(many_kernels, f"kernel_{number}")
    for dtype in sys.argv[2:]:
        try:
            found = float(compiled(np.array([7, 3], dtype)))
        except Exception as error:
            found = repr(error)
        results[f"{number} {dtype}"] = found
    hits += sum(compiled.stats.cache_hits.values())
print(json.dumps({"results": results, "hits": hits}))
"""


def start(folder: Path, kernels: int, *dtypes: str) -> subprocess.Popen[str]:
    """A process that waits to be told; its cache lies in `folder`, and is empty at first."""
    (folder / "many_kernels.py").write_text(
        MODULE + "\n".join(KERNEL.format(number=number) for number in range(kernels))
    )
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(kernels), *dtypes],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "HALFTONE_CACHE_DIR": str(folder / "cache")},
    )


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a process that was started says, once it is told to begin."""
    out, _ = process.communicate("begin\n", timeout=240)
    assert process.returncode == 0
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer


def expected(kernels: int, *dtypes: str) -> dict[str, float]:
    return {f"{n} {dtype}": 7.0 + 3 * n for n in range(kernels) for dtype in dtypes}


def test_processes_that_compile_at_once_do_not_mix_up_their_kernels(tmp_path: Path) -> None:
    processes = [start(tmp_path, KERNELS, dtype) for dtype in DTYPES]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("begin\n")
        process.stdin.flush()
    for process, dtype in zip(processes, DTYPES, strict=True):
        assert finished(process)["results"] == expected(KERNELS, dtype)

    later = finished(start(tmp_path, KERNELS, *DTYPES))

    assert later["results"] == expected(KERNELS, *DTYPES)
    assert later["hits"] == KERNELS * len(DTYPES)
    # An index that all share, as numba's own, loses entries or mixes them up: seldom, and for good.
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(kept) == KERNELS * len(DTYPES)
    assert {path.suffix for path in kept} == {".kernel"}


def test_a_cache_that_cannot_be_written_any_more_is_no_error(tmp_path: Path) -> None:
    process = start(tmp_path, 2, "float32")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    [kernels] = (tmp_path / "cache" / "halftone").iterdir()
    kernels.rename(tmp_path / "moved")
    kernels.write_text("in the way")

    answer = finished(process)

    assert answer == {"results": expected(2, "float32"), "hits": 0}
    assert kernels.read_text() == "in the way"
