"""Inputs to begin with: real documents of a tiny model, and what a fuzzer once found.

Called by `python -m tests.fuzz` and by the test of seeds. What was found lies in `kept/TARGET/`, a
file each, and is read by every `make test`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from halftone.checkpoint.index import read_checkpoint
from halftone.plan.planning import plan_checkpoint
from halftone.spec.names import CONFIG_FILE
from halftone.spec.recipes import load_recipe
from halftone.stores import open_source
from tests.builders import write_checkpoint
from tests.conftest import ROOT
from tests.fuzz.targets import BETWEEN, TARGETS

KEPT: Final = Path(__file__).with_name("kept")
_FAMILIES: Final = ("qwen3", "qwen3_5_moe")
_ANSWER: Final = {
    "status": "success",
    "data": {
        "resultType": "vector",
        "result": [{"metric": {"model_name": "m"}, "value": [1700000000.5, "1.5"]}],
    },
}
_PAGE: Final = """# HELP vllm:num_requests_running Running.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 1.0
vllm:time_to_first_token_seconds_bucket{le="0.001",model_name="m"} 0.0
"""


def inputs(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(target, input), of documents that are made in `folder`, and of kept ones."""
    for family in _FAMILIES:
        yield from _of_a_model(write_checkpoint(folder / family, family))
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        yield "job", path.read_bytes()
    yield "exposition", _PAGE.encode()
    yield "answer", json.dumps(_ANSWER).encode()
    for target in TARGETS:
        for path in sorted((KEPT / target).glob("*")):
            yield target, path.read_bytes()


def _of_a_model(source: Path) -> Iterator[tuple[str, bytes]]:
    config = (source / CONFIG_FILE).read_bytes()
    (shard, *_) = sorted(source.glob("*.safetensors"))
    data = shard.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    begin = data[:length]
    yield "header", begin + (len(data) - length).to_bytes(4, "little")
    yield "checkpoint", BETWEEN.join((config, b"", data))
    opened = open_source(str(source))
    planned = plan_checkpoint(read_checkpoint(opened), load_recipe("nvfp4a16"))
    yield "plan", planned.plan.to_bytes()
    yield "plan", planned.full_document().to_bytes()
