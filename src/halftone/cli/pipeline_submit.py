"""`halftone pipeline submit`: a run that carries a QuantizationJob out, without the operator.

It renders the packaged pipeline as the operator does, with settings made of its options.
"""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from pydantic import ValidationError

from halftone.cli.cluster_options import one_namespace
from halftone.cli.numbers import Finite
from halftone.cli.pipeline_access import Server, connected, server_options
from halftone.cli.pipeline_parts import Images, image_options
from halftone.cli.pipeline_status import complete, finish, follow
from halftone.control.acceptance import first_refusal
from halftone.control.kubeflow.accepting import run_refusal
from halftone.control.kubeflow.claiming import next_number, run_name
from halftone.control.kubeflow.rendering import render
from halftone.control.observed import Observed
from halftone.control.settings import KubeflowSettings, Placement, Settings, StageDefaults
from halftone.spec.documents import canonical_json
from halftone.spec.errors import RefusedInput
from halftone.spec.job import JobSpec, QuantizationJob
from halftone.spec.names import API_VERSION, JOB_KIND, Reason
from halftone.spec.pipelines import Run, RunRequest, RunState
from halftone.spec.recipes import packaged_pipeline, parse_job, read_yaml
from halftone.spec.running import Runner, StageName

if TYPE_CHECKING:
    from halftone.kubeflow.rest import Kubeflow

# Where Kubeflow Pipelines runs pods unless it has profiles.
_NAMESPACE: Final = "kubeflow"
# A job's uid is made of its content, so that the same job is found again.
_UIDS: Final = uuid.UUID("0f4d6c0e-5f0e-4d0c-9d8e-6b8f4f6f7a51")
# Stages that have a device, which `--device` chooses.
_ON_DEVICES: Final = frozenset({StageName.Calibrate, StageName.Validate})
_BY_DIGEST: Final = re.compile(r".+@sha256:[0-9a-f]{64}")
_LABEL: Final = re.compile(r"([^=\s]+)=([^=\s]*)")


@dataclass(frozen=True)
class Installation:
    """What an operator would have in its settings."""

    experiment: str
    pipeline_root: str | None
    service_account: str | None
    device: tuple[str, ...]


def _installation_options(command: Callable[..., None]) -> Callable[..., None]:
    @wraps(command)
    def installed(
        *arguments: Any,
        experiment: str,
        pipeline_root: str | None,
        service_account: str | None,
        device: tuple[str, ...],
        **others: Any,
    ) -> None:
        given = Installation(experiment, pipeline_root, service_account, device)
        command(*arguments, installation=given, **others)

    for decorate in (
        click.option(
            "--device",
            multiple=True,
            metavar="LABEL=VALUE",
            help="Of the nodes that calibrate and run the gates, such as nvidia.com/gpu.product=…; "
            "reports are cached by it. May be repeated.",
        ),
        click.option("--service-account", help="Of all tasks; else the server's default."),
        click.option("--pipeline-root", metavar="URI", help="Where Kubeflow puts pages."),
        click.option("--experiment", default="halftone", show_default=True),
    ):
        installed = decorate(installed)
    return installed


@click.command("submit")
@click.argument("job", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--again", is_flag=True, help="Make a run though one of this very job is there.")
@click.option("--wait", is_flag=True, help="Show it until it ends, and exit as it ended.")
@click.option("--every", type=Finite(0.05, 3600), default=5.0, hidden=True)
@image_options
@_installation_options
@server_options
def submit(
    job: Path,
    again: bool,
    wait: bool,
    every: float,
    images: Images,
    installation: Installation,
    server: Server,
) -> None:
    """Make a run that carries out the QuantizationJob in JOB.yaml.

    It is checked here first, as by the operator. A job of which a run goes on, or has succeeded, is
    not run a second time without `--again`; after a failure it is, and goes on from finished work.
    """
    document = {"apiVersion": API_VERSION, "kind": JOB_KIND, **read_yaml(job)}
    order = Order.of(parse_job(document, str(job)), server)
    settings = _settings(images, installation, server)
    _refuse(order, settings, job)
    _warn(images)
    run = complete(_submit(order, settings, again, wait, every, server), order.uid, server)
    if wait:
        finish(run, server)


def _warn(images: Images) -> None:
    given = (images.task, images.calibrate, images.validate)
    loose = [image for image in given if image and not _BY_DIGEST.fullmatch(image)]
    if loose:
        click.echo(
            f"halftone: warning: '{loose[0]}' is not named by a digest (`@sha256:…`), so nothing "
            "is taken from Kubeflow's cache.",
            err=True,
        )


@dataclass(frozen=True)
class Order:
    """A job with what an API server would have added."""

    metadata: Mapping[str, Any]
    spec: JobSpec

    @classmethod
    def of(cls, job: QuantizationJob, server: Server) -> "Order":
        """The same job has the same uid."""
        namespace = one_namespace(job, server.namespace) or _NAMESPACE
        spec = job.spec.model_copy(update={"runner": Runner.KubeflowPipelines})
        content = spec.model_dump(mode="json", exclude_unset=True)
        told = canonical_json({"namespace": namespace, "name": job.metadata.name, "spec": content})
        metadata = {
            "namespace": namespace,
            "name": job.metadata.name,
            "uid": str(uuid.uuid5(_UIDS, told.decode())),
            "generation": 1,
        }
        return cls(metadata, spec)

    @property
    def uid(self) -> str:
        """What its runs are looked up by."""
        return str(self.metadata["uid"])

    @property
    def namespace(self) -> str:
        """Of its pods."""
        return str(self.metadata["namespace"])


def _settings(images: Images, installation: Installation, server: Server) -> Settings:
    """What an operator that was installed with these options would have read."""
    if not images.task:
        raise RefusedInput(
            Reason.InvalidJob,
            "--image",
            "There is no image for the tasks; name one with `--image`, best by its digest "
            "(`make images` builds halftone-task).",
        )
    selector = {}
    for given in installation.device:
        label = _LABEL.fullmatch(given)
        if label is None:
            said = f"`--device` is '{given}', which is not a node's label as LABEL=VALUE."
            raise RefusedInput(Reason.InvalidJob, "--device", said)
        selector[label[1]] = label[2]
    try:
        return Settings(
            stages={stage: _stage(stage, images, selector) for stage in StageName},
            taskImage=images.task,
            kubeflowPipelines=KubeflowSettings(
                endpoint=server.endpoint,
                uiUrl=server.ui_url,
                experiment=installation.experiment,
                pipelineRoot=installation.pipeline_root,
                serviceAccountName=installation.service_account,
            ),
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = _OPTIONS.get(str(first["loc"][-1]), "--image")
        said = f"`{option}` is '{first['input']}', which it cannot be: {first['msg']}."
        raise RefusedInput(Reason.InvalidJob, option, said) from error


_OPTIONS: Final = {
    "endpoint": "--endpoint",
    "uiUrl": "--ui-url",
    "experiment": "--experiment",
    "pipelineRoot": "--pipeline-root",
    "serviceAccountName": "--service-account",
    "engineImage": "--image-validate",
}


def _stage(stage: StageName, images: Images, selector: Mapping[str, str]) -> StageDefaults:
    own = images.calibrate if stage is StageName.Calibrate else None
    return StageDefaults(
        image=own or str(images.task),
        engineImage=images.validate if stage is StageName.Validate else None,
        placement=Placement(nodeSelector=selector if stage in _ON_DEVICES else {}),
    )


def _refuse(order: Order, settings: Settings, file: Path) -> None:
    """The operator's own judgement, made before anything is sent."""
    observed = Observed(order.metadata, {}, {}, datetime.now(UTC))
    refusal = first_refusal(order.spec, observed) or run_refusal(order.spec, observed, settings)
    volume = order.spec.workVolume
    said = refusal.message if refusal is not None else None
    if said is None and volume is not None and volume.storageClassName is not None:
        said = (
            "`spec.workVolume.storageClassName` asks for a volume, which the operator makes and "
            "this command does not; name a claim that is there with `claimName`."
        )
    if said is not None:
        told = f"'{file}' cannot run as a pipeline as it is: {said}"
        raise RefusedInput(Reason.InvalidJob, str(file), told)


async def _submit(
    order: Order, settings: Settings, again: bool, wait: bool, every: float, server: Server
) -> Run:
    async with connected(server) as client:
        there = await client.runs(order.uid, order.namespace)
        run = None if again else _in_the_way(there)
        if run is not None:
            click.echo(f"run {run.display_name} of this very job is there already: {run.state}")
        else:
            number = next_number(order.uid, [one.display_name for one in there])
            name = run_name(order.metadata, number)
            request = render(packaged_pipeline(), order.metadata, order.spec, settings, name)
            run, ours = await _made(client, request, order, settings)
            told = "created" if ours else "was made by somebody else at the same moment"
            click.echo(f"run {name} {told}")
        click.echo(f"page: {server.page(run.run_id)}")
        if wait:
            return await follow(client, run.run_id, every)
        if not run.state.is_final:
            words = ("halftone", "pipeline", "status", run.run_id, "--watch")
            click.echo(f"watch it with: {server.command(*words)}")
        return run


def _in_the_way(there: Sequence[Run]) -> Run | None:
    """A run that goes on or has succeeded; the newest."""
    return next(
        (one for one in there if not one.state.is_final or one.state is RunState.Succeeded), None
    )


async def _made(
    client: "Kubeflow", request: RunRequest, order: Order, settings: Settings
) -> tuple[Run, bool]:
    """The run, and whether it is ours.

    The server takes any number of runs of one name. So we look again afterwards: of several that
    were made at the same moment the first stays, and each of the others is ended by its maker.
    """
    from halftone.kubeflow.errors import Unreachable

    assert settings.kubeflowPipelines is not None
    experiment = await client.experiment(settings.kubeflowPipelines.experiment, order.namespace)
    try:
        made = await client.create(request, experiment)
    except Unreachable:
        # The answer may be what was lost.
        named = await _named(client, request, order)
        if not named:
            raise
        return named[0], True
    first = next(iter(await _named(client, request, order)), made)
    if first.run_id == made.run_id:
        return made, True
    await client.terminate(made.run_id)
    await client.delete(made.run_id)
    return first, False


async def _named(client: "Kubeflow", request: RunRequest, order: Order) -> list[Run]:
    """All of that very name, the first one first."""
    there = await client.runs(order.uid, order.namespace)
    named = [run for run in there if run.display_name == request.display_name]
    return sorted(named, key=lambda run: (run.created_at or "", run.run_id))


COMMAND = submit
