"""The double of Kubeflow and our client against what server 2.14.3 said (`make record-kfp`).

We test these aspects:
- every request that was recorded is answered by the double with the same status, the same words
  and states, and with no field that the server does not have
- our client makes of every recorded answer what it should: a value, NotFound, Refused, Unreachable
- the surprises are in the recordings: a terminated run ends as FAILED, an error is empty, what came
  from the cache took no time, a pipeline that cannot be compiled is a 500
"""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

import httpx
import pytest

from halftone.cli.pipeline_table import rows
from halftone.kubeflow.errors import KubeflowError, NotFound, Refused, Unreachable
from halftone.kubeflow.rest import Kubeflow
from halftone.spec.pipelines import Run, RunRequest, RunState
from tests.conftest import ROOT
from tests.doubles.kubeflow import KubeflowDouble, Step
from tests.doubles.kubeflow_answers import ENDED, NOT_COMPILED, Asked, RefusedError
from tests.doubles.kubeflow_http import Server

FOLDER: Final = ROOT / "tests" / "golden" / "kubeflow"
# In the order in which they were recorded: later ones ask for what earlier ones made.
STORIES: Final = (
    "experiments",
    "refusals",
    "succeeded",
    "terminated",
    "failed",
    "calibrated",
    "retried",
    "lists",
    "archived",
    "deleted",
)
Exchange = Mapping[str, Any]
# Recordings leave pipelines out.
_SPEC: Final = {
    "root": {
        "inputDefinitions": {
            "parameters": {
                "job": {"parameterType": "STRING"},
                "device": {"parameterType": "STRING", "isOptional": True},
                "fail": {"parameterType": "STRING", "isOptional": True},
            }
        }
    }
}


def _recorded(story: str) -> list[Exchange]:
    found = json.loads((FOLDER / f"{story}.json").read_text())
    assert isinstance(found, list)
    return found


def _in_order() -> list[str]:
    """What was deleted before the lists were recorded has to be deleted before they are played."""
    listed = {run["display_name"] for run in _recorded("lists")[0]["body"]["runs"]}
    made = {run.display_name for story in STORIES if story != "lists" for run in _runs(story)}
    early = ["deleted"] if made - listed else []
    stories = [story for story in STORIES if story not in early]
    at = stories.index("lists")
    return [*stories[:at], *early, *stories[at:]]


def test_every_story_is_played() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(STORIES)


class Player:
    """Asks the double what the server was asked, with the ids that the double gives."""

    def __init__(self, double: KubeflowDouble) -> None:
        self._double = double
        self._client = httpx.Client(base_url=f"{double.endpoint}/apis/v2beta1")
        self._ids: dict[str, str] = {}

    def close(self) -> None:
        self._client.close()

    def play(self, exchange: Exchange) -> tuple[int, Any]:
        """Status and body, ids as in the recording."""
        asked, answered = exchange["request"], exchange["body"]
        self._go_on(asked, answered)
        body = self._translated(asked["body"])
        if body and "runtime_config" in body:
            refused = exchange["status"] == 500 and "template" in answered["message"]
            body["pipeline_spec"] = {"pipeline_spec": {} if refused else _SPEC}
        answer = self._client.request(
            asked["method"],
            self._translated(asked["path"]),
            params=self._translated(asked["query"]),
            json=body,
        )
        found = answer.json()
        for key in ("experiment_id", "run_id", "next_page_token"):
            if isinstance(answered, dict) and key in answered and key in found:
                self._ids[answered[key]] = found[key]
        text = json.dumps(found)
        for theirs, ours in self._ids.items():
            text = text.replace(ours, theirs)
        return answer.status_code, json.loads(text)

    def _go_on(self, asked: Mapping[str, Any], answered: Any) -> None:
        """Let a run be in the state that was recorded, unless the double has to come to it."""
        run_id, _, verb = str(asked["path"]).removeprefix("/runs/").partition(":")
        if verb == "terminate" and answered == {}:  # it had begun
            self._double.put(self._ids[run_id], Step("RUNNING"))
        if asked["method"] != "GET" or not isinstance(answered, dict) or "state" not in answered:
            return
        run_id = self._ids[answered["run_id"]]
        (run,) = (one for one in self._double.runs if one.run_id == run_id)
        if run.state != "CANCELING" and run.state not in ENDED:
            tasks = {
                one["display_name"]: one["state"]
                for one in answered.get("run_details", {}).get("task_details", [])
                if "display_name" in one and "state" in one
            }
            for change in answered["state_history"][len(run.history) : -1]:
                self._double.put(run_id, Step(change["state"]))
            self._double.play(run_id, [Step(answered["state"], tasks)])

    def _translated(self, value: Any) -> Any:
        text = json.dumps(value)
        for theirs, ours in self._ids.items():
            text = text.replace(theirs, ours)
        return json.loads(text)


@pytest.fixture
def player() -> Iterator[Player]:
    with KubeflowDouble() as double:
        made = Player(double)
        yield made
        made.close()


def test_the_double_answers_as_the_server_did(player: Player) -> None:
    differences = []
    for story in _in_order():
        for number, exchange in enumerate(_recorded(story)):
            if "error: compiling" in str(exchange["body"]):
                assert exchange["body"]["message"].startswith(NOT_COMPILED.partition('"no')[0])
                continue
            code, body = player.play(exchange)
            told, wanted = _essence(body), _essence(exchange["body"])
            if (code, told) != (exchange["status"], wanted):
                differences.append((story, number, code, told, exchange["status"], wanted))
            # Of lists the tasks were not kept.
            new = {name for name in _fields(body) if not name.startswith("runs.run_details.")}
            assert new <= _fields(exchange["body"]), (story, number)
    assert differences == []


def _essence(body: Any) -> Any:
    """What of an answer has to be the same: words of an error, states and names of runs."""
    if not isinstance(body, dict):
        return body
    if "message" in body:
        # Of what it cannot read the server shows where, which depends on the length of a pipeline.
        unreadable = "parse" in body["message"] or body["message"].startswith("proto:")
        return body["code"], "" if unreadable else body["message"]
    if "runs" in body:
        # Those that were made in the same second stand in the order of their ids, which differ.
        return len(body["runs"]), body["total_size"], "next_page_token" in body
    if "run_id" in body:
        # One without a state: the server looked before Argo had given the workflow a phase.
        states = [change["state"] for change in body["state_history"] if "state" in change]
        return body["display_name"], body["state"], body["storage_state"], states, "error" in body
    return sorted(body)


def _fields(body: Any) -> set[str]:
    """Names of all fields, also of runs and tasks within."""
    if isinstance(body, list):
        return set().union(*map(_fields, body)) if body else set()
    if not isinstance(body, dict):
        return set()
    within = ("runs", "run_details", "task_details", "experiments", "state_history")
    found = {f"{name}.{one}" for name in within if name in body for one in _fields(body[name])}
    return found | set(body)


class Replay:
    """Answers whatever it is asked with one recorded answer, `exchange`."""

    def __init__(self) -> None:
        self.down = False
        self.released = threading.Event()
        self.exchange: Exchange = {}

    def note(self, asked: Asked) -> None:
        """No fault."""

    def answer(self, asked: Asked) -> Any:
        status, body = self.exchange["status"], self.exchange["body"]
        if status != 200:
            raise RefusedError(status, body["message"])
        return body


def _calls() -> Iterator[tuple[Exchange, str, tuple[Any, ...]]]:
    """Every recorded exchange that a method of the client has, and that method with arguments."""
    request = RunRequest(display_name="x", pipeline_spec={}, platform_spec={}, parameters={})
    for story in STORIES:
        for exchange in _recorded(story):
            method, path = exchange["request"]["method"], exchange["request"]["path"]
            run_id = path.removeprefix("/runs").strip("/")
            match method, path:
                case "POST", "/runs":
                    yield exchange, "create", (request, "x")
                case "GET", "/runs" if "next_page_token" not in exchange["body"]:
                    yield exchange, "runs", ("",)
                case "GET", _ if path.startswith("/runs/"):
                    yield exchange, "run", (run_id,)
                case "DELETE", _:
                    yield exchange, "delete", (run_id,)


def test_the_client_understands_every_recorded_answer() -> None:
    async def ask_all(replay: Replay, endpoint: str) -> list[tuple[Exchange, Any]]:
        found: list[tuple[Exchange, Any]] = []
        async with Kubeflow(endpoint) as client:
            for exchange, method, given in _calls():
                replay.exchange = exchange
                try:
                    found.append((exchange, await getattr(client, method)(*given)))
                except KubeflowError as error:
                    found.append((exchange, error))
        return found

    replay = Replay()
    server = Server(replay)
    server.start()
    try:
        answers = asyncio.run(ask_all(replay, server.origin))
    finally:
        server.stop()
    for exchange, found in answers:
        assert _kind(found) is _wanted(exchange), exchange
        if isinstance(found, Run):
            assert found.state == exchange["body"]["state"] != RunState.Unspecified
    kinds = {type(found) for _, found in answers}
    assert {Run, list, NotFound, Refused, Unreachable} <= kinds


def _kind(found: Any) -> type | None:
    return type(found) if isinstance(found, Exception) else None


def _wanted(exchange: Exchange) -> type | None:
    """The error that a recorded answer means; None for a good one."""
    status, said = exchange["status"], str(exchange["body"])
    if status == 500 and ("unknown template format" in said or "error: compiling" in said):
        return Refused
    return {200: None, 404: NotFound, 500: Unreachable}.get(status, Refused)


def _runs(story: str) -> list[Run]:
    bodies = [one["body"] for one in _recorded(story)]
    return [Run.model_validate(body) for body in bodies if body and "run_id" in body]


def test_the_surprises_are_there() -> None:
    terminated, failed = _runs("terminated"), _runs("failed")
    assert terminated[-1].state is RunState.Failed
    assert [change.state for change in terminated[-1].state_history][-1] is RunState.Failed
    assert failed[-1].state is RunState.Failed
    assert failed[-1].error is None
    assert all(task.error is None for task in failed[-1].run_details.task_details)
    assert "publish" in [row.task for row in rows(failed[-1]) if row.word == "failed"]
    # It has the plan's inputs of the run before it.
    assert "plan" in [row.task for row in rows(failed[-1]) if row.word == "cached"]
    assert {row.word for row in rows(_runs("succeeded")[-1])} <= {"done", "cached"}
