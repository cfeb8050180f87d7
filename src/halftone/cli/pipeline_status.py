"""`halftone pipeline status`: the tasks of a run, once or until it ends.

`follow` is also what `pipeline submit --wait` calls.
"""

import asyncio
import re
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

import click

from halftone.cli.numbers import Finite
from halftone.cli.pipeline_access import Server, connected, server_options
from halftone.cli.pipeline_table import Display, display, rows, tell
from halftone.control.kubeflow.claiming import was_terminated
from halftone.spec.errors import CheckFailed, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.pipelines import Run, RunState, Task

if TYPE_CHECKING:
    from halftone.kubeflow.rest import Kubeflow

_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INTERRUPTED: Final = 130
# How often a server that answered before is asked in vain, at one question a pause, before we give
# up; a run goes on without us.
_PATIENCE: Final = 120


@click.command("status")
@click.argument("run")
@click.option("--watch", is_flag=True, help="Show it until it ends.")
@click.option(
    "--every",
    type=Finite(0.05, 3600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="With `--watch`: how often to ask.",
)
@server_options
def status(run: str, watch: bool, every: float, server: Server) -> None:
    """Show the tasks of RUN: its id, its name, or a part of its name.

    Exits with 0 if it goes on or succeeded, with 1 if it failed or was terminated.
    """
    finish(complete(_status(run, watch, every, server), run, server), server)


async def _status(run: str, watch: bool, every: float, server: Server) -> Run:
    async with connected(server) as client:
        found = await _found(client, run, server)
        if watch:
            click.echo(f"run {found.display_name}: {server.page(found.run_id)}")
            return await follow(client, found.run_id, every)
        click.echo(f"run {found.display_name}: {found.state}")
        tell(found)
        click.echo(f"page: {server.page(found.run_id)}")
        return found


async def _found(client: "Kubeflow", run: str, server: Server) -> Run:
    from halftone.kubeflow.errors import NotFound

    if _ID.fullmatch(run):
        try:
            return await client.run(run)
        except NotFound as error:
            raise _unknown(f"There is no run '{run}' at {server.endpoint}", run, server) from error
    named = await client.runs(run, server.namespace or "")
    if not named:
        said = f"There is no run with '{run}' in its name at {server.endpoint}"
        raise _unknown(said, run, server)
    exact = next((one for one in named if one.display_name == run), named[0])
    return await client.run(exact.run_id)


def _unknown(said: str, run: str, server: Server) -> RefusedInput:
    way_out = f"look at {server.runs_page}, or name its profile with `--namespace`."
    return RefusedInput(Reason.InvalidJob, run, f"{said}; {way_out}")


async def follow(client: "Kubeflow", run_id: str, every: float) -> Run:
    """Show a run until it ends; a server that is away meanwhile is waited for."""
    with display() as shown:
        while True:
            run = await _patiently(client, run_id, every, shown)
            shown.show(run)
            if run.state.is_final:
                break
            await asyncio.sleep(every)
        # The state of a run is final some seconds before its last tasks are told of.
        await asyncio.sleep(every)
        run = await _patiently(client, run_id, every, shown)
        shown.show(run)
        return run


async def _patiently(client: "Kubeflow", run_id: str, every: float, shown: Display) -> Run:
    from halftone.kubeflow.errors import Unreachable

    failures = 0
    while True:
        try:
            return await client.run(run_id)
        except Unreachable as error:
            failures += 1
            if failures > _PATIENCE or error.code in (401, 403):
                raise
            shown.note(error.sentence)
        await asyncio.sleep(every)


def complete(work: Coroutine[Any, Any, Run], run: str, server: Server) -> Run:
    """Carry `work` out; Ctrl-C ends watching alone."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        again = server.command("halftone", "pipeline", "status", run, "--watch")
        click.echo(f"\nhalftone: a run that was made goes on; `{again}` shows it.", err=True)
        sys.exit(_INTERRUPTED)


def finish(run: Run, server: Server) -> None:
    """Say how it ended; raise if it did not end well."""
    if run.state is RunState.Succeeded:
        click.echo("the run succeeded")
        return
    if not run.state.is_final:
        return
    failed = next((row for row in rows(run) if row.word == "failed"), None)
    if was_terminated(run):
        said = "The run was terminated"
    elif failed is None:
        said = "The run failed"
    else:
        said = f"The task `{failed.task}` failed"
    words = (failed.error if failed else "") or (run.error.message if run.error else "")
    because = f": {words.rstrip('.')}" if words else ""
    gates = failed is not None and failed.task is Task.Validate
    raise CheckFailed(
        Reason.VerdictNotPassed if gates else Reason.Interrupted,
        run.run_id,
        f"{said}{because}. Its log is at {server.page(run.run_id)}; what was finished is kept, so "
        "a new run of the same job goes on from there.",
    )


COMMAND = status
