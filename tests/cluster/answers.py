"""What a good run of each stage says, for the stand-in of kubelets; and jobs to apply.

Called by the API tier and by benchmarks. The results have the shapes that `halftone stage --result`
writes; tests of the stages themselves show that.
"""

from collections.abc import Mapping
from typing import Any, Final

from halftone.spec.cluster import STAGE_LABEL, ChildStage
from halftone.spec.documents import Method
from halftone.spec.names import API_VERSION, JOB_KIND
from halftone.spec.reports import Outcome, Verdict
from halftone.spec.stage_results import (
    ArtifactFacts,
    CheckpointFacts,
    GateFacts,
    PlanFacts,
    ReportFacts,
    StageResult,
)
from tests.cluster.kubelet_stand_in import Answer

PLAN: Final = "d" * 64
CHECKPOINT: Final = "c" * 64
REPORT: Final = "e" * 64
STATISTICS: Final = "a" * 64
TARGET_URI: Final = "s3://models/out"


def result(stage: ChildStage, method: Method = Method.DataFree) -> StageResult:
    """What `stage` says when all went well."""
    plan = PlanFacts(
        digest=PLAN,
        method=method,
        recipe="nvfp4a16",
        sizeBytes=5_000_000,
        memoryBytes=700_000_000,
        shards=5,
        sourceRevision=None,
    )
    report = ReportFacts(
        digest=REPORT,
        verdict=Verdict.Passed,
        recoveryPercent="99.1",
        gates=(GateFacts(name="weights", outcome=Outcome.Passed, value="0.0952"),),
    )
    checkpoint = CheckpointFacts(digest=CHECKPOINT, sizeBytes=5_000_000)
    artifact = ArtifactFacts(uri=TARGET_URI, revision=None, digest=CHECKPOINT, sizeBytes=5_000_000)
    found: dict[ChildStage, dict[str, object]] = {
        ChildStage.Plan: {"plan": plan},
        ChildStage.Calibrate: {"statisticsDigest": STATISTICS},
        ChildStage.Quantize: {"checkpoint": checkpoint},
        ChildStage.Assemble: {"checkpoint": checkpoint},
        ChildStage.Validate: {"report": report},
        ChildStage.Publish: {"artifact": artifact},
    }
    return StageResult.model_validate({"stage": stage.value, **found.get(stage, {})})


def stage_of(pod: Mapping[str, Any]) -> ChildStage:
    """Which stage a pod carries out."""
    return ChildStage(pod["metadata"]["labels"][STAGE_LABEL])


def all_well(pod: Mapping[str, Any]) -> Answer:
    """Every stage succeeds at once."""
    return Answer(result(stage_of(pod)))


def job(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    """A QuantizationJob of S3, data-free; `spec` replaces or adds fields."""
    return {
        "apiVersion": API_VERSION,
        "kind": JOB_KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "source": {"s3": {"uri": "s3://models/source"}},
            "quantization": {"preset": "nvfp4a16"},
            "publish": {"s3": {"uri": TARGET_URI}},
            **spec,
        },
    }
