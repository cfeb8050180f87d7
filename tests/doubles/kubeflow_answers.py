"""What the double of Kubeflow answers: shapes, sentences and pages of server 2.14.3.

Called by `tests.doubles.kubeflow`. `tests/unit/test_kubeflow_recordings.py` holds it against what
the real server said. It keeps nothing.
"""

import base64
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

ENDED: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"})
RETRIED: Final = frozenset({"FAILED", "CANCELED"})
EPOCH: Final = "1970-01-01T00:00:00Z"
UNAUTHENTICATED: Final = "Failed to authorize the request: Unauthenticated: no token"
NO_NAMESPACE: Final = "Invalid input error: A run cannot have an empty namespace in multi-user mode"


class Fault(Enum):
    """What can go wrong with one answer."""

    Broken = "500"
    Unavailable = "503"
    TooMany = "429"
    Unauthorized = "401"
    Forbidden = "403"
    BadRequest = "400"
    NotCompiled = "500, of a pipeline that the server cannot compile, with its stack"
    Login = "302 to a page that asks for a password"
    Page = "200 and a page for people"
    Garbage = "200 and JSON of another shape"
    Endless = "200 and a body that does not end"
    Cut = "the connection is closed before the request is carried out"
    Lost = "the request is carried out, then the connection is closed without an answer"
    Held = "the request is carried out, the answer waits until `released` is set"


@dataclass(frozen=True)
class Asked:
    """One request; `query` decoded, `body` its JSON or None."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    authorization: str | None

    def __str__(self) -> str:
        """`POST /runs`: the path below `/apis/v2beta1`."""
        return f"{self.method} {self.path.partition('/apis/v2beta1')[2] or self.path}"


@dataclass(frozen=True)
class Step:
    """A run at one moment: its state, and those of its tasks by the names that they show.

    A task is a state, or a state and the message of its error; "CACHED" is told as 2.14 tells it,
    SUCCEEDED within the same second. `error` is the run's own.
    """

    state: str
    tasks: Mapping[str, str | tuple[str, str]] = field(default_factory=dict)
    error: str = ""


class RefusedError(Exception):
    """An answer that is not 200, in the server's words; `code` if it is not the usual one."""

    def __init__(self, status: int, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class StoredRun:
    """A run as the server keeps it. `body` is what it was made of."""

    def __init__(self, run_id: str, body: Mapping[str, Any], number: int) -> None:
        self.run_id = run_id
        self.body = body
        self.number = number
        self.storage_state = "AVAILABLE"
        self.state = "RUNTIME_STATE_UNSPECIFIED"
        self.error = ""
        self.told = False  # somebody was told that it is being cancelled
        self.tasks: Mapping[str, str | tuple[str, str]] = {}
        self.steps: list[Step] = []
        self.history: list[dict[str, str]] = []
        self.finished_at = EPOCH

    @property
    def name(self) -> str:
        """What it is looked up by."""
        return str(self.body["display_name"])

    def take(self, step: Step) -> None:
        """Be as `step` says from now on."""
        if step.state != self.state:
            self.remember(step.state)
        self.state, self.tasks, self.error = step.state, step.tasks, step.error
        self.finished_at = self._time() if step.state in ENDED else EPOCH

    def remember(self, state: str) -> None:
        """Write a state into the history, unless it is the last one there."""
        if not self.history or self.history[-1]["state"] != state:
            self.history.append({"update_time": self._time(), "state": state})

    def answered(self) -> dict[str, Any]:
        """As a GET of it and a list have it; what is empty is left out, as protobuf does."""
        found = {
            "experiment_id": self.body["experiment_id"],
            "run_id": self.run_id,
            "display_name": self.name,
            "storage_state": self.storage_state,
            "description": self.body.get("description", ""),
            "pipeline_spec": self.body["pipeline_spec"],
            "runtime_config": self.body.get("runtime_config", {}),
            "service_account": self.body.get("service_account", "pipeline-runner"),
            "created_at": _time(self.number),
            "scheduled_at": _time(self.number),
            "finished_at": self.finished_at,
            "state": self.state,
            "error": {"code": 13, "message": self.error} if self.error else None,
            "run_details": {"task_details": self._task_details()} if self.tasks else None,
            "state_history": list(self.history),
        }
        return {name: value for name, value in found.items() if value}

    def _task_details(self) -> list[dict[str, Any]]:
        return [self._task_detail(*item) for item in self.tasks.items()]

    def _task_detail(self, name: str, told: str | tuple[str, str]) -> dict[str, Any]:
        state, message = (told, "") if isinstance(told, str) else told
        # What came from the cache took no time, and that is all that is said of it.
        taken = 0 if state == "CACHED" else 8
        state = "SUCCEEDED" if state == "CACHED" else state
        found = {
            "run_id": self.run_id,
            "task_id": new_id(f"{self.run_id}-{name}", 0),
            "display_name": name,
            "create_time": _time(self.number),
            "start_time": _time(self.number),
            "end_time": _time(self.number + taken) if state in ENDED else EPOCH,
            "state": state,
            "error": {"code": 13, "message": message} if message else None,
            "state_history": [{"update_time": _time(self.number), "state": state}],
        }
        return {key: value for key, value in found.items() if value}

    def _time(self) -> str:
        return _time(self.number)


def new_id(kind: str, number: int) -> str:
    """An id that is the same in each test."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{kind}-{number}"))


def health(*, multi_user: bool) -> dict[str, Any]:
    """The answer of `healthz`."""
    return {
        "commit_sha": "unknown",
        "tag_name": "2.14.3",
        "multi_user": multi_user,
        "pipeline_store": "database",
    }


def experiment(name: str, namespace: str, number: int) -> dict[str, Any]:
    """A new experiment."""
    found = {
        "experiment_id": new_id("experiment", number),
        "display_name": name,
        "created_at": _time(number),
        "namespace": namespace,
        "storage_state": "AVAILABLE",
        "last_run_created_at": EPOCH,
    }
    return {key: value for key, value in found.items() if value}


def page(
    kind: str, rows: list[dict[str, Any]], query: Mapping[str, str], most: int
) -> dict[str, Any]:
    """One page of those rows that the filter lets through; the token names its first row."""
    try:
        given = json.loads(query.get("filter") or "{}").get("predicates", [])
    except ValueError as error:
        raise RefusedError(400, _NO_FILTER.format(query["filter"])) from error
    rows = [row for row in rows if all(_fits(row, predicate) for predicate in given)]
    if query.get("sort_by", "").endswith(" desc"):
        rows.reverse()
    size = min(int(query.get("page_size") or 20), most)
    start = 0
    if query.get("page_token"):
        try:
            start = int(json.loads(base64.b64decode(query["page_token"]))["start"])
        except ValueError as error:
            raise RefusedError(400, _NO_TOKEN) from error
    found: dict[str, Any] = {"total_size": len(rows), kind: rows[start : start + size]}
    if start + size < len(rows):
        token = json.dumps({"start": start + size}).encode()
        found["next_page_token"] = base64.b64encode(token).decode()
    return {key: value for key, value in found.items() if value}


def check_run(body: Mapping[str, Any]) -> None:
    """Refuse what the server refuses: unknown fields, no name, no pipeline, lacking parameters."""
    unknown = set(body) - _RUN_FIELDS
    if unknown:
        raise RefusedError(400, f'proto: (line 1:2): unknown field "{min(unknown)}"')
    if not body.get("display_name"):
        raise RefusedError(500, NO_NAME)
    spec = body.get("pipeline_spec", {}).get("pipeline_spec", {})
    if not spec.get("root"):
        raise RefusedError(500, UNKNOWN_TEMPLATE)
    wanted = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    given = body.get("runtime_config", {}).get("parameters", {})
    for name, kind in wanted.items():
        if kind["parameterType"] == "STRING" and not isinstance(given.get(name, ""), str):
            raise RefusedError(400, f"{_INPUTS}: {_NO_TEXT.format(name)}")
        if name not in given and not kind.get("isOptional") and "defaultValue" not in kind:
            raise RefusedError(400, f"{_INPUTS}: {_LACKING.format(name)}")
    extra = sorted(set(given) - set(wanted))
    if extra:
        said = f"parameter(s) provided are not required by pipeline: {', '.join(extra)}"
        raise RefusedError(400, f"{_INPUTS}: {said}")


def no_run(run_id: str) -> str:
    return f"Failed to fetch run {run_id}: ResourceNotFoundError: Run {run_id} not found"


def no_experiment(experiment_id: str) -> str:
    return (
        "Failed to create a new run: Failed to create a run due to invalid experimentId and "
        f"namespace combination: Failed to fetch namespace for experiment {experiment_id}: "
        f"Failed to fetch namespace from experiment {experiment_id}: ResourceNotFoundError: "
        f"Experiment {experiment_id} not found"
    )


def no_such_experiment(experiment_id: str) -> str:
    return (
        f"Failed to fetch experiment: ResourceNotFoundError: Experiment {experiment_id} not found"
    )


def experiment_exists(name: str) -> str:
    return (
        "Failed to create a experiment: Already exist error: Failed to create a new experiment. "
        f"The name {name} already exists. Please specify a new name"
    )


def deleting(run_id: str) -> str:
    return f"Failed to delete a run: Failed to delete run {run_id} as it does not exist"


def fetching(verb: str, run_id: str) -> str:
    if verb.endswith("archive"):
        return f"Failed to {verb} run {run_id} as it failed to be retrieved"
    return f"Failed to {verb} run {run_id} due to error fetching the run"


def not_terminated(run_id: str) -> str:
    return (
        f"Failed to terminate a run: Failed to terminate run {run_id}: Invalid input error: "
        f"Failed to terminate a run {run_id}. Row not found"
    )


def not_retried(run_id: str) -> str:
    return (
        f"Failed to retry a run: Failed to retry run {run_id}: BadRequestError: Workflow must be "
        "Failed/Error to retry: workflow cannot be retried"
    )


def listing(experiment_id: str) -> str:
    return (
        "Failed to list runs: Failed to list runs due to error fetching namespace for experiment "
        f"{experiment_id}. Try filtering based on namespace: Failed to fetch namespace from "
        f"experiment {experiment_id}: ResourceNotFoundError: Experiment {experiment_id} not found"
    )


_INPUTS: Final = (
    "Failed to create a new run: Failed to generate the ExecutionSpec: invalid pipeline job "
    "inputs: Invalid input error"
)
_LACKING: Final = (
    "parameter {} is not optional, yet has neither default value nor user provided value"
)
_NO_FILTER: Final = (
    "Failed to create list options: Invalid input error: failed to parse valid filter from "
    '"{}": proto: syntax error'
)
_NO_TOKEN: Final = (
    "Failed to create list options: InvalidInputError: Invalid package token: illegal base64 data "
    "at input byte 2"
)
_NO_TEXT: Final = (
    "input parameter {} requires type string, but the input parameter is not of string value type"
)
UNKNOWN_TEMPLATE: Final = (
    "Failed to create a new run: InternalServerError: Failed to create a run due to error fetching "
    "manifest: Failed to fetch a template with an invalid pipeline spec manifest: "
    "InvalidInputError: unknown template format: pipeline spec is invalid"
)
NO_NAME: Final = (
    "CreateJob(job.ToV2())Failed to create a run due to conversion error: InternalServerError: "
    "Failed to convert a API run detail to its internal representation: Invalid input error: "
    "Run name cannot be empty"
)
NOT_COMPILED: Final = (
    'Internal error: compiling DAG "comp-exit-handler-1": compiling task "plan": error creating '
    'executor for "plan": failed to unmarshal kubernetes config: proto: (line 1:2): unknown field '
    '"nonsense"\nFailed to compile job\n'
    "github.com/kubeflow/pipelines/backend/src/common/util.Wrap\n"
    "\tgithub.com/kubeflow/pipelines@v0.0.0/backend/src/common/util/error.go:361"
)
_RUN_FIELDS: Final = frozenset(
    {
        "display_name",
        "description",
        "experiment_id",
        "pipeline_spec",
        "pipeline_version_reference",
        "runtime_config",
        "service_account",
    }
)


def _fits(row: Mapping[str, Any], predicate: Mapping[str, Any]) -> bool:
    key = {"name": "display_name", "id": "run_id"}.get(predicate["key"], predicate["key"])
    wanted = predicate.get("string_value", predicate.get("stringValue", ""))
    match predicate["operation"]:
        case "EQUALS":
            return bool(row.get(key) == wanted)
        case "IS_SUBSTRING":
            return str(wanted).lower() in str(row.get(key, "")).lower()
    raise RefusedError(400, f"failed to parse valid filter: {predicate['operation']}")


def _time(number: int) -> str:
    """Seconds after the first; the server keeps no fractions."""
    return f"2026-11-22T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z"
