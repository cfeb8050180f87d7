"""`halftone plan` of the 35B-A3B's headers, and `halftone --help`."""

import shutil
from pathlib import Path
from typing import Literal

from benchmarks.measuring import HALFTONE, Result, median_of, run
from tests.builders import full_size_config, write_sparse

_RUNS = 5


def main(scratch: Path) -> list[Result]:
    """Median wall seconds of whole processes."""
    return [
        _plan(scratch, "PerExpert"),
        _plan(scratch, "Fused"),
        _row("halftone --help", 0.4, [run([HALFTONE, "--help"]).seconds for _ in range(_RUNS)]),
    ]


def _plan(scratch: Path, experts: Literal["PerExpert", "Fused"]) -> Result:
    source = scratch / f"headers-{experts}"
    shutil.rmtree(source, ignore_errors=True)
    write_sparse(source, full_size_config("35B-A3B"), experts=experts)
    command: list[str | Path] = [HALFTONE, "plan", source, "--recipe", "nvfp4a16"]
    name = f"halftone plan, 35B-A3B headers, {experts} experts"
    return _row(name, 2.0, [run(command).seconds for _ in range(_RUNS)])


def _row(name: str, limit: float, seconds: list[float]) -> Result:
    middle = median_of(seconds)
    return Result(name, f"<= {limit:g} s", f"{middle:.2f} s", middle <= limit, {"seconds": seconds})
