"""The options that `submit`, `watch` and `logs` share: which cluster, which namespace.

A job's own namespace and `--namespace` are held together here for pipelines too."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from halftone.spec.errors import RefusedInput
from halftone.spec.job import QuantizationJob
from halftone.spec.names import Reason


@dataclass(frozen=True)
class Place:
    """Where a command looks: what was given on the command line, as kubectl has it."""

    namespace: str | None
    kubeconfig: str | None
    context: str | None

    def command(self, *words: str, namespace: str | None = None) -> str:
        """The command line `words` with options that lead to the same cluster, to be copied.

        Of halftone or kubectl, which call them alike. `namespace` is for where none was given.
        """
        given = {
            "-n": self.namespace or namespace,
            "--kubeconfig": self.kubeconfig,
            "--context": self.context,
        }
        options = [word for name, value in given.items() if value for word in (name, value)]
        return shlex.join([*words, *options])


def one_namespace(job: QuantizationJob, given: str | None) -> str | None:
    """The file's namespace or that of `--namespace`; as with kubectl they may not differ.

    Raises RefusedInput.
    """
    own = job.metadata.namespace
    if own is not None and given not in (None, own):
        raise RefusedInput(
            Reason.InvalidJob,
            "metadata.namespace",
            f"`metadata.namespace` is '{own}', and `--namespace` is '{given}'; leave one of them "
            "out.",
        )
    return own or given


def cluster_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--namespace`, `--kubeconfig` and `--context`; the command gets them as `place`."""

    @wraps(command)
    def placed(
        *arguments: Any,
        namespace: str | None,
        kubeconfig: str | None,
        context: str | None,
        **others: Any,
    ) -> None:
        command(*arguments, place=Place(namespace, kubeconfig, context), **others)

    file = click.Path(exists=True, dir_okay=False)
    for decorate in (
        click.option("--context", help="A context of the kubeconfig; else the present one."),
        click.option("--kubeconfig", type=file, help="Else KUBECONFIG, or ~/.kube/config."),
        click.option("--namespace", "-n", help="Else the context's own."),
    ):
        placed = decorate(placed)
    return placed
