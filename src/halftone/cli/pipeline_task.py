"""A task of the pipeline: runs one stage in this process, and hands its facts to the task's body.

Called by the bodies of pipelines/components, inside kfp's executor; it must not import kfp. The
stage runs as `halftone stage NAME --workdir … --result …` does, in the process that got the pod's
signals. In a pod the result also goes where the operator reads it, as with a Job.
"""

import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from halftone.cli.main import main
from halftone.control.inside import WORK_PLACE
from halftone.control.pods import TERMINATION_LOG
from halftone.spec.documents import Plan, canonical_json
from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import (
    JOB_VARIABLE,
    PLAN_FILE,
    REPORT_FILE,
    REPORT_PAGE,
    WORK_AREA,
    Reason,
)
from halftone.spec.pipelines import TASK_WORKDIR
from halftone.spec.reports import Report
from halftone.spec.stage_results import Failure, SourceFacts, StageResult

# The stages that hand nothing on, and so need no place for it.
_ALONE: Final = frozenset({"target"})
_RESULT: Final = "result.json"


@dataclass(frozen=True)
class Done:
    """A stage that ended well: its facts, and the documents that it left in `folder`."""

    result: StageResult
    folder: Path


@contextmanager
def run_stage(stage: str, job: str, work_area: str = "", **options: str | int) -> Iterator[Done]:
    """Run `stage` of `job`, the JSON of a QuantizationJob; its folder is there for the block.

    `work_area` is an address in S3, with a `#` and a mark behind it once `resolve` gave it; ""
    where a volume carries the work. `options` are those of `halftone stage`. Ends this process
    with the stage's exit code, and its sentence on standard error, where it fails.
    """
    before, marked, _ = work_area.rpartition("#")
    uri = before if marked and stage != "resolve" else work_area
    os.environ[JOB_VARIABLE] = job
    os.environ[WORK_AREA] = uri
    # The result is this task's own: others may be at work in the folder at the same time.
    with _folder(stage, uri) as folder, tempfile.TemporaryDirectory() as own:
        result = Path(own, _RESULT)
        told = ["stage", stage, "--pipeline", "--workdir", str(folder), "--result", str(result)]
        for name, value in options.items():
            flag = f"--{name.replace('_', '-')}"
            told += [flag] if value is True else [flag, str(value)]
        try:
            main(told)
        except SystemExit as ended:
            if ended.code:
                raise
        finally:
            _leave_for_the_operator(result)
        yield Done(StageResult.model_validate_json(result.read_bytes()), folder)


def pinned(job: str, source: SourceFacts) -> str:
    """`job` with the commit of a source on the Hub in place of its branch or tag."""
    document: dict[str, Any] = json.loads(job)
    repository = document["spec"]["source"].get("huggingFace")
    if repository is not None:
        repository["revision"] = source.revision
    return canonical_json(document).decode().rstrip()


def write_plan_page(done: Done, path: str) -> None:
    """What `halftone plan` prints, as a page."""
    from rich.console import Console

    from halftone.cli.plan_text import print_plan

    console = Console(record=True, file=io.StringIO(), width=120, highlight=False)
    print_plan(Plan.load(done.folder / PLAN_FILE), console=console)
    _write(path, console.export_html().encode())


def write_report_page(done: Done, page: str, metrics: str) -> dict[str, float]:
    """The report's page, and the score of each gate that has one: in a file, and as they are."""
    report = Report.load(done.folder / REPORT_FILE)
    scores = {gate.name: float(gate.score) for gate in report.gates if gate.score is not None}
    _write(page, (done.folder / REPORT_PAGE).read_bytes())
    _write(metrics, canonical_json(scores))
    return scores


def say_how_it_ended(state: str, message: str) -> None:
    """One line for whoever reads the log of a run's last task."""
    print(f"halftone: the run ended as {state}{f': {message}' if message else ''}")  # noqa: T201


def _write(path: str, data: bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data)


@contextmanager
def _folder(stage: str, uri: str) -> Iterator[Path]:
    """The work directory: a shared one where there is one, else one of this task's own."""
    named = os.environ.get(TASK_WORKDIR)
    if named or Path(WORK_PLACE).is_dir():
        folder = Path(named or WORK_PLACE)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    if not uri and stage not in _ALONE:
        _refuse_nowhere(stage)
    own = Path(tempfile.mkdtemp(prefix=f"halftone-{stage}-"))
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _refuse_nowhere(stage: str) -> None:
    """Say that tasks which share nothing cannot hand anything on; ends this process."""
    message = (
        f"The parameter `work_area` is empty and no volume is mounted, so `{stage}` has no place "
        f"for what the next task needs; give `s3://…`, or set {TASK_WORKDIR} to a directory that "
        "all tasks share."
    )
    failure = Failure(reason=Reason.WorkdirInconsistent, subject="work_area", message=message)
    _tell_the_operator(StageResult(stage=stage, failure=failure).to_bytes())
    print(f"halftone: {message}", file=sys.stderr)  # noqa: T201
    sys.exit(EnvironmentFault.exit_code)


def _leave_for_the_operator(result: Path) -> None:
    if result.is_file():
        _tell_the_operator(result.read_bytes())


def _tell_the_operator(result: bytes) -> None:
    """Leave a result as the container's last words, where there is a kubelet to read them."""
    if Path(TERMINATION_LOG).is_file():
        Path(TERMINATION_LOG).write_bytes(result)
