"""The matrix of `docs/scaling.md`: every load, lead, profile and start, under every policy.

Called by `benchmarks/scaling.py`, and by whoever tunes the law. One case is a load in a world; its
runs differ in policy alone. Rows are kept as JSON Lines, so that one can look while it runs.
"""

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.measuring import RESULTS, ROOT
from halftone.scaling.baselines.policies import POLICIES, make
from halftone.scaling.loads.generators import SHAPES, generate
from halftone.scaling.loads.load import Load
from halftone.scaling.loads.peaks import peak_factor
from halftone.scaling.loads.traces import read_trace
from halftone.scaling.profiles import load_profile
from halftone.scaling.replay import World, replay

TRACES = ("azure-2023-conv", "azure-2023-code")
LOADS = (*TRACES, *SHAPES)
# The law's constants were chosen with an eye on these, of `dense-27b`. How far a climb leads was
# chosen last, on means over the whole matrix and on `diurnal` at 966 s; docs/scaling.md says so.
IN_SAMPLE = frozenset({"azure-2023-conv", "ramp", "square", "step"})
LEADS = (100.0, 277.0, 966.0)
PROFILES = ("dense-27b", "moe-35b-a3b")
PEAK = 8
COLD = 3
STARTS = {"warm": PEAK, "cold": COLD}
SEEDS = (1, 2, 3)
STATIC = tuple(f"static-{count}" for count in range(5, 13))


@dataclass(frozen=True, slots=True)
class Case:
    """A load in a world. `start` is a key of `STARTS`."""

    load: str
    lead_s: float
    profile: str
    start: str
    seed: int


@dataclass(frozen=True, slots=True)
class Row:
    """One run."""

    case: Case
    policy: str
    attainment: float
    replica_hours: float
    mean_replicas: float
    ttft_p99: float
    events: int
    preemptions: int
    dropped: int
    requests: int
    high_rate: float  # requests per second in the busiest five minutes
    seconds: float  # until the last answer


def cases(
    loads: Iterable[str] = LOADS,
    leads: Iterable[float] = LEADS,
    profiles: Iterable[str] = PROFILES,
    starts: Iterable[str] = tuple(STARTS),
    seeds: Iterable[int] = SEEDS,
) -> list[Case]:
    """Every combination."""
    return [Case(*each) for each in product(loads, leads, profiles, starts, seeds)]


def run_case(case: Case, policies: Sequence[str]) -> list[Row]:
    """Every policy on the same load and leads."""
    load, world = prepared(case)
    high = _high_rate(load)
    rows = []
    for name in policies:
        outcome = replay(world, load, make(name, world, load), name=name)
        hours = outcome.replica_seconds / 3600
        waited = outcome.ttft_s[np.isfinite(outcome.ttft_s)]
        rows.append(
            Row(
                case,
                name,
                outcome.attainment,
                hours,
                outcome.mean_replicas,
                float(np.percentile(waited, 99)) if len(waited) else float("nan"),
                outcome.scale_events,
                outcome.preemptions,
                outcome.dropped,
                len(load),
                high,
                outcome.replica_seconds / max(outcome.mean_replicas, 1e-9),
            )
        )
    return rows


def prepared(case: Case) -> tuple[Load, World]:
    """Its load, scaled so that the peak needs `PEAK` replicas, and its world."""
    world = World(load_profile(case.profile), case.lead_s, start=STARTS[case.start], seed=case.seed)
    plain = trace(case.load) if case.load in TRACES else generate(case.load, case.seed)
    factor = peak_factor(plain, world.capacity, PEAK)
    return replace(plain.scaled(factor, case.seed), name=case.load), world


@lru_cache(maxsize=4)
def trace(name: str) -> Load:
    """One of the traces that lie here packed."""
    packed = ROOT / "benchmarks" / "traces" / f"{name}.csv.gz"
    folder = RESULTS / "scratch" / "traces"
    folder.mkdir(parents=True, exist_ok=True)
    plain = folder / f"{name}.csv"
    if not plain.exists():
        partial = plain.with_suffix(f".{os.getpid()}")
        partial.write_bytes(gzip.decompress(packed.read_bytes()))
        partial.rename(plain)
    return read_trace(plain)


def _high_rate(load: Load) -> float:
    counts = np.bincount((load.arrival_s // 60).astype(np.int64))
    width = min(5, len(counts))
    return float(np.convolve(counts, np.ones(width), "valid").max() / (60 * width))


def run_matrix(
    chosen: Sequence[Case],
    policies: Sequence[str] = (*POLICIES, *STATIC),
    kept: Path | None = None,
    workers: int = 2,
) -> Iterator[Row]:
    """All rows of `chosen`, as they come; those that `kept` has are not run again."""
    found = read_rows(kept) if kept else []
    yield from found
    done = {row.case for row in found}
    left = [case for case in chosen if case not in done]
    with ProcessPoolExecutor(workers) as pool:
        for rows in pool.map(run_case, left, [policies] * len(left)):
            if kept:
                with kept.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
            yield from rows


def read_rows(kept: Path) -> list[Row]:
    """What an earlier run left."""
    if not kept.exists():
        return []
    lines = (json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines())
    return [Row(**{**line, "case": Case(**line["case"])}) for line in lines]
