"""What `pipeline compile` and `pipeline submit` share: the images of the tasks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from halftone.spec.pipelines import Task


@dataclass(frozen=True)
class Images:
    """What the tasks run in; None where nothing was said."""

    task: str | None
    calibrate: str | None
    validate: str | None

    def of(self, task: str) -> str | None:
        """The image of one task."""
        own = {Task.Calibrate: self.calibrate, Task.Validate: self.validate}
        return own.get(Task(task)) or self.task


def image_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--image` and those of stages that need another; the command gets them as `images`."""

    @wraps(command)
    def imaged(
        *arguments: Any,
        image: str | None,
        image_calibrate: str | None,
        image_validate: str | None,
        **others: Any,
    ) -> None:
        command(*arguments, images=Images(image, image_calibrate, image_validate), **others)

    for decorate in (
        click.option("--image-validate", metavar="IMAGE", help="With vLLM, for gates that serve."),
        click.option("--image-calibrate", metavar="IMAGE", help="With llm-compressor."),
        click.option(
            "--image",
            metavar="IMAGE",
            help="Of all tasks; it has kfp beside Halftone. Name it by digest: else nothing is "
            "taken from the cache.",
        ),
    ):
        imaged = decorate(imaged)
    return imaged
