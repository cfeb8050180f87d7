"""Run the benchmarks and print one table: `python -m benchmarks [NAME …]`.

Sources of up to 10 GB are made under `build/benchmarks/` (or `--scratch DIR`) and need 18 GB there.
"""

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.measuring import RESULTS, Result, machine

BENCHMARKS = (
    "kernels",
    "planning",
    "remote_inspect",
    "quantize",
    "memory",
    "calibration",
    "sweep",
    "validating",
    "publish_s3",
    "serve_weights",
    "operator",
    "endpoint_card",
    "serving",
    "plant_accuracy",
)
# Only when asked for: the first takes what `make e2e-kfp` builds, `scaling` is
# `make bench-scaling`, and the others take an hour each; all but `scaling` as root.
BY_HAND = ("kubeflow", "autoscaling", "scaling", "serving_soak", "serving_memory")


def main() -> int:
    """Run what was asked for; exit 1 when a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join((*BENCHMARKS, *BY_HAND)))
    parser.add_argument("--scratch", type=Path, default=RESULTS / "scratch")
    chosen = parser.parse_args()
    unknown = set(chosen.names) - {*BENCHMARKS, *BY_HAND}
    if unknown:
        known = (*BENCHMARKS, *BY_HAND)
        parser.error(f"no benchmark is called {min(unknown)}; there are {known}")
    chosen.scratch.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    for name in chosen.names or BENCHMARKS:
        rows = importlib.import_module(f"benchmarks.{name}").main(chosen.scratch)
        for row in rows:
            row.save()
            print(_line(row), flush=True)
        results += rows
    print(f"\n{machine()}\n\n| what | target | measured | met |\n|---|---|---|---|")
    print("\n".join(_line(row) for row in results))
    return 0 if all(row.met for row in results) else 1


def _line(row: Result) -> str:
    return f"| {row.name} | {row.target} | {row.measured} | {'yes' if row.met else 'NO'} |"


if __name__ == "__main__":
    sys.exit(main())
