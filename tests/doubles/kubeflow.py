"""A double of Kubeflow Pipelines' REST interface v2beta1, over real HTTP on loopback.

It answers as server 2.14.3 does (recordings in `tests/golden/kubeflow`), for what Halftone asks of
it: experiments and runs. It runs nothing; a script says how each run goes on. Threads of its own
serve it, so that a test, an operator in a process of its own and a command line can all ask it.

    with KubeflowDouble() as kubeflow:
        kubeflow.script = [Step("RUNNING", {"plan": "RUNNING"}), Step("SUCCEEDED", {...})]
        ... ask `kubeflow.endpoint` ...
        kubeflow.created             # bodies of the POSTs of runs that took effect, in order
        kubeflow.asked               # every request as it arrived
        kubeflow.runs                # what the server has, newest first
        kubeflow.put(run_id, Step("FAILED"))        # now, whatever the script says
        kubeflow.fail("POST /runs", Fault.Lost)     # the next answer to such a request goes wrong
        kubeflow.down = True         # every connection is cut, until it is False again

A run begins as PENDING. Each GET of it takes one step of its script before it is answered (a list
of runs, which has their tasks too, takes none); when the script is over it stays as it is. The
script is copied when the run is made. A run that was told to terminate is CANCELING at the next
GET, and FAILED from the one after it, without a word in `error`. `moved` is called with a run after
each of its changes, by the thread that answers, before it answers: there a test makes the pods that
a real server would have made.
"""

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Self

from tests.doubles import kubeflow_answers as answers
from tests.doubles.kubeflow_answers import (
    ENDED,
    RETRIED,
    Asked,
    Fault,
    RefusedError,
    Step,
    StoredRun,
)
from tests.doubles.kubeflow_http import Server

__all__ = ["Asked", "Fault", "KubeflowDouble", "Step", "StoredRun"]

_PENDING: Final = Step("PENDING")


class KubeflowDouble:
    """The server, its content and its faults; a context manager.

    `token`: where set, requests without it are answered with 401. `multi_user`: a namespace has to
    be named, as in an installation with profiles. `page_size`: no page is longer, whatever is asked
    for. `prefix`: a path before `/apis`, such as `/pipeline` behind Kubeflow's gateway. `tls`:
    files of a certificate and its key.
    """

    def __init__(
        self, *, prefix: str = "", multi_user: bool = False, tls: tuple[Path, Path] | None = None
    ) -> None:
        self.script: Iterable[Step] = ()
        self.moved: Callable[[StoredRun], None] = lambda _: None
        self.token: str | None = None
        self.multi_user = multi_user
        self.page_size = 200
        self.down = False
        self.asked: list[Asked] = []
        self.created: list[Mapping[str, Any]] = []
        self.released = threading.Event()  # what `Fault.Held` waits for
        self._prefix = prefix
        self._lock = threading.RLock()
        self._runs: dict[str, StoredRun] = {}
        self._experiments: dict[str, dict[str, Any]] = {}
        self._faults: deque[tuple[str, Fault]] = deque()
        self._server = Server(self, tls)

    @property
    def endpoint(self) -> str:
        """What a user gives as `endpoint`."""
        return self._server.origin + self._prefix

    @property
    def runs(self) -> list[StoredRun]:
        """Copies of all runs, newest first."""
        with self._lock:
            return [copy.deepcopy(run) for run in reversed(self._runs.values())]

    @property
    def experiments(self) -> list[dict[str, Any]]:
        """Copies of all experiments, as they are answered."""
        with self._lock:
            return copy.deepcopy(list(self._experiments.values()))

    def put(self, run_id: str, step: Step) -> None:
        """Let a run be so now; what is left of its script stays."""
        with self._lock:
            self._move(self._runs[run_id], step)

    def play(self, run_id: str, script: Iterable[Step]) -> None:
        """Let a run go on by another script."""
        with self._lock:
            self._runs[run_id].steps = list(script)

    def fail(self, request: str, fault: Fault, times: int = 1) -> None:
        """Let the next `times` requests that begin so ('POST /runs', 'GET', …) go wrong."""
        with self._lock:
            self._faults.extend([(request, fault)] * times)

    def asked_for(self, request: str) -> list[Asked]:
        """Requests that began so, in the order of their arrival."""
        with self._lock:
            return [one for one in self.asked if str(one).startswith(request)]

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.stop()

    # Called by the HTTP side, each in the thread of its connection.

    def note(self, asked: Asked) -> Fault | None:
        """Write a request down; the fault that its answer is to have."""
        with self._lock:
            self.asked.append(asked)
            for planned in self._faults:
                if str(asked).startswith(planned[0]):
                    self._faults.remove(planned)
                    return planned[1]
        return None

    def answer(self, asked: Asked) -> Any:
        """JSON for a request; raises RefusedError."""
        if self.token is not None and asked.authorization != f"Bearer {self.token}":
            raise RefusedError(401, answers.UNAUTHENTICATED)
        path = asked.path.removeprefix(self._prefix)
        if path == asked.path and self._prefix:
            raise RefusedError(404, "404 page not found")
        with self._lock:
            match asked.method, path.removeprefix("/apis/v2beta1/").split("/"):
                case "GET", ["healthz"]:
                    return answers.health(multi_user=self.multi_user)
                case "GET", ["experiments"]:
                    return self._listed("experiments", list(self._experiments.values()), asked)
                case "GET", ["experiments", experiment_id]:
                    if experiment_id not in self._experiments:
                        raise RefusedError(404, answers.no_such_experiment(experiment_id))
                    return self._experiments[experiment_id]
                case "DELETE", ["experiments", experiment_id]:
                    self._experiments.pop(experiment_id, None)
                    return {}
                case "POST", ["experiments"]:
                    return self._new_experiment(asked.body)
                case "GET", ["runs"]:
                    rows = [run.answered() for run in self._runs.values()]
                    return self._listed("runs", rows, asked)
                case "POST", ["runs"]:
                    return self._new_run(asked.body)
                case "GET", ["runs", run_id]:
                    return self._got(self._run(run_id, "Failed to get a run"))
                case "DELETE", ["runs", run_id]:
                    del self._runs[self._run(run_id, answers.deleting(run_id)).run_id]
                    return {}
                case "POST", ["runs", told] if ":" in told:
                    return self._told(*told.split(":", 1))
        raise RefusedError(404, "Not Found")

    def _listed(self, kind: str, rows: list[dict[str, Any]], asked: Asked) -> Any:
        if self.multi_user:
            namespace = asked.query.get("namespace", "")
            if not namespace:
                raise RefusedError(400, answers.NO_NAMESPACE)
            rows = [row for row in rows if self._namespace(row) == namespace]
        experiment = asked.query.get("experiment_id")
        if experiment:
            if experiment not in self._experiments:
                raise RefusedError(404, answers.listing(experiment))
            rows = [row for row in rows if row["experiment_id"] == experiment]
        return answers.page(kind, rows, asked.query, self.page_size)

    def _namespace(self, row: Mapping[str, Any]) -> str:
        return str(self._experiments[row["experiment_id"]].get("namespace", ""))

    def _new_experiment(self, body: Mapping[str, Any]) -> Any:
        namespace = body.get("namespace", "") if self.multi_user else ""
        if self.multi_user and not namespace:
            raise RefusedError(400, answers.NO_NAMESPACE)
        name = body["display_name"]
        there = self._experiments.values()
        if any(
            (one["display_name"], one.get("namespace", "")) == (name, namespace) for one in there
        ):
            raise RefusedError(409, answers.experiment_exists(name))
        found = answers.experiment(name, namespace, len(self._experiments))
        self._experiments[found["experiment_id"]] = found
        return found

    def _new_run(self, body: Mapping[str, Any]) -> Any:
        answers.check_run(body)
        if body.get("experiment_id") not in self._experiments:
            raise RefusedError(404, answers.no_experiment(body.get("experiment_id", "")))
        run = StoredRun(answers.new_id("run", len(self.created)), body, len(self.created))
        run.steps = list(self.script)
        self.created.append(copy.deepcopy(body))
        self._runs[run.run_id] = run
        self._move(run, _PENDING)
        return run.answered()

    def _run(self, run_id: str, doing: str) -> StoredRun:
        if run_id not in self._runs:
            raise RefusedError(404, f"{doing}: {answers.no_run(run_id)}")
        return self._runs[run_id]

    def _got(self, run: StoredRun) -> Any:
        if run.state == "CANCELING" and not run.told:
            run.told = True
        elif run.state == "CANCELING":
            run.remember("CANCELING")
            self._move(run, Step("FAILED", run.tasks))
        elif run.steps and run.state not in ENDED:
            self._move(run, run.steps.pop(0))
        return run.answered()

    def _told(self, run_id: str, verb: str) -> Any:
        run = self._run(run_id, f"Failed to {verb} a run: {answers.fetching(verb, run_id)}")
        match verb:
            case "terminate" if run.state in ENDED or run.state == "CANCELING":
                raise RefusedError(400, answers.not_terminated(run_id))
            case "terminate":
                # Its history says so when it has ended.
                run.state, run.told = "CANCELING", False
                self.moved(run)
            case "retry" if run.state not in RETRIED:
                raise RefusedError(409, answers.not_retried(run_id), 10)
            case "retry":
                run.history.clear()
                self._move(run, Step("RUNNING", run.tasks))
            case "archive" | "unarchive":
                run.storage_state = "ARCHIVED" if verb == "archive" else "AVAILABLE"
            case _:
                raise RefusedError(404, "Not Found")
        return {}

    def _move(self, run: StoredRun, step: Step) -> None:
        run.take(step)
        self.moved(run)
