"""`halftone inspect`: look for defects in anyone's quantized checkpoint."""

import json

import click

from halftone.spec.errors import CheckFailed
from halftone.spec.names import Reason


@click.command()
@click.argument("checkpoint")
@click.option("--source", help="The full-precision checkpoint that it was made of.")
@click.option("--json", "as_json", is_flag=True, help="Print the inspection as JSON.")
@click.option(
    "--budget-mb",
    type=click.IntRange(min=1),
    default=25,
    show_default=True,
    help="Most megabytes to fetch from a remote store.",
)
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Most requests to make to a remote store.",
)
def inspect(
    checkpoint: str, source: str | None, as_json: bool, budget_mb: int, requests: int
) -> None:
    """Inspect CHECKPOINT: a directory, hf://org/name@revision or s3://bucket/prefix.

    Reads a directory whole; of a remote checkpoint its headers and global scales, within the
    budget. With --source the weight error is measured, as a server will see it. Exits 1 when a
    defect is found.
    """
    from halftone.validate.budget import Budget
    from halftone.validate.inspection import inspect_uri

    budget = Budget(nbytes=budget_mb * 1_000_000, requests=requests)
    inspection = inspect_uri(checkpoint, source, budget)
    if as_json:
        document = inspection.model_dump(mode="json")
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        from halftone.cli.inspect_text import print_inspection

        print_inspection(inspection)
    if inspection.defects:
        raise CheckFailed(
            Reason.DefectsFound,
            inspection.defects[0].tensor,
            f"Defects found ({len(inspection.defects)}) in '{checkpoint}'.",
        )
