"""An hour of one replica under a load that does not change: does its memory level off?

The endpoint of `autoscaling` with its one replica held to half a core, and nobody who kills it, so
each process is seen for the whole time, which `serving_soak` cannot show. Growth is taken of each
third of the hour; the last one is judged.

As root, for the sake of the control groups.
"""

from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.autoscaling import DEFAULT, measure
from benchmarks.checkpoints import served_pocket
from benchmarks.measuring import Result
from benchmarks.memory_watch import MOST_GROWTH_MB, MemoryWatch, Slope
from benchmarks.open_loop import send
from benchmarks.scaled_endpoint import ScaledEndpoint
from benchmarks.serving_soak import BUDGET

_SECONDS = 3600
# Of what one replica can do, so that nothing waits for long.
_BUSY = 0.6
# In the title that vLLM gives the process that holds model and cache.
_ENGINE = "EngineCore"


def main(scratch: Path, seconds: int = _SECONDS) -> list[Result]:
    """One row."""
    artifact = served_pocket(scratch)
    with ScaledEndpoint(artifact, DEFAULT, scratch) as endpoint:
        measured = measure(endpoint, scratch)
        load = measured.load(np.full(seconds, _BUSY), seed=7)
        with MemoryWatch(endpoint.mark) as memory:
            answers = send(measured.client, load)
        borders = [seconds * third / 3 for third in range(4)]
        thirds = [memory.slopes(*each) for each in pairwise(borders)]
    return [_row(thirds, seconds, len(answers.failures), len(answers.rows))]


def _row(thirds: list[list[Slope]], seconds: int, failed: int, asked: int) -> Result:
    engines = [next((each for each in third if _ENGINE in each.title), None) for third in thirds]
    grown = ", ".join("?" if each is None else f"{each.megabytes_an_hour:.0f}" for each in engines)
    last = thirds[-1]
    steepest = last[0].megabytes_an_hour if last else 0.0
    said = f"{steepest:.0f} MB of {len(last)} processes; the engine in thirds: {grown}; "
    said += f"{failed} of {asked} requests failed"
    return Result(
        f"growth of memory in an hour, in the last third of {seconds // 60} minutes of steady load",
        f"<= {MOST_GROWTH_MB:.0f} MB",
        said,
        engines[-1] is not None and steepest <= MOST_GROWTH_MB and failed < BUDGET * asked,
        {"thirds": [[asdict(each) for each in third] for third in thirds]},
    )
