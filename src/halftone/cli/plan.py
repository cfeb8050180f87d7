"""`halftone plan`: every tensor's fate, from headers alone."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from halftone.cli.opening import opened_checkpoint
from halftone.plan.layout import MAX_SHARD_BYTES
from halftone.plan.planning import Planned, plan_checkpoint, refused_plan
from halftone.spec.documents import Plan
from halftone.spec.errors import RefusedInput
from halftone.spec.recipes import load_recipe

if TYPE_CHECKING:
    from halftone.plan.fit import Fit


@click.command()
@click.argument("source")
@click.option("--recipe", required=True, help="A preset's name (see `halftone recipes`) or a file.")
@click.option("--gpu", help="Say what fits on this device, e.g. B200; an unknown name lists all.")
@click.option("--context", type=click.IntRange(min=1), default=32_768, show_default=True)
@click.option(
    "--max-shard-bytes",
    type=click.IntRange(min=1),
    default=MAX_SHARD_BYTES,
    show_default=True,
    help="Most bytes of weights in one file; what a server fuses is never torn apart.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write plan.json.")
def plan(
    source: str,
    recipe: str,
    gpu: str | None,
    context: int,
    max_shard_bytes: int,
    as_json: bool,
    output: Path | None,
) -> None:
    """Plan the quantization of SOURCE: a directory, hf://org/name@revision or s3://bucket/prefix.

    Reads a few kilobytes a shard and writes nothing but --output. A refused plan exits 2.
    """
    planned, fit = _planned(source, recipe, gpu, context, max_shard_bytes)
    if output is not None and planned.plan.refusal is None:
        planned.full_document().save(output)
    if as_json:
        click.echo(json.dumps(summary(planned.plan, fit), indent=2, ensure_ascii=False))
    elif planned.plan.refusal is None:
        from halftone.cli.plan_text import print_plan

        print_plan(planned.plan, fit)
    if planned.plan.refusal is not None:
        click.echo(f"halftone: {planned.plan.refusal.message}", err=True)
        sys.exit(RefusedInput.exit_code)


def summary(document: Plan, fit: "Fit | None") -> dict[str, Any]:
    """The plan without its row per tensor (those are in the file that --output writes)."""
    shown: dict[str, Any] = document.model_dump(mode="json", exclude={"tensors", "layout"})
    shown["groups"] = [group._asdict() for group in document.groups]
    if fit is not None:
        shown["fit"] = fit.model_dump(mode="json")
    return shown


def _planned(
    source: str, recipe: str, gpu: str | None, context: int, max_shard_bytes: int
) -> "tuple[Planned, Fit | None]":
    """The plan, and what fits where a device was named.

    A recipe or a source that cannot be read refuses the plan, like anything wrong inside them.
    """
    chosen = None
    try:
        chosen = load_recipe(recipe)
        with opened_checkpoint(source) as checkpoint:
            planned = plan_checkpoint(checkpoint, chosen, max_shard_bytes)
            config = checkpoint.config
    except RefusedInput as refusal:
        return Planned(refused_plan(refusal, None, chosen)), None
    if gpu is None or planned.plan.refusal is not None:
        return planned, None
    from halftone.plan.devices import find_device
    from halftone.plan.fitting import fit_of

    return planned, fit_of(planned, config, find_device(gpu), context)
