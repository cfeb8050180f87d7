"""Argo CD's rule in docs/health-rules.md, run by the Lua that Argo CD has (5.1).

We test these aspects:
- each state of a job's summary has the health that the document promises, with its message;
- a status of an older generation, or none at all, is no health yet.
"""

import re
from typing import Any

import pytest
import yaml
from lupa import lua51

from halftone.spec.cluster import Doing, Ended, Waiting
from halftone.spec.names import Reason
from tests.conftest import ROOT

Object = dict[str, Any]
TEXT = (ROOT / "docs" / "health-rules.md").read_text()
BLOCKS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
(RULE,) = next(block for block in BLOCKS if block["kind"] == "ConfigMap")["data"].values()


def health(status: Object | None, generation: int = 2) -> tuple[str, str]:
    """What Argo CD would show of a job with this status."""
    lua = lua51.LuaRuntime(register_eval=False, register_builtins=False)
    job: Object = {"metadata": {"generation": generation}}
    if status is not None:
        job["status"] = status
    lua.globals().obj = lua.table_from(job, recursive=True)
    found = lua.execute(RULE)
    return str(found["status"]), str(found["message"])


def status(summary: str, reason: str, generation: int = 2) -> Object:
    accepted = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "x"}
    succeeded = {"type": "Succeeded", "status": summary, "reason": reason, "message": "It is so."}
    return {"observedGeneration": generation, "conditions": [accepted, succeeded]}


@pytest.mark.parametrize(
    ("summary", "reason", "expected"),
    [
        ("Unknown", Doing.Planning, "Progressing"),
        ("Unknown", Waiting.Unschedulable, "Progressing"),
        ("Unknown", Doing.Suspended, "Suspended"),
        ("True", Ended.Published, "Healthy"),
        ("False", Reason.GateFailed, "Degraded"),
        ("False", Ended.DeadlineExceeded, "Degraded"),
    ],
)
def test_each_state_has_its_health(summary: str, reason: str, expected: str) -> None:
    assert health(status(summary, reason)) == (expected, f"{reason}: It is so.")


@pytest.mark.parametrize("unseen", [None, {}, status("True", Ended.Published, generation=1)])
def test_what_the_operator_has_not_seen_is_progressing(unseen: Object | None) -> None:
    assert health(unseen) == ("Progressing", "The operator has not looked at it yet.")
