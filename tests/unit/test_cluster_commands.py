"""`submit`, `watch` and `logs` without a cluster, and what they show.

We test these aspects:
- a job that cannot run in a cluster is refused before anybody is asked;
- a kubeconfig that is missing, broken or names an unknown context, and a server that is not there,
  are sentences with the way out;
- the namespace is that of the context that was chosen, and a cluster without the CRD says how to
  install the operator;
- reasons of conditions have the exit codes of the errors that they were raised as;
- conditions become lines, each said once, and progress a line a percent;
- of a job's pods those of one child are chosen;
- a command that is shown to be copied leads to the same cluster.
"""

import io
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from rich.progress import Progress, TextColumn

from halftone.cli.cluster_options import Place
from halftone.cli.logs import chosen
from halftone.cli.watch import CHECKS, FAULTS, fault
from halftone.cli.watch_display import Bar, Display, Lines
from halftone.spec.cluster import ATTEMPT_LABEL, STAGE_LABEL, Condition, Doing, Ended
from halftone.spec.names import Reason
from halftone.spec.status import ConditionRow, ConditionStatus, JobStatus, ProgressStatus
from tests.commands import halftone
from tests.conftest import ROOT
from tests.kubeconfigs import write_kubeconfig

# An error that is made with a reason that stands there.
RAISED = re.compile(r"\b(CheckFailed|EnvironmentFault|RefusedInput)\(\s*Reason\.(\w+)")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"source": {"directory": {"path": "model"}}}, "`spec.source.directory.path` names a file"),
        ({"publish": None}, "`spec.workVolume` must be set unless `spec.publish.s3` is"),
        ({"speed": 2}, "there is no such field"),
    ],
)
def test_a_job_that_cannot_run_there_is_refused_at_once(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    spec: dict[str, Any] = {
        "source": {"s3": {"uri": "s3://models/source"}},
        "quantization": {"preset": "nvfp4a16"},
        "publish": {"s3": {"uri": "s3://models/out"}},
        **changes,
    }
    file = tmp_path / "job.yaml"
    spec = {key: value for key, value in spec.items() if value is not None}
    file.write_text(yaml.safe_dump({"metadata": {"name": "small"}, "spec": spec}))
    found = halftone("submit", file, "--kubeconfig", write_kubeconfig(tmp_path / "kubeconfig"))
    assert (found.code, found.out) == (2, "")
    assert sentence in found.err


@pytest.mark.parametrize(
    ("content", "options", "code", "sentence"),
    [
        (None, (), 3, "The cluster cannot be reached ("),
        (None, ("--context", "other"), 2, "The kubeconfig cannot be used (No such context other)"),
        ("[", (), 2, "The kubeconfig cannot be used ("),
        ("", (), 2, "The kubeconfig cannot be used ("),
        ("current-context: here\n", (), 2, "The kubeconfig cannot be used ("),
    ],
)
def test_a_kubeconfig_that_leads_nowhere_is_a_sentence(
    content: str | None, options: tuple[str, ...], code: int, sentence: str, tmp_path: Path
) -> None:
    file = write_kubeconfig(tmp_path / "kubeconfig")
    if content is not None:
        file.write_text(content)
    found = halftone("watch", "small", "--kubeconfig", file, *options)
    assert (found.code, found.out) == (code, "")
    assert sentence in found.err
    assert len(found.err.splitlines()) == 1


def test_no_kubeconfig_at_all_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    found = halftone("logs", "small")
    assert found.code == 2
    assert "There is no kubeconfig that names a cluster" in found.err
    found = halftone("logs", "small", "--kubeconfig", tmp_path / "none")
    assert (found.code, "does not exist" in found.err) == (2, True)


def test_a_cluster_without_the_crd_says_what_to_install(tmp_path: Path) -> None:
    with _bare_server() as (address, asked):
        file = write_kubeconfig(tmp_path / "kubeconfig", address)
        found = halftone("watch", "small", "--kubeconfig", file, "--context", "there")
    assert found.code == 3
    assert "Install the operator first: `helm install halftone charts/" in found.err
    kind = "/apis/halftone.dev/v1alpha1/namespaces/theirs/quantizationjobs"
    assert asked == ["/version/", f"{kind}/small"]


def test_reasons_have_the_exit_codes_of_their_errors() -> None:
    raised = defaultdict(set)
    package = ROOT / "src" / "halftone"
    # No stage serves, scales or looks at metrics, so nothing of those rooms and verbs is ever a
    # condition's reason.
    others = {
        path for room in ("serve", "scaling", "doctor") for path in (package / room).rglob("*.py")
    }
    others |= {
        path
        for verb in ("autoscale", "doctor", "lasting", "replay")
        for path in package.glob(f"cli/{verb}*")
    }
    for path in set(package.rglob("*.py")) - others:
        for kind, reason in RAISED.findall(path.read_text()):
            raised[Reason[reason]].add(kind)
    certain = {reason: kinds for reason, kinds in raised.items() if len(kinds) == 1}
    assert len(certain) > 40
    for reason, kinds in certain.items():
        assert {type(fault(_status(_row(Condition.Quantized, "False", reason)))).__name__} == kinds
    unclear = {reason for reason, kinds in raised.items() if len(kinds) > 1}
    assert unclear <= CHECKS | FAULTS | {Reason.WorkdirInconsistent}


def test_a_condition_is_said_once_and_progress_a_percent_at_a_time() -> None:
    lines = Lines()
    quantizing = _row(Condition.Quantized, "Unknown", Doing.Quantizing, "Quantizing.")
    accepted = _row(Condition.Accepted, "True", Ended.Accepted, "It can be done.")
    with redirect_stderr(io.StringIO()) as told:
        _play(lines, accepted, quantizing)
    assert told.getvalue().splitlines() == [
        "Accepted    done    It can be done.",
        "Quantized   open    Quantizing",
        "Quantized   open    10 % (0.5 of 5.0 GB)",
        "Quantized   open    50 % (2.5 of 5.0 GB)",
        "halftone: the cluster is away.",
    ]


def test_a_terminal_gets_one_bar_under_the_same_lines() -> None:
    quantizing = _row(Condition.Quantized, "Unknown", Doing.Quantizing, "Quantizing.")
    accepted = _row(Condition.Accepted, "True", Ended.Accepted, "It can be done.")
    console = Console(file=io.StringIO(), width=100)
    columns = (TextColumn("{task.description}"), TextColumn("{task.fields[amount]}"))
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bar = Bar(progress, progress.add_task("small", total=None, amount=""), "small")
        _play(bar, accepted, quantizing)
        task = progress.tasks[0]
        assert (task.completed, task.total) == (2_500_000_000, 5_000_000_000)
        assert (task.description, task.fields["amount"]) == (
            "small  Quantizing",
            "2.5 of 5.0 GB",
        )
        steps = _row(Condition.Calibrated, "Unknown", Doing.Calibrating, "Calibrating.")
        bar.show(_status(steps, progress=ProgressStatus(bytesDone=3, bytesTotal=60)))
        assert progress.tasks[0].fields["amount"] == "3 of 60 steps"
        bar.show(_status(_row(Condition.Validated, "Unknown", Doing.Validating, "Validating.")))
        assert (progress.tasks[0].total, progress.tasks[0].fields["amount"]) == (None, "")


def test_the_pods_of_one_child_are_chosen() -> None:
    plan = _pod("plan", "Succeeded", 1)
    failed, running = _pod("quantize", "Failed", 2), _pod("quantize", "Running", 3)
    newer = _pod("target", "Succeeded", 9)
    assert chosen([]) == []
    assert chosen([plan, failed, running, newer]) == [failed, running]
    assert chosen([plan, failed, newer]) == [newer]
    assert chosen([plan, _pod("target", "Failed", 1)])[0]["status"]["phase"] == "Failed"
    again = _pod("quantize", "Succeeded", 10, attempt=2)
    assert chosen([failed, again]) == [again]


def _play(shown: Display, accepted: ConditionRow, quantizing: ConditionRow) -> None:
    """A job at work, as its changes come: some say nothing new."""
    for done in (500_000_000, 501_000_000, 2_500_000_000, 2_500_000_000):
        progress = ProgressStatus(bytesDone=done, bytesTotal=5_000_000_000)
        shown.show(_status(accepted, quantizing, progress=progress))
    shown.note("the cluster is away.")
    shown.note("the cluster is away.")


def _row(condition: Condition, status: str, reason: str, message: str = "So.") -> ConditionRow:
    return ConditionRow(
        type=condition,
        status=ConditionStatus(status),
        reason=reason,
        message=message,
        lastTransitionTime="2026-01-01T00:00:00Z",
        observedGeneration=1,
    )


def _status(*rows: ConditionRow, progress: ProgressStatus | None = None) -> JobStatus:
    summary = rows[-1].model_copy(update={"type": Condition.Succeeded})
    return JobStatus(conditions=(*rows, summary), progress=progress)


def _pod(stage: str, phase: str, created: int, attempt: int = 1) -> dict[str, Any]:
    tags = {STAGE_LABEL: stage, ATTEMPT_LABEL: str(attempt)}
    moment = f"2026-01-01T00:00:{created:02d}Z"
    return {
        "metadata": {"name": f"{stage}-{created}", "labels": tags, "creationTimestamp": moment},
        "status": {"phase": phase},
    }


@contextmanager
def _bare_server() -> Iterator[tuple[str, list[str]]]:
    """Answers as an API server that knows none of our kinds does; yields what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            is_version = self.path == "/version/"
            self.send_response(200 if is_version else 404)
            self.end_headers()
            self.wfile.write(b'{"gitVersion": "v1.34.4"}' if is_version else b"404 page not found")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("place", "options"),
    [
        (Place(None, None, None), ""),
        (Place("jobs", None, None), " -n jobs"),
        (Place(None, "my config", "far"), " --kubeconfig 'my config' --context far"),
    ],
)
def test_a_command_to_be_copied_leads_to_the_same_cluster(place: Place, options: str) -> None:
    assert place.command("kubectl", "delete", "qj", "a") == f"kubectl delete qj a{options}"


def test_a_namespace_that_was_found_stands_where_none_was_given() -> None:
    found = [Place(name, None, None).command("halftone", namespace="b") for name in ("a", None)]
    assert found == ["halftone -n a", "halftone -n b"]
