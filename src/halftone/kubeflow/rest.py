"""Runs and experiments of a Kubeflow Pipelines server, over its REST interface v2beta1.

    async with Kubeflow(endpoint, token_file=path) as kubeflow:
        experiment = await kubeflow.experiment("halftone")
        run = await kubeflow.create(request, experiment)

Called by the operator and by `halftone pipeline`; errors are those of `kubeflow.errors`. It retries
nothing, remembers nothing and knows nothing of jobs. Checked against server 2.14.3:
https://github.com/kubeflow/pipelines/tree/2.14.3/backend/api/v2beta1
"""

import json
from collections.abc import Mapping
from typing import Any, Final, Self

from pydantic import ValidationError

from halftone.kubeflow.connection import Answer, Connection
from halftone.kubeflow.errors import Refused, Unreachable
from halftone.spec.pipelines import Run, RunRequest, RunState

# Of a list of runs: each is answered with its whole pipeline, so a page is kept small.
_PAGE_SIZE: Final = 20
# A list that is always being added to would be asked for ever.
_MOST_PAGES: Final = 500
_CONFLICT: Final = 409
_INTERNAL: Final = 500
_NO_PIPELINE: Final = ("error: compiling", "Failed to compile job", "unknown template format")


class Kubeflow:
    """A server. Close it, or use it as an async context manager.

    `endpoint` may have a path of its own (`https://host/pipeline`). `token` is given as it is,
    `token_file` is read anew for each request, for projected tokens change; neither is ever part of
    an error. `ca_file`: certificates to trust in place of the usual ones. Where the installation
    has profiles (multi-user mode), `namespace` says whose experiments and runs are meant;
    others take no notice of it.
    """

    def __init__(
        self,
        endpoint: str,
        token_file: str | None = None,
        ca_file: str | None = None,
        *,
        token: str | None = None,
        seconds: float = 30.0,
    ) -> None:
        self._connection = Connection(endpoint, token_file, ca_file, token, seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections; a later request opens new ones."""
        await self._connection.aclose()

    async def experiment(self, name: str, namespace: str = "") -> str:
        """The id of the experiment `name`, which is made if it is missing.

        Several that make it at once end with the same one, for names are unique.
        """
        found = await self._experiment(name, namespace)
        if found is not None:
            return found
        body = {"display_name": name} | ({"namespace": namespace} if namespace else {})
        try:
            answer = await self._connection.ask("POST", "experiments", body=body)
        except Refused as error:
            if error.code != _CONFLICT:
                raise
            # Somebody was faster.
            found = await self._experiment(name, namespace)
            if found is None:
                raise
            return found
        return _experiment_id(answer.content, answer)

    async def runs(self, holding: str, namespace: str = "") -> list[Run]:
        """All runs whose name holds `holding`, newest first, archived ones too."""
        found: list[Run] = []
        asked = {
            "filter": _predicate("IS_SUBSTRING", holding),
            "sort_by": "created_at desc",
            "page_size": str(_PAGE_SIZE),
        }
        asked |= {"namespace": namespace} if namespace else {}
        for _ in range(_MOST_PAGES):
            answer = await self._connection.ask("GET", "runs", asked)
            found += _listed(answer.content.get("runs", []), answer)
            token = str(answer.content.get("next_page_token") or "")
            if not token:
                # The server compares without case, and takes `_` and `%` for wildcards.
                found = [run for run in found if holding in run.display_name]
                return sorted(found, key=lambda run: run.created_at or "", reverse=True)
            if asked.get("page_token") == token:
                break
            asked["page_token"] = token
        raise Unreachable(
            f"The list of runs of {self._connection.shown} has no end; delete "
            "old runs, or look at what stands before the server."
        )

    async def run(self, run_id: str) -> Run:
        """A run with its tasks."""
        answer = await self._connection.ask("GET", f"runs/{_checked(run_id)}")
        return _run(answer.content, answer)

    async def create(self, request: RunRequest, experiment_id: str) -> Run:
        """Make a run. Where the answer is lost, the run may be there: look it up by its name.

        NotFound if there is no such experiment (any more).
        """
        try:
            answer = await self._connection.ask("POST", "runs", body=_body(request, experiment_id))
        except Unreachable as error:
            # 2.14 answers 500 for a pipeline that it cannot read, as it will the next time.
            if error.code == _INTERNAL and any(word in error.message for word in _NO_PIPELINE):
                raise Refused(error.code, error.message) from error
            raise
        return _run(answer.content, answer)

    async def terminate(self, run_id: str) -> None:
        """Have a run end, which takes a while; one that has ended or is ending is left alone."""
        try:
            path = f"runs/{_checked(run_id)}:terminate"
            await self._connection.ask("POST", path, body={})
        except Refused as error:
            # 2.14 answers 400 "Row not found" for a run that is not under way.
            if error.code not in (400, _CONFLICT):
                raise
            state = (await self.run(run_id)).state
            if not state.is_final and state is not RunState.Canceling:
                raise

    async def delete(self, run_id: str) -> None:
        """Remove a run from the server, with its Workflow."""
        await self._connection.ask("DELETE", f"runs/{_checked(run_id)}")

    async def _experiment(self, name: str, namespace: str) -> str | None:
        asked = {"filter": _predicate("EQUALS", name), "page_size": str(_PAGE_SIZE)}
        asked |= {"namespace": namespace} if namespace else {}
        answer = await self._connection.ask("GET", "experiments", asked)
        rows = answer.content.get("experiments", [])
        if not isinstance(rows, list):
            raise answer.strange()
        ids = [
            _experiment_id(row, answer)
            for row in rows
            if isinstance(row, Mapping) and row.get("display_name") == name
        ]
        return ids[0] if ids else None


def _body(request: RunRequest, experiment_id: str) -> dict[str, Any]:
    """What a POST sends; the server refuses fields that it does not know."""
    config: dict[str, Any] = {"parameters": request.parameters}
    if request.pipeline_root:
        config["pipeline_root"] = request.pipeline_root
    body: dict[str, Any] = {
        "display_name": request.display_name,
        "experiment_id": experiment_id,
        "pipeline_spec": {
            "pipeline_spec": request.pipeline_spec,
            "platform_spec": request.platform_spec,
        },
        "runtime_config": config,
    }
    body |= {"description": request.description} if request.description else {}
    return body | ({"service_account": request.service_account} if request.service_account else {})


def _predicate(operation: str, name: str) -> str:
    """A filter on the name.

    The server undoes URL quoting twice; escapes of JSON pass through both unharmed.
    """
    predicate = {"operation": operation, "key": "name", "string_value": name}
    text = json.dumps({"predicates": [predicate]})
    return text.replace("%", "\\u0025").replace("+", "\\u002b")


def _checked(run_id: str) -> str:
    """An id that can be part of a path: it may come from a status that somebody edited."""
    if not run_id or not all(sign.isascii() and (sign.isalnum() or sign == "-") for sign in run_id):
        raise Refused(400, f"'{run_id}' is not the id of a run.")
    return run_id


def _run(content: Any, answer: Answer) -> Run:
    try:
        return Run.model_validate(content)
    except ValidationError:
        raise answer.strange() from None


def _listed(content: Any, answer: Answer) -> list[Run]:
    if not isinstance(content, list):
        raise answer.strange()
    return [_run(row, answer) for row in content]


def _experiment_id(row: Mapping[str, Any], answer: Answer) -> str:
    found = row.get("experiment_id")
    if not isinstance(found, str) or not found:
        raise answer.strange()
    return found
