"""What inspecting our 35B-A3B result costs over the network: requests and bytes.

The result has its planned layout and no data on disk (global scales excepted); a loopback double
of the Hub serves it by ranges.
"""

import json
import os
import shutil
from pathlib import Path

from benchmarks.measuring import HALFTONE, Result, run
from tests.builders import full_size_config, write_sparse
from tests.doubles.hub import HubDouble
from tests.quantizing import write_planned

_BYTES = 25_000_000
_REQUESTS = 200


def main(scratch: Path) -> list[Result]:
    """Inspect over `hf://` and count what was asked for."""
    result = _planned_result(scratch)
    with HubDouble(result) as hub:
        os.environ["HF_ENDPOINT"] = hub.endpoint
        done = run([HALFTONE, "inspect", hub.uri, "--json"])
    read = json.loads(done.output)["read"]
    shutil.rmtree(result)
    met = read["bytes"] <= _BYTES and read["requests"] <= _REQUESTS
    return [
        Result(
            "remote inspect of our 35B-A3B result",
            "<= 25 MB and <= 200 requests",
            f"{read['bytes'] / 1e6:.1f} MB, {read['requests']} requests, {done.seconds:.1f} s",
            met,
            {"read": read, "seconds": done.seconds},
        )
    ]


def _planned_result(scratch: Path) -> Path:
    """The output of `nvfp4a16` on the 35B-A3B: headers, configuration, index, global scales."""
    base = scratch / "headers-35b"
    result = scratch / "planned-35b"
    for directory in (base, result):
        shutil.rmtree(directory, ignore_errors=True)
    write_planned(write_sparse(base, full_size_config("35B-A3B")), result, "nvfp4a16")
    shutil.rmtree(base)
    return result
