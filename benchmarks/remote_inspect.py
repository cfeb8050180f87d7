"""What inspecting our 35B-A3B result costs over the network: requests and bytes.

The result has its planned layout and no data on disk (global scales excepted); a loopback double
of the Hub serves it by ranges.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np

from benchmarks.measuring import HALFTONE, Result, run
from halftone.checkpoint.index import read_checkpoint
from halftone.checkpoint.quantization_config import quantized_model_config
from halftone.plan.planning import Planned, plan_checkpoint
from halftone.quantize.companions import write_json
from halftone.quantize.engine import index_of
from halftone.spec.dtypes import Dtype
from halftone.spec.names import CONFIG_FILE, INDEX_FILE
from halftone.spec.recipes import load_recipe
from halftone.stores import open_source
from tests.builders import full_size_config, write_sparse
from tests.doubles.hub import HubDouble

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
    write_sparse(base, full_size_config("35B-A3B"))
    checkpoint = read_checkpoint(open_source(base))
    planned = plan_checkpoint(checkpoint, load_recipe("nvfp4a16"))
    result.mkdir()
    for shard in planned.shards:
        scales = sum(row.dtype is Dtype.F32 for row in shard.rows)
        with (result / shard.file).open("wb") as file:
            file.write(shard.header + np.full(scales, 1000.0, np.float32).tobytes())
            file.truncate(shard.size_bytes)
    _write_configuration(planned, checkpoint.config, result)
    shutil.rmtree(base)
    return result


def _write_configuration(planned: Planned, config: dict[str, object], result: Path) -> None:
    if planned.architecture is None or planned.plan.recipe is None:
        raise RuntimeError("the plan was refused")
    roles = [line.role for line in planned.plan.roles]
    written = quantized_model_config(config, planned.architecture, planned.plan.recipe, roles)
    write_json(result / CONFIG_FILE, written)
    write_json(result / INDEX_FILE, index_of(planned.shards))
