"""What verbs share that run until they are told to end: signals, metrics, and a log.

Called by `autoscale` and `doctor`.
"""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import click

from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason


@contextmanager
def told_where(serving: Any, port: int) -> Iterator[None]:
    """Metrics, and where they are."""
    try:
        found = serving.__enter__()
    except OSError as error:
        raise EnvironmentFault(
            Reason.EndpointUnavailable,
            "--metrics-port",
            f"`--metrics-port {port}` cannot be listened at ({error.strerror}); choose another.",
        ) from error
    try:
        click.echo(f"halftone: metrics on port {found}", err=True)
        yield
    finally:
        serving.__exit__(None, None, None)


@contextmanager
def ended() -> Iterator[Event]:
    """What SIGTERM and Ctrl-C set; a look that is under way comes to its end."""
    stop = Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }  # fmt: skip
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def log_to_stderr() -> None:
    """What happens, with its time."""
    logging.basicConfig(
        level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    for noisy in ("httpx", "httpcore", "kr8s"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
