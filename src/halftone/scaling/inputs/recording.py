"""Readings in a file, one a line, to be read again as they were.

    with Path("readings.jsonl").open("w") as file:
        write(reading, file)
    readings = list(read(path))

Called by tests that give the same readings to Ray's policy and to the controller, and by whoever
wants to know later why the count was what it was. Standard library only.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from halftone.scaling.reading import Reading, ReplicaReading


def write(reading: Reading, file: IO[str]) -> None:
    """Add one line. Raises ValueError for a value that is no number."""
    file.write(json.dumps(asdict(reading), allow_nan=False, separators=(",", ":")) + "\n")


def read(path: Path) -> Iterator[Reading]:
    """The readings of a file, in its order. Raises ValueError that names the line."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield _reading(json.loads(line))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path.name}, line {number}, is no reading: {error}") from None


def _reading(told: Mapping[str, Any]) -> Reading:
    replicas = tuple(_replica(each) for each in told["replicas"])
    return Reading(**{**told, "replicas": replicas, "missing": tuple(told["missing"])})


def _replica(told: Mapping[str, Any]) -> ReplicaReading:
    histograms = {name: tuple(told[name]) for name in ("ttft", "itl")}
    return ReplicaReading(**{**told, **histograms})
