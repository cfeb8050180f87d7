"""The way to a Kubeflow server: the options that lead there, and its errors as those of our verbs.

Called by `pipeline_submit` and `pipeline_status`.
"""

import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

import click

from halftone.cli.urls import require_url
from halftone.spec.errors import EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import KUBEFLOW_CA_FILE, KUBEFLOW_ENDPOINT, KUBEFLOW_TOKEN_FILE, Reason

if TYPE_CHECKING:
    from halftone.kubeflow.errors import KubeflowError
    from halftone.kubeflow.rest import Kubeflow

_FILE: Final = click.Path(exists=True, dir_okay=False)
_DENIED: Final = frozenset({401, 403})


@dataclass(frozen=True)
class Server:
    """Where a command asks. `namespace` is the profile, None for the job's own or none."""

    endpoint: str
    token_file: str | None
    ca_file: str | None
    ui_url: str | None
    namespace: str | None

    @property
    def runs_page(self) -> str:
        """Where people see all runs."""
        return f"{(self.ui_url or self.endpoint).rstrip('/')}/#/runs"

    def page(self, run_id: str) -> str:
        """Where people see a run."""
        return f"{self.runs_page}/details/{run_id}"

    def command(self, *words: str) -> str:
        """The command line `words` with options that lead to the same server, to be copied."""
        given = {
            "--endpoint": self.endpoint,
            "--token-file": self.token_file,
            "--ca-file": self.ca_file,
            "--namespace": self.namespace,
        }
        options = [word for name, value in given.items() if value for word in (name, value)]
        return shlex.join([*words, *options])


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--endpoint` and its like; the command gets them as `server`."""

    @wraps(command)
    def placed(
        *arguments: Any,
        endpoint: str | None,
        token_file: str | None,
        ca_file: str | None,
        ui_url: str | None,
        namespace: str | None,
        **others: Any,
    ) -> None:
        if ui_url is not None:
            require_url("--ui-url", ui_url)
        server = Server(_checked(endpoint), token_file, ca_file, ui_url, namespace)
        command(*arguments, server=server, **others)

    for decorate in (
        click.option(
            "--namespace", "-n", help="The profile, where the installation has such; else unused."
        ),
        click.option("--ui-url", help="Where people see the runs; else the endpoint."),
        click.option(
            "--ca-file",
            type=_FILE,
            envvar=KUBEFLOW_CA_FILE,
            help=f"Certificates to trust; else {KUBEFLOW_CA_FILE}.",
        ),
        click.option(
            "--token-file",
            type=_FILE,
            envvar=KUBEFLOW_TOKEN_FILE,
            help=f"Holds a bearer token; else {KUBEFLOW_TOKEN_FILE}, or none is sent.",
        ),
        click.option(
            "--endpoint",
            envvar=KUBEFLOW_ENDPOINT,
            metavar="URL",
            help=f"Of the REST interface, up to `/apis`; else {KUBEFLOW_ENDPOINT}.",
        ),
    ):
        placed = decorate(placed)
    return placed


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator["Kubeflow"]:
    """A client; what it raises inside becomes an error of ours."""
    from halftone.kubeflow.errors import KubeflowError
    from halftone.kubeflow.rest import Kubeflow

    try:
        async with Kubeflow(server.endpoint, server.token_file, server.ca_file) as client:
            yield client
    except KubeflowError as error:
        raise translated(error) from error


def translated(error: "KubeflowError") -> HalftoneError:
    """The error of a verb: a login and a refusal are the user's to mend, the rest is not."""
    from halftone.kubeflow.errors import Unreachable

    if not isinstance(error, Unreachable):
        way_out = " Name one with `--namespace`." if "empty namespace" in error.sentence else ""
        return RefusedInput(Reason.InvalidJob, "kubeflow", error.sentence + way_out)
    if error.code in _DENIED or 300 <= error.code < 400:
        said = f"{error.sentence} `--token-file` names the file that holds it."
        return RefusedInput(Reason.AccessDenied, "--token-file", said)
    return EnvironmentFault(Reason.StoreUnavailable, "--endpoint", error.sentence)


def _checked(endpoint: str | None) -> str:
    if not endpoint:
        raise RefusedInput(
            Reason.InvalidJob,
            "--endpoint",
            "There is no address of Kubeflow Pipelines; give one with `--endpoint` or the variable "
            f"`{KUBEFLOW_ENDPOINT}`, such as 'http://ml-pipeline.kubeflow:8888'.",
        )
    require_url("--endpoint", endpoint)
    return endpoint.removesuffix("/apis/v2beta1").rstrip("/")
