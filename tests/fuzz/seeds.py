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
from halftone.spec.gates import Metric
from halftone.spec.names import CONFIG_FILE
from halftone.spec.recipes import load_recipe
from halftone.spec.reports import (
    GateResult,
    Interval,
    Outcome,
    Platform,
    Report,
    ReportSource,
    Verdict,
)
from halftone.stores import open_source
from tests.builders import write_checkpoint
from tests.conftest import ROOT
from tests.fuzz.targets import BETWEEN, SHARD, TARGETS

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
    yield from made(folder)
    for target in TARGETS:
        for path in sorted((KEPT / target).glob("*")):
            yield target, path.read_bytes()


def made(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(target, input) of whole documents, of which none is refused."""
    for family in _FAMILIES:
        yield from _of_a_model(write_checkpoint(folder / family, family))
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        yield "job", path.read_bytes()
    yield "report", _report().to_bytes()
    yield "exposition", _PAGE.encode()
    yield "answer", json.dumps(_ANSWER).encode()


def _of_a_model(source: Path) -> Iterator[tuple[str, bytes]]:
    config = (source / CONFIG_FILE).read_bytes()
    (shard, *_) = sorted(source.glob("*.safetensors"))
    data = shard.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    # Without its numbers, which nothing here reads, it is short enough for a fuzzer.
    begin = data[:length] + (len(data) - length).to_bytes(4, "little")
    yield "header", begin
    for index in (b"", _index(data[8:length])):
        yield "checkpoint", BETWEEN.join((config, index, begin))
    opened = open_source(str(source))
    planned = plan_checkpoint(read_checkpoint(opened), load_recipe("nvfp4a16"))
    yield "plan", planned.plan.to_bytes()
    yield "plan", planned.full_document().to_bytes()


def _index(header: bytes) -> bytes:
    """The index of one shard with that header."""
    names = [name for name in json.loads(header) if name != "__metadata__"]
    return json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, SHARD)}).encode()


def _report() -> Report:
    """One with a gate on files and one on an engine, as `validate` leaves it."""
    weights = GateResult(
        name="weights", metric=Metric.WeightError, outcome=Outcome.Passed, message="Near.",
        score="0.09", limit="≤ 0.15", items=16, evidence="evidence/weights.json",
    )  # fmt: skip
    task = GateResult(
        name="sums", metric=Metric.Task, outcome=Outcome.Failed, message="Far.", score="91.0",
        interval=Interval(lower="88.0", upper="93.5", confidencePercent=95), culprit="item 7",
        sourceScore="0.99", quantizedScore="0.90",
    )  # fmt: skip
    return Report(
        verdict=Verdict.Failed,
        message="1 of 2 gates passed.",
        planDigest="a" * 64,
        checkpointDigest="b" * 64,
        checkpointDocumentSha256="c" * 64,
        gatesDigest="d" * 64,
        halftoneVersion="0.1.0",
        source=ReportSource(uri="s3://models/small", revision=None),
        platform=Platform(device="CPU", emulated=True, engine="vllm 0.32.0+cpu"),
        gates=(weights, task),
        evidence=(),
        recoveryPercent="91.0",
        startTime="2026-11-21T14:00:00Z",
        completionTime="2026-11-21T14:04:09Z",
    )
