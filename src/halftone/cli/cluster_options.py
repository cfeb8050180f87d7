"""The options that `submit`, `watch` and `logs` share: which cluster, which namespace."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def cluster_options(command: Command) -> Command:
    """Add `--namespace`, `--kubeconfig` and `--context`."""
    for decorate in (
        click.option("--context", help="A context of the kubeconfig; else the present one."),
        click.option("--kubeconfig", type=click.Path(), help="Else KUBECONFIG, or ~/.kube/config."),
        click.option("--namespace", "-n", help="Else the context's own."),
    ):
        command = decorate(command)
    return command
