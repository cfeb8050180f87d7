"""What `pipeline compile` and `pipeline submit` share: the packaged pipeline and its images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib import resources
from typing import Any

import click
import yaml

from halftone.spec.pipelines import PIPELINE_FILE, Task


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


def packaged_pipeline() -> dict[str, Any]:
    """The compiled pipeline that ships with Halftone, a new copy."""
    text = resources.files("halftone.recipes").joinpath(PIPELINE_FILE).read_text("utf-8")
    found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    assert isinstance(found, dict)
    return found


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
