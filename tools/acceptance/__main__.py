"""The command line of an acceptance; exit 0 accepted, 1 not, 2 a wrong option, 3 no GPU."""

import argparse
import sys
from pathlib import Path

import yaml

from tools.acceptance import gpu
from tools.acceptance.asking import MODES
from tools.acceptance.carrying import carry_out
from tools.acceptance.orders import (
    JOB,
    ROOT,
    Step,
    Wishes,
    is_of_another_job,
    steps,
    write_inputs,
)
from tools.acceptance.report import is_accepted, write_report


def main(arguments: list[str]) -> int:
    """Carry out, or print, what the options say."""
    asked = _parser().parse_args(arguments)
    unknown = sorted(set(asked.modes) - set(MODES))
    if unknown:
        print(f"accept-hardware: there is no mode '{unknown[0]}'; there are {', '.join(MODES)}.")
        return 2
    if not asked.job.is_file():
        print(f"accept-hardware: '{asked.job}' is not there; name the file of a QuantizationJob.")
        return 2
    wishes = Wishes(
        asked.output.resolve(), asked.job, asked.source, asked.recipe, tuple(asked.modes),
        asked.baseline, asked.tensor_parallel, asked.port,
    )  # fmt: skip
    try:
        planned = steps(wishes)
    except (yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        print(
            f"accept-hardware: '{asked.job}' is no QuantizationJob whose source is a directory, "
            f"S3 or the Hub ({type(error).__name__}: {error}); name another, or give `--source`."
        )
        return 2
    if asked.dry_run:
        _print(planned)
        return 0
    if not gpu.is_there():
        print(gpu.NONE, file=sys.stderr)
        return 3
    if is_of_another_job(wishes):
        print(
            f"accept-hardware: '{wishes.output}' holds work of another job, source or recipe; "
            "choose another `--output`, or remove that one."
        )
        return 2
    write_inputs(wishes)
    results = carry_out(planned, wishes.output, lambda line: print(line, flush=True))
    folder = write_report(wishes.output, results, wishes.modes)
    verdict = "accepted" if is_accepted(results) else "NOT accepted"
    print(f"accept-hardware: {verdict}; the report is {folder / 'summary.md'}")
    return 0 if is_accepted(results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.acceptance",
        description="A reference recipe on its real repository: gates, five serving modes, speed.",
    )
    parser.add_argument("--job", type=Path, default=JOB, help="Take gates and recipe from it.")
    parser.add_argument("--source", help="Another source: a directory, hf://… or s3://…")
    parser.add_argument("--recipe", help="Another preset; see `halftone recipes`.")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "accepted")
    parser.add_argument(
        "--modes", type=lambda text: text.split(","), default=list(MODES), metavar="NAME,…"
    )
    parser.add_argument("--baseline", metavar="URL", help="An endpoint of the source, to compare.")
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="N")
    parser.add_argument("--port", type=int, default=8000, metavar="N")
    parser.add_argument("--dry-run", action="store_true", help="Print every step, and do nothing.")
    return parser


def _print(planned: list[Step]) -> None:
    for step in planned:
        print(f"$ {step.line}" + ("   # until the next lines are done" if step.during else ""))
        for inner in step.during:
            print(f"  $ {inner.line}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
