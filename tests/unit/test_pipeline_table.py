"""What `halftone pipeline status` makes of a run, without a server.

We test these aspects:
- the tasks are in their order, several workers as one row, as text and as a table
- what an ended run did not reach is not waited for
- a run that went on after it was terminated, and then failed, failed by itself
"""

import io

import pytest
from rich.console import Console

from halftone.cli.pipeline_access import Server
from halftone.cli.pipeline_status import finish
from halftone.cli.pipeline_table import duration, rows, table
from halftone.spec.errors import CheckFailed
from halftone.spec.pipelines import Run


def test_a_run_that_went_on_after_it_was_terminated_failed_by_itself() -> None:
    states = ("RUNNING", "CANCELING", "FAILED", "RUNNING", "FAILED")
    document = {
        "run_id": "x",
        "state": "FAILED",
        "state_history": [{"state": state} for state in states],
        "run_details": {"task_details": [{"display_name": "plan", "state": "FAILED"}]},
    }
    with pytest.raises(CheckFailed, match="The task `plan` failed"):
        finish(Run.model_validate(document), Server("http://x", None, None, None, None))


def test_what_an_ended_run_did_not_reach_is_not_waited_for() -> None:
    """2.14 gives such tasks a beginning, and neither a state nor an end."""
    begun = "2026-11-22T01:00:00Z"
    details = [
        {"display_name": "plan", "state": "FAILED", "start_time": begun, "end_time": begun},
        {"display_name": "split", "start_time": begun, "end_time": "1970-01-01T00:00:00Z"},
    ]
    document = {"run_id": "x", "run_details": {"task_details": details}}
    ended = rows(Run.model_validate(document | {"state": "FAILED"}))
    going = rows(Run.model_validate(document | {"state": "RUNNING"}))
    assert [(row.word, row.seconds) for row in ended] == [("failed", 0), ("not reached", None)]
    assert [row.word for row in going] == ["failed", "waiting"]


def test_workers_are_one_row() -> None:
    details = [
        {"display_name": name, "state": state, "start_time": start, "end_time": end}
        for name, state, start, end in (
            ("quantize-driver", "SUCCEEDED", "2026-11-22T01:00:00Z", "2026-11-22T01:00:01Z"),
            ("quantize", "SUCCEEDED", "2026-11-22T01:00:02Z", "2026-11-22T01:02:07Z"),
            ("quantize", "RUNNING", "2026-11-22T01:00:04Z", "1970-01-01T00:00:00Z"),
            ("plan", "SUCCEEDED", "2026-11-22T00:00:00Z", "2026-11-22T00:00:09Z"),
            ("quantize", "SUCCEEDED", "2026-11-22T01:00:05Z", "2026-11-22T01:01:05Z"),
        )
    ]
    run = Run.model_validate({"run_id": "x", "run_details": {"task_details": details}})
    plan, quantize = rows(run)
    assert (plan.task, plan.word, plan.amount, plan.seconds) == ("plan", "done", "", 9)
    assert (quantize.task, quantize.word, quantize.amount) == ("quantize", "running", "2 of 3")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(run))
    text = console.export_text().splitlines()
    assert text[0].split() == ["Task", "State", "Workers", "Time"]
    assert text[1].split() == ["plan", "done", "9", "s"]
    assert [duration(n) for n in (59, 200, 7500)] == ["59 s", "3 min 20 s", "2 h 5 min"]
