"""`halftone watch`: a job in a cluster until it ends, as a bar or as lines."""

import click

from halftone.cli.cluster_options import cluster_options
from halftone.cli.progress import Shown
from halftone.control.telling import serving_line
from halftone.spec.cluster import Condition, Ended
from halftone.spec.errors import CheckFailed, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.status import ConditionRow, ConditionStatus, JobStatus


@click.command()
@click.argument("name")
@cluster_options
def watch(name: str, namespace: str | None, kubeconfig: str | None, context: str | None) -> None:
    """Show the QuantizationJob NAME until it ends.

    Exits 0 when it succeeded, 2 when it was refused, 1 when it failed.
    """
    from halftone.cli.cluster import run

    ended = run(_watch(name, namespace, kubeconfig, context))
    if ended is None:
        raise RefusedInput(Reason.InvalidJob, name, f"'{name}' was deleted before it ended.")
    _finish(name, ended)


async def _watch(
    name: str, namespace: str | None, kubeconfig: str | None, context: str | None
) -> JobStatus | None:
    from halftone.cli.cluster import connected

    told: dict[Condition, tuple[ConditionStatus, str, str]] = {}
    with _bar() as bar:
        async with connected(namespace, kubeconfig, context) as cluster:
            async for found in cluster.follow(name):
                status = JobStatus.model_validate(found.get("status") or {})
                for row in status.conditions:
                    said = row.status, row.reason, row.message
                    if told.get(row.type) != said and row.type is not Condition.Succeeded:
                        told[row.type] = said
                        bar.tell(row)
                bar.show(status)
                summary = status.condition(Condition.Succeeded)
                if summary is not None and summary.status is not ConditionStatus.UNKNOWN:
                    return status
    return None


def _finish(name: str, status: JobStatus) -> None:
    summary = status.condition(Condition.Succeeded)
    assert summary is not None
    if summary.status is ConditionStatus.TRUE:
        line = serving_line(name, status)
        click.echo(
            f"{summary.reason}: {status.artifact.uri}" if status.artifact else summary.reason
        )
        if line:
            click.echo(f"serve it with: {line}")
        return
    accepted = status.condition(Condition.Accepted)
    refused = accepted is not None and accepted.status is ConditionStatus.FALSE
    kind = RefusedInput if refused else CheckFailed
    raise kind(Reason.GateFailed, name, f"{summary.reason}: {summary.message}")


class _bar:  # noqa: N801 - reads as a noun where it is used
    """A rich bar on a terminal; elsewhere only what `tell` prints."""

    def __init__(self) -> None:
        self._progress: object | None = None
        self._shown: Shown | None = None
        self._done = 0

    def __enter__(self) -> "_bar":
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def tell(self, row: ConditionRow) -> None:
        """One line for a condition that changed."""
        if row.reason == Ended.NotReached:
            return
        sign = {"True": "✓", "False": "✗"}.get(row.status, "…")
        click.echo(f"{sign} {row.type}: {row.reason}: {row.message}", err=True)

    def show(self, status: JobStatus) -> None:
        """How far the running stage is."""
        if status.progress is None:
            self._end()
            return
        if self._shown is None:
            from halftone.cli.progress import progress

            self._progress = progress("quantize", status.progress.bytesTotal)
            self._shown = self._progress.__enter__()
            self._done = 0
        self._shown.advance(max(0, status.progress.bytesDone - self._done))
        self._done = max(self._done, status.progress.bytesDone)

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
        self._progress = self._shown = None
