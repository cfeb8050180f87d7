"""The capacity card of an endpoint timed from outside, against the one of the gate `Speed`.

The same checkpoint on the same machine: `gates/speed.py` drives the engine step by step in its own
process, `halftone bench` sees it through HTTP and streams. Both cards then say how long some steps
take; the difference is what streaming costs, and error. The pocket model, on a CPU, where a step
takes a few milliseconds and streaming the more of it: a large model on a GPU has a ratio nearer 1.
"""

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.measuring import HALFTONE, ROOT, Result, median_of, run
from halftone.spec.capacity import CapacityCard
from halftone.spec.gates import Speed
from halftone.validate.capacity import build_card
from halftone.validate.gates.speed import parameters
from halftone.validate.serving.session import EngineOptions, EngineSession
from tests.environments import python_of
from tests.servers.vllm import DIGEST, Asked, vllm_servers

_POCKET = ROOT / "examples" / "pocket-model" / "checkpoint"
_CONCURRENCY = 8
# (KV tokens, sequences) of steps that both are asked about: one stream, and a full batch.
_STEPS = ((64, 1), (256, 1), (512, _CONCURRENCY), (1536, _CONCURRENCY))


def main(scratch: Path) -> list[Result]:
    """The median ratio of predicted steps, with each."""
    inside = _inside(scratch)
    outside, request_seconds = _outside(scratch)
    ratios = [_step(outside, *at) / _step(inside, *at) for at in _STEPS]
    middle = median_of(ratios)
    return [
        Result(
            "a step as the card of an endpoint says it, over the gate's card (CPU, 4 steps)",
            "0.5 to 2 times",
            f"{middle:.2f} times ({min(ratios):.2f} to {max(ratios):.2f})",
            0.5 <= middle <= 2,
            {
                "inside": inside.model_dump(mode="json"),
                "outside": outside.model_dump(mode="json"),
                "requestSeconds": request_seconds,
                "ratios": ratios,
            },
        )
    ]


def _inside(scratch: Path) -> CapacityCard:
    gate = Speed.model_validate(
        {"name": "speed", "metric": "Speed", "concurrency": _CONCURRENCY, "minRatioPercent": 1}
    )
    options = EngineOptions(maxModelLen=512, maxSequences=16)
    log = scratch / "endpoint-card-inside.log"
    with EngineSession(_POCKET, log=log, options=options, python=python_of("serve")) as session:
        measured = session.ask("speed", **parameters(gate))
        return build_card(session.facts, measured, DIGEST)


def _outside(scratch: Path) -> tuple[CapacityCard, float]:
    os.environ["HALFTONE_SERVE_PYTHON"] = str(python_of("serve"))
    with vllm_servers(scratch, {"pocket": Asked(_POCKET, replicas=1)}) as urls:
        load = ["--concurrency", str(_CONCURRENCY), "--input-tokens", "64", "--output-tokens", "32"]
        said = run([HALFTONE, "bench", urls["pocket"], *load, "--rounds", "1", "--json"]).output
    capacity: dict[str, Any] = json.loads(said)["capacity"]
    return CapacityCard.model_validate(capacity["card"]), float(capacity["requestSeconds"])


def _step(card: CapacityCard, kv_tokens: int, sequences: int) -> float:
    costs = (card.stepBaseSeconds, card.secondsPerKvToken, card.secondsPerSequence)
    base, token, sequence = (float(cost.value) for cost in costs)
    return base + kv_tokens * token + sequences * sequence
