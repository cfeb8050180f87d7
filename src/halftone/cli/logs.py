"""`halftone logs`: what the pods of a job say, those of the stage that matters now."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from halftone.cli.cluster_options import Place, cluster_options
from halftone.control.pods import CONTAINER
from halftone.spec.cluster import ATTEMPT_LABEL, JOB_LABEL, STAGE_LABEL, ChildStage, Condition
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.pipelines import JOB_UID_LABEL, RUN_CONTAINER, Task
from halftone.spec.status import ConditionStatus, JobStatus

if TYPE_CHECKING:
    from halftone.cli.cluster import Cluster

Pod = Mapping[str, Any]

# How often --follow looks for pods that have begun.
_LOOK_SECONDS: Final = 2.0
# What a shell says of a process whose reader went away: 128 + SIGPIPE.
_PIPE_CLOSED: Final = 141
# A run of a pipeline has tasks beside the stages that Jobs have.
_STAGES: Final = tuple(dict.fromkeys(one.value for one in (*ChildStage, *Task)))


@click.command()
@click.argument("name")
@click.option("--stage", type=click.Choice(_STAGES), help="Only this one.")
@click.option("--follow", "-f", is_flag=True, help="Go on as pods speak, until the job ends.")
@click.option(
    "--pod-namespace",
    metavar="NAMESPACE",
    help="Where pods of pipeline runs are, if the operator has them in one namespace for all.",
)
@cluster_options
def logs(
    name: str, stage: str | None, follow: bool, pod_namespace: str | None, place: Place
) -> None:
    """Print the logs of the QuantizationJob NAME: of the stage that runs, or failed, or ran last.

    Lines of several pods begin with the pod's name.
    """
    from halftone.cli.cluster import run

    try:
        run(_logs(name, stage, follow, pod_namespace, place))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_PIPE_CLOSED)


async def _logs(
    name: str, stage: str | None, follow: bool, pod_namespace: str | None, place: Place
) -> None:
    from halftone.cli.cluster import connected

    async with connected(place.namespace, place.kubeconfig, place.context) as cluster:
        status = await _status(cluster, name)
        there = await _pods_of(cluster, name, stage, pod_namespace)
        pods = await there.found()
        if follow and not _is_over(status):
            await _Following(cluster, name, there).go()
            return
        shown = chosen(pods)
        begun = [pod for pod in shown if _has_begun(pod)]
        if not begun:
            raise _nothing(name, stage, status, shown)
        for pod in begun:
            await _print(there.cluster, pod, follow=False, prefixed=len(begun) > 1)
        for pod in shown:
            if not _has_begun(pod):
                click.echo(f"halftone: {_waits(pod)}", err=True)


@dataclass(frozen=True)
class _Pods:
    """Pods of one job: the namespace that they are in, and the labels that they have."""

    cluster: "Cluster"
    selector: str

    async def found(self) -> list[dict[str, Any]]:
        """Those that there are now, the oldest first."""
        return await self.cluster.pods(self.selector)


async def _pods_of(
    cluster: "Cluster", name: str, stage: str | None, pod_namespace: str | None
) -> _Pods:
    wanted = f"{JOB_LABEL}={name},{f'{STAGE_LABEL}={stage}' if stage else STAGE_LABEL}"
    if pod_namespace in (None, cluster.namespace):
        return _Pods(cluster, wanted)
    # Jobs of one name in two namespaces have their pods in this one.
    uid = (await cluster.job(name))["metadata"]["uid"]
    return _Pods(cluster.beside(str(pod_namespace)), f"{wanted},{JOB_UID_LABEL}={uid}")


class _Following:
    """Prints pods side by side as they begin, until the job ends."""

    def __init__(self, cluster: "Cluster", name: str, there: _Pods) -> None:
        self._cluster = cluster
        self._name = name
        self._there = there
        self._followed: set[str] = set()
        self._told: set[str] = set()

    async def go(self) -> None:
        """Look for new pods again and again; end when there can be no more."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while not await self._look(tasks):
                    await asyncio.sleep(_LOOK_SECONDS)
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def _look(self, tasks: asyncio.TaskGroup) -> bool:
        """Consider every pod there is; whether there will be no more."""
        over = _is_over(await _status(self._cluster, self._name))
        pods = await self._there.found()
        if not self._followed:
            # What other stages said before is not asked for.
            now = chosen(pods)
            self._followed |= {_name(pod) for pod in pods if pod not in now}
        for pod in pods:
            self._consider(pod, tasks)
        return over

    def _consider(self, pod: Pod, tasks: asyncio.TaskGroup) -> None:
        name = _name(pod)
        if name in self._followed:
            return
        if _has_begun(pod):
            self._followed.add(name)
            tasks.create_task(_print(self._there.cluster, pod, follow=True, prefixed=True))
            return
        waits = _waits(pod)
        if waits not in self._told:
            self._told.add(waits)
            click.echo(f"halftone: {waits}", err=True)


def chosen(pods: Sequence[Pod]) -> list[Pod]:
    """Pods of one child: that which runs, else failed, else was made last; the oldest first."""
    groups: dict[tuple[str, str], list[Pod]] = {}
    for pod in pods:
        labels = pod["metadata"]["labels"]
        groups.setdefault((labels[STAGE_LABEL], labels.get(ATTEMPT_LABEL, "")), []).append(pod)
    return max(groups.values(), key=_importance, default=[])


def _importance(pods: Sequence[Pod]) -> tuple[bool, str, bool]:
    phases = {pod["status"].get("phase") for pod in pods}
    newest = max(str(pod["metadata"]["creationTimestamp"]) for pod in pods)
    return "Running" in phases, newest, "Failed" in phases


async def _status(cluster: "Cluster", name: str) -> JobStatus:
    from halftone.cli.cluster import status_of

    return status_of(await cluster.job(name))


async def _print(cluster: "Cluster", pod: Pod, *, follow: bool, prefixed: bool) -> None:
    """The log of one pod; that it cannot be read is no reason not to read the others."""
    name = _name(pod)
    if not prefixed:
        click.echo(f"halftone: pod {name}", err=True)
    try:
        async with aclosing(cluster.log(name, _container(pod), follow=follow)) as lines:
            async for line in lines:
                click.echo(f"[{name}] {line}" if prefixed else line)
    except (RefusedInput, EnvironmentFault) as error:
        if error.reason is Reason.AccessDenied:
            raise
        click.echo(f"halftone: the log of '{name}' cannot be read: {error.message}", err=True)


def _name(pod: Pod) -> str:
    return str(pod["metadata"]["name"])


def _container(pod: Pod) -> str:
    """The one that does the work, in a Job's pod or in that of a run."""
    return RUN_CONTAINER if JOB_UID_LABEL in pod["metadata"]["labels"] else CONTAINER


def _has_begun(pod: Pod) -> bool:
    return pod["status"].get("phase") in ("Running", "Succeeded", "Failed")


def _waits(pod: Pod) -> str:
    """Why a pod has not begun, in the scheduler's or the kubelet's words."""
    status = pod["status"]
    rows = {row["type"]: row for row in status.get("conditions") or ()}
    scheduled = rows.get("PodScheduled") or {}
    if scheduled.get("status") == "False":
        why: Pod = scheduled
    else:
        containers = {row["name"]: row for row in status.get("containerStatuses") or ()}
        container: Pod = containers.get(_container(pod), {})
        why = (container.get("state") or {}).get("waiting") or {}
    said = ": ".join(str(why[key]) for key in ("reason", "message") if why.get(key))
    return f"pod {_name(pod)} has not begun ({said or 'no node has taken it yet'})"


def _is_over(status: JobStatus) -> bool:
    row = status.condition(Condition.Succeeded)
    return row is not None and row.status is not ConditionStatus.UNKNOWN


def _nothing(name: str, stage: str | None, status: JobStatus, pods: Sequence[Pod]) -> RefusedInput:
    """There is no log to read: what is waited for, or that the pods are gone."""
    of_stage = f" of the stage `{stage}`" if stage else ""
    row = status.condition(Condition.Succeeded)
    if pods:
        said = f"'{name}' has no log{of_stage} yet: {'; '.join(map(_waits, pods))}."
    elif row is None:
        said = f"'{name}' has no pod yet, and no operator has looked at it; is one installed?"
    elif _is_over(status):
        said = (
            f"The pods{of_stage} of '{name}' are gone, and their logs with them. What they found "
            f"is kept: {row.reason}: {row.message}"
        )
    else:
        said = f"'{name}' has no pod{of_stage} now: {row.reason}: {row.message}"
    return RefusedInput(Reason.InvalidJob, name, said)
