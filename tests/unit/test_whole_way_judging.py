"""What `make e2e` judges without a cluster: it finds what it is there to find.

We test these aspects:
- a stage with two Jobs was made twice, whatever they are called
- values of Secrets are searched for as they are stored, by lines, and behind equals signs; a
  namespace whose logs nobody read is told
- a cluster is used whose only node is this machine, and no other
- a folder with other things in it is not emptied
"""

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.judging import made_twice, other_machine, silent, values_of
from tests.e2e.timeline import Timeline, is_for_a_story


def child(stage: str, attempt: int) -> dict[str, Any]:
    labels = {"halftone.dev/job": "x", "halftone.dev/stage": stage}
    return {"metadata": {"name": f"x-{stage}-{attempt}", "labels": labels}}


def test_a_stage_with_two_jobs_was_made_twice() -> None:
    once = [child(stage, 1) for stage in ("plan", "quantize", "publish")]
    assert made_twice(once) == []
    assert made_twice([*once, child("quantize", 2)]) == ["quantize"]


def secret(text: str) -> dict[str, Any]:
    return {"data": {"key": base64.b64encode(text.encode()).decode()}}


def test_values_of_secrets_are_searched_for_in_each_form() -> None:
    credentials = "[default]\naws_access_key_id = AKIDEXAMPLE12345\n"
    found = values_of([secret(credentials), secret("a-key-of-clients"), {"metadata": {}}])
    assert {"AKIDEXAMPLE12345", "a-key-of-clients"} <= found
    assert secret("a-key-of-clients")["data"]["key"] in found
    assert not any(len(value) < 12 for value in found)  # `default` stands in any log


def test_a_namespace_whose_logs_nobody_read_is_told() -> None:
    logs = {"jobs.operator.1.operator.0.log": "ready", "models.head.1.ray-head.0.log": "\n"}
    assert silent(("jobs", "models", "monitoring"), logs) == ["models", "monitoring"]
    assert silent(("jobs",), logs) == []
    assert silent(("jobs",), {}) == ["jobs"]


def node(name: str, boot_id: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"nodeInfo": {"bootID": boot_id}}}


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([node("a", "here")], None),
        ([node("a", "")], None),
        ([node("a", "there")], "node a is another machine"),
        ([node("b", "here"), node("a", "here")], "2 nodes (a, b), not one"),
        ([], "0 nodes (none), not one"),
    ],
)
def test_only_a_cluster_of_this_machine_is_used(
    nodes: list[dict[str, Any]], told: str | None
) -> None:
    found = other_machine(nodes, "here")
    assert found is None if told is None else told in str(found)
    assert other_machine([node("a", "there")], "") is None  # nothing is known of this one


def test_a_folder_with_other_things_in_it_is_not_emptied(tmp_path: Path) -> None:
    assert is_for_a_story(tmp_path / "new")
    assert is_for_a_story(tmp_path)
    Timeline(tmp_path / "earlier").close()
    assert is_for_a_story(tmp_path / "earlier")
    assert not is_for_a_story(tmp_path)
    (tmp_path / "file").write_text("somebody's")
    assert not is_for_a_story(tmp_path / "file")
