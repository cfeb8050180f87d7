"""`halftone pipeline compile`: the pipeline as a file, to be uploaded to Kubeflow as it is.

What it writes has neither Secrets nor volumes nor placement, which depend on a job: those are put
in by `halftone pipeline submit` and by the operator.
"""

import sys
from pathlib import Path
from typing import Any

import click
import yaml

from halftone.cli.pipeline_parts import Images, image_options
from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason
from halftone.spec.recipes import packaged_pipeline


@click.command("compile")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; else standard output.",
)
@image_options
def compile_pipeline(output: Path | None, images: Images) -> None:
    """Write the pipeline as a file that Kubeflow takes.

    kfp reads it before it is written. A run of it needs the parameter `job`: a QuantizationJob as
    JSON, with paths as they are in the pods.
    """
    document = packaged_pipeline()
    for name, executor in document["deploymentSpec"]["executors"].items():
        image = images.of(name.removeprefix("exec-"))
        if image is not None:
            executor["container"]["image"] = image
    text = yaml.safe_dump(document, sort_keys=True, width=100, allow_unicode=True)
    _read_by_kfp(text)
    if images.task is None:
        click.echo(
            "halftone: warning: its images are the placeholder `halftone-task`; name them with "
            "`--image`, or replace them before you upload the file.",
            err=True,
        )
    if output is None:
        sys.stdout.write(text)
        return
    output.write_text(text)
    click.echo(f"wrote {output}")


def _read_by_kfp(text: str) -> Any:
    """Have the SDK load what we are about to hand out."""
    try:
        from kfp.components import load_component_from_text
    except ModuleNotFoundError as error:
        name = (error.name or "kfp").partition(".")[0]
        raise EnvironmentFault(
            Reason.MissingDependency,
            "kfp",
            f"Compiling needs '{name}', which is not installed; install it with: pip install "
            "'halftone[pipelines]'. `halftone pipeline submit` needs none.",
        ) from error
    return load_component_from_text(text)


COMMAND = compile_pipeline
