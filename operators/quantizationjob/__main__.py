"""The process: arguments, tasks, and an end that hands over to another replica at once.

python -m operators.quantizationjob --settings /etc/halftone/settings.yaml
"""

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import yaml
from aiohttp import web
from pydantic import ValidationError

from halftone.control.settings import Settings
from halftone.spec.recipes import packaged_pipeline
from halftone.telemetry.operator import OperatorMetrics
from operators.quantizationjob.api import Api, ApiError
from operators.quantizationjob.apply import Applier
from operators.quantizationjob.health import Health
from operators.quantizationjob.lease import Lease
from operators.quantizationjob.observe import Observer
from operators.quantizationjob.pipelines import Pipelines
from operators.quantizationjob.pump import Pump
from operators.quantizationjob.queue import Queue
from operators.quantizationjob.workers import Workers

log = logging.getLogger("halftone.operator")

# Visits wait for the API server most of the time; more at once would only make it slower.
_WORKERS = 8


def read_settings(path: Path) -> Settings:
    """The installation's settings. Raises click.ClickException with a sentence."""
    try:
        return Settings.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise click.ClickException(f"'{path}' cannot be read: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the settings"
        raise click.ClickException(f"'{path}': `{field}`: {first['msg']}.") from error


@click.command()
@click.option("--settings", "path", type=click.Path(path_type=Path), required=True)
@click.option("--kubeconfig", type=click.Path(), help="Else this pod's service account.")
@click.option("--host", default="0.0.0.0", show_default=True, help="Of health and metrics.")  # noqa: S104
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535))
@click.option("--lease-namespace", help="Where the Lease is; without it there is no election.")
@click.option("--lease-name", default="halftone-operator", show_default=True)
@click.option(
    "--silence",
    default=100.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Seconds without a word after which a watch is begun anew; bookmarks come every 60.",
)
@click.option("--log-level", default="INFO", type=click.Choice(["DEBUG", "INFO", "WARNING"]))
def main(
    path: Path,
    kubeconfig: str | None,
    host: str,
    port: int,
    lease_namespace: str | None,
    lease_name: str,
    silence: float,
    log_level: str,
) -> None:
    """Carry out QuantizationJobs."""
    logging.basicConfig(
        level=log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    for noisy in ("httpx", "kr8s", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    settings = read_settings(path)
    election = None if lease_namespace is None else (lease_namespace, lease_name)
    try:
        asyncio.run(_run(settings, kubeconfig, (host, port), election, silence))
    except ApiError as error:
        raise click.ClickException(f"The API server cannot be reached: {error}.") from error


async def _run(
    settings: Settings,
    kubeconfig: str | None,
    address: tuple[str, int],
    election: tuple[str, str] | None,
    silence: float,
) -> None:
    """Until SIGTERM, or until one of the tasks ends, which it should not."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    identity = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    metrics, queue = OperatorMetrics(), Queue()
    api = await Api.connect(kubeconfig, metrics.count_request)
    pump = Pump(api, queue, metrics, settings.watchNamespaces, silence)
    lease = None if election is None else Lease(api, *election, identity)
    health = Health(metrics, lambda: _refresh(metrics, queue, pump), pump.troubles, pump.is_useful)
    runner = await _served(health, address, api)
    pipelines = None
    if settings.kubeflowPipelines is not None:
        pipelines = Pipelines(settings, api, pump.indexes, metrics)
    observer = Observer(api, pump.indexes, identity=identity, pipelines=pipelines)
    applier = Applier(api, identity, pipelines)
    pipeline = None if pipelines is None else packaged_pipeline()
    workers = Workers(queue, observer, applier, settings, metrics, pipeline)
    watching = asyncio.create_task(pump.run(), name="watching")
    leading = asyncio.create_task(_lead(pump, lease, workers, metrics, identity), name="leading")
    health.watch([watching, leading])
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([stopping, watching, leading], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (leading, watching, stopping):
            task.cancel()
        await asyncio.gather(leading, watching, stopping, return_exceptions=True)
        if lease is not None:
            await lease.release()
        await runner.cleanup()
        if pipelines is not None:
            await pipelines.close()
        await api.close()
    for task in (watching, leading):
        if not task.cancelled() and task.exception() is not None:
            raise task.exception() or AssertionError


async def _served(health: Health, address: tuple[str, int], api: Api) -> web.AppRunner:
    """What answers the kubelet. Raises click.ClickException for an address that is not ours."""
    try:
        return await health.serve(*address)
    except OSError as error:
        await api.close()
        raise click.ClickException(
            f"Health and metrics cannot be told at `--host {address[0]}` and `--port {address[1]}` "
            f"({error.strerror}); choose others."
        ) from error


async def _lead(
    pump: Pump, lease: Lease | None, workers: Workers, metrics: OperatorMetrics, identity: str
) -> None:
    """Act while this replica leads; return when it leads no more, which ends the process.

    A process that lost its lease ends: what it was about to write is thereby dropped.
    """
    await pump.ready()
    if lease is not None:
        await lease.acquire()
    log.info("%s leads", identity)
    metrics.is_leader.set(1)
    pump.begin()
    tasks = [asyncio.create_task(workers.work()) for _ in range(_WORKERS)]
    if lease is not None:
        tasks.append(asyncio.create_task(lease.keep()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        log.error("%s leads no more, and ends", identity)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _refresh(metrics: OperatorMetrics, queue: Queue, pump: Pump) -> None:
    """What is read when it is asked for, and not counted as it happens."""
    metrics.queue_age.set(queue.age())
    metrics.queue_length.set(len(queue))
    metrics.read_jobs(pump.indexes.conditions)
    metrics.read_headrooms(pump.indexes.headrooms)
    metrics.read_stages(pump.indexes.running, datetime.now(UTC))


if __name__ == "__main__":
    main()
