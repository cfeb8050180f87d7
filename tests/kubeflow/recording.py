"""Records what a real Kubeflow server answers: `make record-kfp` writes `tests/golden/kubeflow`.

    python -m tests.kubeflow.recording [ENDPOINT IMAGE]

One file a story; each has the requests in order, with status and body. Specifications of pipelines
are left out everywhere, and in lists the details of runs, which a server gives there too. The
double of CI answers in these words, and the readers of a run are tested with them.

Without arguments it brings up a back end first; with them it asks the one at ENDPOINT, whose nodes
have IMAGE.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx

from tests.conftest import ROOT
from tests.kubeflow.normal import normalise
from tests.kubeflow.shape import compiled

FOLDER: Final = ROOT / "tests" / "golden" / "kubeflow"
_POLL: Final = 0.5
_SETTLED: Final = 3.0
_WITHIN: Final = 900.0
_NOBODY: Final = "00000000-0000-0000-0000-000000000000"
_ENDED: Final = ("SUCCEEDED", "FAILED", "CANCELED")
Body = Mapping[str, Any]


class Recorder:
    """Asks the server at `endpoint`, and keeps what it was asked and answered by story."""

    def __init__(self, endpoint: str, pipeline: Body) -> None:
        self.pipeline = pipeline
        self.stories: dict[str, list[dict[str, Any]]] = {}
        self._client = httpx.Client(base_url=f"{endpoint}/apis/v2beta1", timeout=60)

    def ask(self, story: str, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Ask, record, and give the body of the answer."""
        answer = self._client.request(method, path, json=body, params=query)
        exchange = {
            "request": {"method": method, "path": path, "query": query, "body": _bare(body)},
            "status": answer.status_code,
            "body": _bare(answer.json()) if answer.content else None,
        }
        self.stories.setdefault(story, []).append(exchange)
        return answer.json() if answer.content else None

    def until(self, story: str, run: str, holds: Callable[[Body], bool]) -> Any:
        """Record the first answer about `run` that `holds`; raises TimeoutError after minutes."""
        deadline = time.monotonic() + _WITHIN
        while time.monotonic() < deadline:
            if holds(self._client.get(f"/runs/{run}").json()):
                # The state of a run is there before the last of its tasks.
                time.sleep(_SETTLED)
                return self.ask(story, "GET", f"/runs/{run}")
            time.sleep(_POLL)
        raise TimeoutError(f"{story}: the run did not get there in {_WITHIN:.0f} s")

    def submit(self, story: str, name: str, experiment: str, **parameters: Any) -> str:
        """Make a run of the shape; returns its id."""
        body = {
            "display_name": name,
            "experiment_id": experiment,
            "pipeline_spec": {"pipeline_spec": self.pipeline, "platform_spec": {}},
            "runtime_config": {"parameters": {"job": "DataFree", **parameters}},
        }
        made: str = self.ask(story, "POST", "/runs", body)["run_id"]
        return made


def record(endpoint: str, image: str) -> dict[str, list[dict[str, Any]]]:
    """Every story, normalised; takes ten minutes."""
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(endpoint, compiled(image, Path(folder)))
    # What no run of this server has, so that nothing is cached from earlier recordings.
    device = f"recordings-{time.time_ns()}"
    experiment = _experiments(recorder, device)
    _refusals(recorder, experiment)
    succeeded = recorder.submit("succeeded", "one", experiment, device=device)
    recorder.ask("succeeded", "GET", f"/runs/{succeeded}")
    terminated = recorder.submit("terminated", "two", experiment, job="Calibrated")
    recorder.until("succeeded", succeeded, _runs("plan"))
    _terminate(recorder, terminated)
    recorder.until("succeeded", succeeded, _ended)
    recorder.ask("succeeded", "POST", f"/runs/{succeeded}:retry")
    recorder.ask("succeeded", "POST", f"/runs/{succeeded}:terminate")
    failed = recorder.submit("failed", "three", experiment, fail="publish", device=device)
    calibrated = recorder.submit("calibrated", "four", experiment, job="Calibrated")
    recorder.until("failed", failed, _ended)
    _retry(recorder, failed)
    recorder.until("calibrated", calibrated, _ended)
    _lists(recorder, experiment)
    _archive(recorder, succeeded, experiment)
    _delete(recorder, failed)
    stories: dict[str, list[dict[str, Any]]] = normalise(recorder.stories)
    return stories


def _experiments(recorder: Recorder, name: str) -> str:
    story = "experiments"
    recorder.ask(story, "GET", "/healthz")
    made: str = recorder.ask(story, "POST", "/experiments", {"display_name": name})["experiment_id"]
    recorder.ask(story, "POST", "/experiments", {"display_name": name})
    for wanted in (name, f"{name}-none"):
        recorder.ask(story, "GET", "/experiments", filter=_filter("EQUALS", "name", wanted))
    recorder.ask(story, "GET", f"/experiments/{_NOBODY}")
    return made


def _refusals(recorder: Recorder, experiment: str) -> None:
    story = "refusals"
    body: dict[str, Any] = {
        "display_name": "refused",
        "experiment_id": experiment,
        "pipeline_spec": {"pipeline_spec": recorder.pipeline},
        "runtime_config": {"parameters": {"job": "DataFree"}},
    }
    executors = {"exec-plan": {"unheardOf": 1}}
    platform = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}
    wrong: tuple[Body, ...] = (
        {"runtime_config": {"parameters": {"job": 7}}},
        {"runtime_config": {"parameters": {"job": "DataFree", "unheard_of": "x"}}},
        {"runtime_config": {"parameters": {}}},
        {"experiment_id": _NOBODY},
        {"pipeline_spec": {"pipeline_spec": {}}},
        {"pipeline_spec": {**body["pipeline_spec"], "platform_spec": platform}},
        {"unheard_of": 1},
        {"display_name": ""},
    )
    for change in wrong:
        recorder.ask(story, "POST", "/runs", {**body, **change})
    recorder.ask(story, "GET", f"/runs/{_NOBODY}")
    for verb in ("terminate", "retry", "archive"):
        recorder.ask(story, "POST", f"/runs/{_NOBODY}:{verb}")
    recorder.ask(story, "DELETE", f"/runs/{_NOBODY}")


def _terminate(recorder: Recorder, run: str) -> None:
    story = "terminated"
    recorder.ask(story, "POST", f"/runs/{run}:terminate")
    recorder.ask(story, "GET", f"/runs/{run}")
    recorder.until(story, run, _ended)
    recorder.ask(story, "POST", f"/runs/{run}:terminate")


def _retry(recorder: Recorder, run: str) -> None:
    story = "retried"
    recorder.ask(story, "POST", f"/runs/{run}:retry")
    recorder.ask(story, "GET", f"/runs/{run}")
    recorder.until(story, run, _ended)


def _lists(recorder: Recorder, experiment: str) -> None:
    story, query = "lists", {"experiment_id": experiment, "sort_by": "created_at desc"}
    recorder.ask(story, "GET", "/runs", page_size=200, **query)
    page = recorder.ask(story, "GET", "/runs", page_size=2, **query)
    token = page["next_page_token"]
    recorder.ask(story, "GET", "/runs", page_size=2, page_token=token, **query)
    for value in ("o", "unheard of"):
        wanted = _filter("IS_SUBSTRING", "name", value)
        recorder.ask(story, "GET", "/runs", page_size=200, filter=wanted, **query)
    recorder.ask(story, "GET", "/runs", filter="no filter")
    recorder.ask(story, "GET", "/runs", page_token="no token")
    recorder.ask(story, "GET", "/runs", experiment_id=_NOBODY)


def _archive(recorder: Recorder, run: str, experiment: str) -> None:
    story = "archived"
    recorder.ask(story, "POST", f"/runs/{run}:archive")
    recorder.ask(story, "GET", f"/runs/{run}")
    archived = _filter("EQUALS", "storage_state", "ARCHIVED")
    recorder.ask(story, "GET", "/runs", filter=archived, experiment_id=experiment)
    recorder.ask(story, "POST", f"/runs/{run}:unarchive")


def _delete(recorder: Recorder, run: str) -> None:
    story = "deleted"
    recorder.ask(story, "DELETE", f"/runs/{run}")
    recorder.ask(story, "GET", f"/runs/{run}")
    recorder.ask(story, "DELETE", f"/runs/{run}")


def _filter(operation: str, key: str, value: str) -> str:
    predicate = {"operation": operation, "key": key, "string_value": value}
    return json.dumps({"predicates": [predicate]})


def _ended(run: Body) -> bool:
    return run.get("state") in _ENDED


def _runs(task: str) -> Callable[[Body], bool]:
    def holds(run: Body) -> bool:
        tasks = run.get("run_details", {}).get("task_details", [])
        return _ended(run) or any(
            (found.get("display_name"), found.get("state")) == (task, "RUNNING") for found in tasks
        )

    return holds


def _bare(value: Any, *, listed: bool = False) -> Any:
    """Without what is long and said elsewhere: specifications, and the tasks of runs in a list."""
    if isinstance(value, list):
        return [_bare(item, listed=True) for item in value]
    if not isinstance(value, dict):
        return value
    left_out = ("pipeline_spec", "platform_spec", *(("run_details",) if listed else ()))
    return {key: {} if key in left_out and item else _bare(item) for key, item in value.items()}


def write(stories: Mapping[str, Any]) -> None:
    """One file a story; files of stories that are no more are removed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for story, exchanges in stories.items():
        text = json.dumps(exchanges, indent=1, ensure_ascii=False)
        (FOLDER / f"{story}.json").write_text(f"{text}\n")


def main(arguments: list[str]) -> None:
    """With ENDPOINT and IMAGE, or with neither."""
    if arguments:
        write(record(*arguments))
        return
    with ExitStack() as stack:
        from tests.kubeflow.back_end import back_end

        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        up = stack.enter_context(back_end(folder))
        write(record(up.kubeflow.endpoint, up.task))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:])
