"""`halftone watch`: a job in a cluster until it ends, as a bar or as lines."""

import sys
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final

import click

from halftone.cli.cluster_options import Place, cluster_options
from halftone.cli.watch_display import Display, display
from halftone.control.telling import serving_line
from halftone.spec.cluster import RETRY_ANNOTATION, Condition, Ended
from halftone.spec.errors import CheckFailed, EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.status import ConditionStatus, JobStatus

# Exit codes are those of `halftone run`. A condition has a reason and no class of error; what is
# in neither set is the input's fault. EngineFailed and QuotaExceeded are raised in two classes.
CHECKS: Final = frozenset(
    {
        Reason.DefectsFound,
        Reason.DigestDiffers,
        Reason.EngineFailed,
        Reason.GateFailed,
        Reason.GateInconclusive,
        Reason.ReportChanged,
        Reason.RequirementNotMet,
        Reason.SignatureInvalid,
        Reason.VerdictNotPassed,
    }
)
FAULTS: Final = frozenset(
    {
        Ended.BackoffLimitExceeded,
        Ended.DeadlineExceeded,
        Ended.OutOfMemory,
        Ended.StageFailed,
        Reason.EngineNotSupported,
        Reason.InternalError,
        Reason.Interrupted,
        Reason.MissingDependency,
        Reason.OutOfSpace,
        Reason.OutputBusy,
        Reason.QuotaExceeded,
        Reason.StorageFailed,
        Reason.StoreUnavailable,
        Reason.TooLittleMemory,
    }
)
_KNOWN: Final = frozenset(Reason) | frozenset(Ended)
_INTERRUPTED: Final = 130


@click.command()
@click.argument("name")
@cluster_options
def watch(name: str, place: Place) -> None:
    """Show the QuantizationJob NAME until it ends.

    Exits as `halftone run` does: 0 when it succeeded, 1 when a check failed, 2 when something was
    refused, 3 when its surroundings failed. Ctrl-C ends watching alone.
    """
    from halftone.cli.cluster import run

    try:
        ended = run(_watch(name, place))
    except KeyboardInterrupt:
        _goes_on(name, place)
        sys.exit(_INTERRUPTED)
    if ended is None:
        raise RefusedInput(Reason.InvalidJob, name, f"'{name}' was deleted before it ended.")
    _finish(name, ended)


async def _watch(name: str, place: Place) -> JobStatus | None:
    from halftone.cli.cluster import connected, status_of

    with display(name) as shown:
        async with (
            connected(place.namespace, place.kubeconfig, place.context) as cluster,
            aclosing(cluster.follow(name, shown.note)) as visits,
        ):
            async for found in visits:
                status = status_of(found)
                _show(found, status, shown)
                summary = status.condition(Condition.Succeeded)
                over = summary is not None and summary.status is not ConditionStatus.UNKNOWN
                if over and not _is_behind(found, status):
                    return status
    return None


def _show(found: Mapping[str, Any], status: JobStatus, shown: Display) -> None:
    if found["metadata"].get("deletionTimestamp"):
        shown.note("the job is being deleted.")
    elif _is_behind(found, status):
        shown.note("no operator has looked yet at what was asked for last.")
    shown.show(status)


def _is_behind(found: Mapping[str, Any], status: JobStatus) -> bool:
    """Whether the status is not yet about this spec, or about the retry that is asked for.

    A deletion makes a generation too, and no status will be about that one.
    """
    if found["metadata"].get("deletionTimestamp"):
        return False
    if status.observedGeneration != found["metadata"]["generation"]:
        return True
    summary = status.condition(Condition.Succeeded)
    wanted = (found["metadata"].get("annotations") or {}).get(RETRY_ANNOTATION, "")
    failed = summary is not None and summary.status is ConditionStatus.FALSE
    return bool(failed and status.startTime and wanted and wanted != (status.retry or ""))


def _goes_on(name: str, place: Place) -> None:
    again = place.command("halftone", "watch", name)
    end = place.command("kubectl", "delete", "qj", name)
    click.echo(
        f"\nhalftone: '{name}' goes on in the cluster; `{again}` shows it again, and `{end}` "
        "ends it.",
        err=True,
    )


def _finish(name: str, status: JobStatus) -> None:
    """Say how it ended; raise what `halftone run` would have raised."""
    summary = status.condition(Condition.Succeeded)
    assert summary is not None
    if summary.status is ConditionStatus.TRUE:
        artifact = status.artifact
        if artifact is None:
            click.echo(f"{summary.reason}: {summary.message}")
            return
        line = serving_line(name, artifact.uri, artifact.revision, artifact.digest)
        click.echo(f"{summary.reason}: {artifact.uri}")
        click.echo(f"serve it with: {line}")
        return
    raise fault(status)


def fault(status: JobStatus) -> HalftoneError:
    """A failed job as the error that its stage raised."""
    row = status.condition(Condition.Succeeded)
    assert row is not None
    failed = next((one for one in status.conditions if one.status is ConditionStatus.FALSE), row)
    kind: type[HalftoneError] = RefusedInput
    if row.reason in CHECKS:
        kind = CheckFailed
    elif row.reason in FAULTS or row.reason not in _KNOWN:
        kind = EnvironmentFault
    known = Reason(row.reason) if row.reason in frozenset(Reason) else Reason.InvalidJob
    return kind(known, str(failed.type), f"{failed.type} failed: {row.reason}: {row.message}")
