"""Work directories that could be published, and artifacts made of them by the real parts.

    work = work_directory(tmp_path, "qwen3")                # source, plan, checkpoint, report
    work = calibrated_directory(tmp_path, "qwen3", recipe)  # with statistics made by hand
    artifact = publish(work, tmp_path / "small", key=key)   # through prepare and the real target
    reseal(artifact)                                        # what a forger without the key can do
    found(artifact, key)["subject"]                         # what `halftone verify` says of it

The report is written by hand through `spec.reports`: what the gates would measure is not the matter
of the tests that come here.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halftone.publish.preparing import Prepared, prepare
from halftone.spec import reports
from halftone.spec.artifacts import Artifact, manifest_digest
from halftone.spec.capacity import CacheGroup, CapacityCard, Fitted
from halftone.spec.documents import CheckpointDocument, WrittenFile, sha256_hex
from halftone.spec.gates import Metric
from halftone.spec.job import Recipe
from halftone.spec.reports import (
    GateResult,
    Platform,
    Report,
    ReportSource,
    Verdict,
)
from halftone.spec.statistics import MeasuredData, StatisticsDocument
from halftone.spec.targets import Existing
from halftone.stores.directory_target import DirectoryArtifactTarget
from tests.builders import Config, write_checkpoint, write_statistics
from tests.commands import Made, Outcome, halftone, plan_directory, quantize_directory

CARD = b"---\nbase_model: org/model\n---\n# A model\n"
EMULATED = Platform(device="cpu", emulated=True, engine="vllm 0.32.0+cpu")
REAL = Platform(device="NVIDIA B200", emulated=False, engine="vllm 0.32.0", driver="595.10")


@dataclass(frozen=True)
class Work:
    """A work directory after `validate`, and its documents."""

    directory: Path
    source: Path
    made: Made
    report: Report

    def prepare(self, key: Path | None = None, card: bytes = CARD) -> Prepared:
        """The tree that would be published."""
        made = self.made
        return prepare(self.directory, made.planned.plan, made.document, self.report, card, key)


def work_directory(
    folder: Path,
    model: str | Config = "qwen3",
    recipe: Any = "nvfp4a16",
    *,
    verdict: Verdict = Verdict.Emulated,
    platform: Platform | None = EMULATED,
    max_shard_bytes: int = 200_000,
) -> Work:
    """Quantize a tiny model for real, and write a report with `verdict` beside it."""
    source, work = folder / "source", folder / "work"
    write_checkpoint(source, model)
    made = quantize_directory(source, work / "checkpoint", recipe, max_shard_bytes=max_shard_bytes)
    _save_documents(work, made)
    report = write_report(work, made.planned.plan.digest, made.document, verdict, platform)
    return Work(work, source, made, report)


def calibrated_directory(folder: Path, model: str | Config, recipe: Recipe) -> Work:
    """The same for a `recipe` that names data, with statistics that nobody measured."""
    source, work = folder / "source", folder / "work"
    write_checkpoint(source, model)
    write_statistics(plan_directory(source, recipe), work)
    made = quantize_directory(source, work / "checkpoint", recipe, statistics=work)
    _save_documents(work, made)
    data = StatisticsDocument.load(work / "statistics.json").data
    digest = made.planned.plan.digest
    return Work(work, source, made, write_report(work, digest, made.document, calibration=data))


def _save_documents(work: Path, made: Made) -> None:
    (work / "checkpoint" / "checkpoint.json").rename(work / "checkpoint.json")
    made.planned.full_document().save(work / "plan.json")


def write_report(
    work: Path,
    plan_digest: str,
    checkpoint: CheckpointDocument,
    verdict: Verdict = Verdict.Emulated,
    platform: Platform | None = EMULATED,
    calibration: tuple[MeasuredData, ...] = (),
) -> Report:
    """`report.json`, `report.html` and one file of evidence."""
    evidence = b'{"checked": 42}\n'
    (work / "evidence").mkdir(exist_ok=True)
    (work / "evidence" / "structure.json").write_bytes(evidence)
    (work / "report.html").write_text("<!doctype html><title>report</title>")
    failed = verdict is Verdict.Failed
    gate = GateResult(
        name="structure",
        metric=Metric.Structure,
        outcome=reports.Outcome.Failed if failed else reports.Outcome.Passed,
        message="every planned tensor is there",
        evidence="evidence/structure.json",
    )
    weights = GateResult(
        name="weight-error",
        metric=Metric.WeightError,
        outcome=reports.Outcome.Passed,
        message="no role is over its limit",
    )
    report = Report(
        verdict=verdict,
        message=f"the gates say {verdict}",
        planDigest=plan_digest,
        checkpointDigest=checkpoint.digest,
        checkpointDocumentSha256=sha256_hex(checkpoint.to_bytes()),
        gatesDigest="0" * 64,
        halftoneVersion=checkpoint.halftoneVersion,
        source=ReportSource(uri="hf://org/model@main", revision=None),
        platform=platform,
        gates=(gate, weights),
        evidence=(written("evidence/structure.json", evidence),),
        recoveryPercent="",
        calibration=calibration,
        startTime="2026-01-02T03:04:05Z",
        completionTime="2026-01-02T03:05:06Z",
    )
    report.save(work / "report.json")
    return report


def publish(work: Work, target: Path, key: Path | None = None) -> Path:
    """`work` as a directory that readers see; its capacity cards lie beside the rest."""
    prepared = work.prepare(key)
    DirectoryArtifactTarget(target).publish(
        prepared.tree, prepared.artifact, Existing.Refuse, lambda nbytes: None
    )
    for card in prepared.cards:
        (target / card).parent.mkdir(exist_ok=True)
        (target / card).write_bytes((prepared.tree / card).read_bytes())
    return target


def reseal(directory: Path, **changes: Any) -> None:
    """Make `artifact.json` true of the files that are there: all that takes no key."""
    document = Artifact.load(directory / "artifact.json")
    paths = [
        path.relative_to(directory).as_posix()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "artifact.json" and path.parent.name != "capacity"
    ]
    files = tuple(written(path, (directory / path).read_bytes()) for path in sorted(paths))
    report = json.loads((directory / "report.json").read_bytes())
    document.model_copy(
        update={
            "files": files,
            "manifestDigest": manifest_digest(files),
            "sizeBytes": sum(file.sizeBytes for file in files),
            "reportDigest": sha256_hex((directory / "report.json").read_bytes()),
            "verdict": Verdict(report["verdict"]),
            "signature": "model.sig" if "model.sig" in paths else None,
            **changes,
        }
    ).sealed().save(directory / "artifact.json")


def written(path: str, data: bytes) -> WrittenFile:
    """`data` as documents list it under `path`."""
    return WrittenFile(path=path, sizeBytes=len(data), sha256=sha256_hex(data))


def capacity_card(checkpoint_digest: str, device: str = "nvidia-b200") -> CapacityCard:
    """A capacity card of that checkpoint, with round numbers."""
    fitted = Fitted(value="1.0", standardError="0.1")
    card = CapacityCard(
        digest="",
        checkpointDigest=checkpoint_digest,
        device=device,
        driver=None,
        engine="vllm 0.32.0",
        emulated=False,
        tensorParallel=1,
        engineArguments={"max-model-len": "4096"},
        prefillTokensPerSecond=fitted,
        stepBaseSeconds=fitted,
        secondsPerKvToken=fitted,
        secondsPerSequence=fitted,
        kvBlocks=1000,
        cacheGroups=(
            CacheGroup(kind="FullAttentionSpec", layers=2, blockTokens=16, blocksPerRequest=0),
        ),
        kvCacheTokens=16_000,
        tokenBudget=2048,
        maxSequences=64,
        warmUpSeconds="3.5",
        samples=12,
    )
    return card.model_copy(update={"digest": card.compute_digest()})


def write_card(work: Work, device: str = "nvidia-b200") -> Path:
    """A capacity card of `work`'s checkpoint, in its work directory."""
    card = capacity_card(work.made.document.digest, device)
    path = work.directory / card.path
    card.save(path)
    return path


def verified(artifact: Path | str, key: Path | None, *options: str) -> Outcome:
    """`halftone verify` with the public half of `key`."""
    with_key = () if key is None else ("--public-key", f"{key}.pub")
    return halftone("verify", artifact, *with_key, *options)


def found(artifact: Path | str, key: Path | None, *options: str) -> dict[str, Any]:
    """What `--json` says of an artifact that does not verify."""
    ended = verified(artifact, key, "--json", *options)
    shown: dict[str, Any] = json.loads(ended.out)
    assert ended.code == 1, ended.err
    assert shown["verified"] is False
    assert ended.err.splitlines()[-1] == f"halftone: {shown['message']}"
    return shown


def flip(path: Path, position: int, mask: int = 1) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)
