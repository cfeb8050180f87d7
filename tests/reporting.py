"""A whole report with the evidence of every gate, for tests of the page and of the model card.

The plan and the checkpoint are real; what gates measured is made up here, in the forms in which
they write it. `measured` gives all of it; `unmeasured` is the report of a job with `gates: []`.

    evidence = evidence_of(made.planned.full_document(), made.document)
    report = measured(plan, checkpoint, evidence)
"""

import random
from itertools import pairwise
from typing import Any

from halftone.spec.documents import (
    CheckpointDocument,
    Plan,
    WrittenFile,
    canonical_json,
    sha256_hex,
)
from halftone.spec.gates import Metric
from halftone.spec.reports import (
    GateResult,
    Interval,
    Outcome,
    Platform,
    Report,
    ReportSource,
    Verdict,
)

Evidence = dict[str, dict[str, Any]]

EMULATED = Platform(
    device="CPU",
    emulated=True,
    engine="vllm 0.32.0+cpu",
    kernels=("HalftoneNvFp4Linear",),
)


def measured(
    plan: Plan,
    checkpoint: CheckpointDocument,
    evidence: Evidence,
    verdict: Verdict = Verdict.Emulated,
    **changes: Any,
) -> Report:
    """A report whose gates all passed, one of each metric that a CPU can measure."""
    return _report(plan, checkpoint, verdict, _GATES, evidence).model_copy(update=changes)


def unmeasured(plan: Plan, checkpoint: CheckpointDocument) -> Report:
    """The report of a job that lists no gates."""
    report = _report(plan, checkpoint, Verdict.Unmeasured, _GATES[:2], {})
    return report.model_copy(update={"platform": None, "recoveryPercent": ""})


def _report(
    plan: Plan,
    checkpoint: CheckpointDocument,
    verdict: Verdict,
    gates: tuple[GateResult, ...],
    evidence: Evidence,
) -> Report:
    assert plan.source is not None
    return Report(
        verdict=verdict,
        message=f"{len(gates)} of {len(gates)} gates passed.",
        planDigest=plan.digest,
        checkpointDigest=checkpoint.digest,
        checkpointDocumentSha256=sha256_hex(checkpoint.to_bytes()),
        gatesDigest=sha256_hex(b"gates"),
        halftoneVersion=checkpoint.halftoneVersion,
        source=ReportSource(uri=plan.source.uri, revision=plan.source.revision),
        platform=EMULATED,
        gates=gates,
        evidence=tuple(_file(name, evidence[name]) for name in sorted(evidence)),
        recoveryPercent="99.89",
        startTime="2026-11-21T14:00:00Z",
        completionTime="2026-11-21T14:04:09Z",
    )


def _file(name: str, content: dict[str, Any]) -> WrittenFile:
    data = canonical_json(content)
    return WrittenFile(path=f"evidence/{name}.json", sizeBytes=len(data), sha256=sha256_hex(data))


def evidence_of(plan: Plan, checkpoint: CheckpointDocument) -> Evidence:
    """Evidence of every gate of `measured`, by the gate's name."""
    divergence = _divergence()
    return {
        "weight-error": _weight_errors(plan, checkpoint),
        "loads": _engine(),
        "divergence": divergence,
        "agreement": divergence,
        "perplexity": divergence,
        "arithmetic": _task(),
        "speed": _speed(),
    }


def _weight_errors(plan: Plan, checkpoint: CheckpointDocument) -> dict[str, Any]:
    roles = {row.name: row.role for row in plan.tensors}
    return {
        "roles": [
            {
                "role": row.role,
                "format": row.format,
                "relativeError": float(row.relativeError),
                "relativeErrorServing": float(row.relativeError),
                "limit": 0.15 if row.format.startswith("NVFP4") else 0.1,
            }
            for row in checkpoint.roles
        ],
        "groups": [
            {
                "name": group.name,
                "role": roles[group.members[0]],
                "layer": int(group.name.partition("layers.")[2].partition(".")[0]),
                "format": group.format,
                "relativeError": float(group.relativeError),
                "relativeErrorServing": float(group.relativeError),
            }
            for group in checkpoint.groups
        ],
    }


def _engine() -> dict[str, Any]:
    return {
        "loadSeconds": 14.2,
        "kvBlocks": 1280,
        "platform": {"device": "CPU", "driver": None, "emulated": True},
        "kernels": ["HalftoneNvFp4Linear"],
        "warnings": ["The KV cache of a CPU is small."],
        "generated": [
            {"id": "sum", "text": "12+345=357\n", "tokens": 4, "finite": True},
            {"id": "code", "text": "<script>alert(1)</script>\n", "tokens": 9, "finite": True},
        ],
    }


def _divergence() -> dict[str, Any]:
    chance = random.Random(4)
    values = sorted(chance.lognormvariate(-7.4, 1.3) for _ in range(4096))
    edges = [0.0, *(10 ** (power / 4) for power in range(-24, 5))]
    counts = [sum(low <= v < high for v in values) for low, high in pairwise(edges)]
    prompts = [
        {
            "id": f"{kind}-{n}",
            "kind": kind,
            "tokens": 256,
            "meanKl": 0.0011 + n / 9000,
            "p99Kl": 0.02,
        }
        for kind in ("code", "prose", "image")
        for n in range(4)
    ]
    return {
        "prompts": prompts,
        "histogram": {"edges": edges, "counts": counts},
        "noiseFloor": {"mean": 2.1e-06, "p99": 1.9e-05},
        "mean": sum(values) / len(values),
        "p99": values[int(len(values) * 0.99)],
        "standardError": 0.0001,
        "topOneAgreementPercent": 96.5,
        "perplexity": {"source": 18.02, "quantized": 18.11},
        "worst": [
            {"prompt": "code-3", "position": 17, "token": " </script><b>", "kl": 0.211},
            {"prompt": "prose-1", "position": 90, "token": "\n", "kl": 0.188},
        ],
    }


def _task() -> dict[str, Any]:
    items = [
        {"id": n, "source": float(n % 9 != 0), "quantized": float(n % 9 != 0 and n != 500)}
        for n in range(1000)
    ]
    return {
        "task": "arithmetic",
        "metric": "exact_match",
        "items": items,
        "recoveryPercent": 99.89,
        "difference": -0.001,
        "higherIsBetter": True,
        "interval": {"lower": -0.00296, "upper": 0.00096},
        "marginPercent": 2.0,
        "neededItems": 640,
    }


def _speed() -> dict[str, Any]:
    def side(tokens: float, first: float, between: float) -> dict[str, Any]:
        given = {"tokensPerSecond": tokens, "ttftMs": first, "itlMs": between}
        return {name: {"p50": value, "p95": value * 1.3} for name, value in given.items()}

    loads = (
        (1, 154.6, 188.0, 19.4, 33.7),
        (8, 960.0, 1010.0, 41.0, 52.0),
        (32, 3250.0, 2701.0, 90.0, 130.0),
    )
    return {
        "loads": [
            {
                "concurrency": load,
                "source": side(before, ttft, 1000 * load / before),
                "quantized": side(after, ttft_after, 1000 * load / after),
                "ratioPercent": round(100 * after / before, 1),
                "interval": {"lower": 100 * after / before - 8, "upper": 100 * after / before + 8},
            }
            for load, before, after, ttft, ttft_after in loads
        ],
        "card": {},
    }


def _gate(name: str, metric: Metric, message: str, **more: Any) -> GateResult:
    evidence = more.pop("evidence", f"evidence/{name}.json")
    outcome = more.pop("outcome", Outcome.Passed)
    return GateResult(
        name=name, metric=metric, outcome=outcome, message=message, evidence=evidence, **more
    )


_GATES = (
    _gate(
        "structure",
        Metric.Structure,
        "All 136 tensors are as planned, 103 kept ones equal the source byte for byte.",
        score="0",
        limit="0 defects",
        unit="defects",
        items=136,
    ),
    _gate(
        "weight-error",
        Metric.WeightError,
        "Nearest to its limit is Attention in NVFP4A16: 0.095280 as served, 0.095280 alone; the "
        "limit is 0.15.",
        score="0.095280",
        limit="≤ 0.15 in NVFP4A16",
        items=16,
    ),
    _gate(
        "loads",
        Metric.EngineLoads,
        "vLLM loaded the checkpoint in 14.2 s and generated text.",
        limit="loads and generates",
    ),
    _gate(
        "divergence",
        Metric.KlDivergence,
        "Mean divergence is well under the limit.",
        score="0.001423",
        limit="≤ 0.02 nats",
        unit="nats",
        standardError="0.000100",
        items=3072,
    ),
    _gate(
        "agreement",
        Metric.TopOneAgreement,
        "Both models find the same next token most likely for 96.5 % of the tokens.",
        score="96.5",
        limit="≥ 90 %",
        unit="percent",
        items=3072,
    ),
    _gate(
        "perplexity",
        Metric.Perplexity,
        "Perplexity rose by 0.50 %.",
        score="0.50",
        limit="≤ 3 %",
        unit="%",
        sourceScore="18.02",
        quantizedScore="18.11",
        items=3072,
    ),
    _gate(
        "arithmetic",
        Metric.Task,
        "The quantized model keeps 99.89 % of the source's score.",
        score="99.89",
        limit="≥ 98 %",
        unit="% of the source's score",
        sourceScore="0.888",
        quantizedScore="0.887",
        interval=Interval(lower="99.67", upper="100.11", confidencePercent=90),
        items=1000,
    ),
    _gate(
        "speed",
        Metric.Speed,
        "83.1 % of the source's tokens a second with 32 requests at once.",
        score="83.1",
        limit="≥ 80 % at 32 concurrent",
        unit="% of the source's output tokens per second",
        sourceScore="3250",
        quantizedScore="2701",
    ),
)
