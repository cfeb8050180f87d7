"""From a quantized checkpoint to its report: gates in order, evidence, verdict, page.

    report = validate(subject, told=print)

Cheap gates come first, and a failure stops the rest: what follows is `NotRun` and says why. Each
gate leaves its evidence as JSON; report and page are written last, so a run that was killed leaves
no report. An earlier report is taken as it is where nothing has changed (`earlier`), and a second
process is sent away (`alone`).
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from halftone import __version__
from halftone.plan.planning import Planned
from halftone.spec.documents import (
    CheckpointDocument,
    WrittenFile,
    sha256_hex,
    write_atomically,
)
from halftone.spec.files import FileSource
from halftone.spec.gates import (
    ENGINE_METRICS,
    STRUCTURE_GATE,
    WEIGHT_ERROR_GATE,
    Gate,
    Metric,
    Validation,
)
from halftone.spec.names import (
    CAPACITY_DIRECTORY,
    EVIDENCE_DIRECTORY,
    REPORT_FILE,
    REPORT_PAGE,
)
from halftone.spec.reports import GateResult, Outcome, Platform, Report, ReportSource
from halftone.validate.alone import alone
from halftone.validate.earlier import earlier_report, gates_digest
from halftone.validate.gates.structure import measure_structure
from halftone.validate.gates.weight_error import measure_weight_error
from halftone.validate.measured_data import measured_data
from halftone.validate.page import write_page
from halftone.validate.verdicts import judge, lowest_recovery, not_run

# Held while gates run; it stays, empty.
_LOCK: Final = ".validate.lock"

Measured = tuple[GateResult, dict[str, Any]]


@dataclass(frozen=True)
class Subject:
    """What is validated: the checkpoint of a work directory, against the source it was made of."""

    workdir: Path
    validation: Validation
    planned: Planned
    document: CheckpointDocument
    source: FileSource
    checkpoint: FileSource


class Ledger:
    """What the gates have found so far, and the evidence that they left."""

    def __init__(self, workdir: Path, told: Callable[[str], None]) -> None:
        self._folder = workdir / EVIDENCE_DIRECTORY
        self._told = told
        self.results: list[GateResult] = []
        self.evidence: dict[str, dict[str, Any]] = {}
        self.files: list[WrittenFile] = []
        self.platform: Platform | None = None

    def add(self, result: GateResult, evidence: dict[str, Any]) -> None:
        """Book a result, write its evidence and say how it ended."""
        path = self._folder / f"{result.name}.json"
        data = json.dumps(evidence, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        write_atomically(path, data)
        name = f"{EVIDENCE_DIRECTORY}/{path.name}"
        self.files.append(WrittenFile(path=name, sizeBytes=len(data), sha256=sha256_hex(data)))
        self.evidence[result.name] = evidence
        self.results.append(result.model_copy(update={"evidence": name}))
        self._told(f"gate {result.name}: {result.outcome}: {result.message}")

    def skip(self, gate: Gate, why: str) -> None:
        """Book a gate that does not run."""
        self.results.append(not_run(gate, why))

    @property
    def failed(self) -> GateResult | None:
        """The first gate that failed."""
        return next((r for r in self.results if r.outcome is Outcome.Failed), None)


def validate(subject: Subject, told: Callable[[str], None]) -> Report:
    """Run all gates of `subject`, write report and page; return the report.

    `told` gets a line for every gate that ended. Raises RefusedInput for a gate that cannot be
    carried out as written, EnvironmentFault when vLLM is not there or not supported, or when
    another process validates the same work directory.
    """
    told_busy = (
        f"Another process is validating '{subject.workdir}'; wait for it, or stop it, and run the "
        "same command again."
    )
    with alone(subject.workdir / _LOCK, told_busy):
        return earlier_report(subject) or _validated(subject, told)


def _validated(subject: Subject, told: Callable[[str], None]) -> Report:
    """A new report, whatever lies there."""
    start = _now()
    calibration = measured_data(subject.workdir, subject.document)
    _clear(subject.workdir)
    ledger = Ledger(subject.workdir, told)
    _file_gates(subject, ledger)
    _engine_gates(subject, ledger)
    verdict, message = judge(subject.validation, ledger.results, ledger.platform)
    report = Report(
        verdict=verdict,
        message=message,
        planDigest=subject.planned.plan.digest,
        checkpointDigest=subject.document.digest,
        checkpointDocumentSha256=sha256_hex(subject.document.to_bytes()),
        gatesDigest=gates_digest(subject.validation),
        halftoneVersion=__version__,
        source=ReportSource(uri=subject.source.uri, revision=subject.source.revision),
        method=subject.planned.plan.method,
        calibration=calibration,
        platform=ledger.platform,
        gates=tuple(ledger.results),
        evidence=tuple(sorted(ledger.files, key=lambda file: file.path)),
        recoveryPercent=lowest_recovery(ledger.results),
        startTime=start,
        completionTime=_now(),
    )
    page = subject.workdir / REPORT_PAGE
    write_page(report, subject.planned.full_document(), subject.document, ledger.evidence, page)
    report.save(subject.workdir / REPORT_FILE)
    return report


def _clear(workdir: Path) -> None:
    """Remove what an earlier run left: its report opens nothing while this one is under way."""
    for name in (REPORT_FILE, REPORT_PAGE):
        (workdir / name).unlink(missing_ok=True)
    for folder in (EVIDENCE_DIRECTORY, CAPACITY_DIRECTORY):
        shutil.rmtree(workdir / folder, ignore_errors=True)


def _file_gates(subject: Subject, ledger: Ledger) -> None:
    """The gates that run unasked and read files alone."""
    listed = next((g for g in subject.validation.gates if g.metric is Metric.WeightError), None)
    ledger.add(
        *measure_structure(subject.planned, subject.source, subject.checkpoint, subject.document)
    )
    failed = ledger.failed
    if failed is None:
        ledger.add(
            *measure_weight_error(listed, subject.planned, subject.source, subject.checkpoint)
        )
    else:
        name = WEIGHT_ERROR_GATE if listed is None else listed.name
        ledger.results.append(
            GateResult(
                name=name,
                metric=Metric.WeightError,
                outcome=Outcome.NotRun,
                message=f"Not run, because '{STRUCTURE_GATE}' failed.",
            )
        )


def _engine_gates(subject: Subject, ledger: Ledger) -> None:
    gates = [gate for gate in subject.validation.gates if gate.metric in ENGINE_METRICS]
    failed = ledger.failed
    if failed is not None:
        for gate in gates:
            ledger.skip(gate, f"Not run, because '{failed.name}' failed.")
    elif gates:
        from halftone.validate.engine_gates import run_engine_gates

        run_engine_gates(subject, gates, ledger)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
