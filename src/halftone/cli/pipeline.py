"""`halftone pipeline`: the Kubeflow pipeline for people without the operator.

Its verbs are in `pipeline_compile`, `pipeline_submit` and `pipeline_status`.
"""

from typing import Final

import click

from halftone.cli.verbs import Verbs

_VERBS: Final = {
    "compile": "Write the pipeline as a file that Kubeflow takes.",
    "submit": "Make a run that carries a QuantizationJob out.",
    "status": "Show the tasks of a run.",
}


@click.group(cls=Verbs, verbs=_VERBS, module="halftone.cli.pipeline_{}", attribute="COMMAND")
def pipeline() -> None:
    """Compile, submit and follow the Kubeflow pipeline (docs/pipelines.md)."""
