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
from halftone.spec.job import Recipe, ScaleSearch
from halftone.spec.recipes import load_recipe

if TYPE_CHECKING:
    from halftone.plan.devices import Device
    from halftone.plan.fit import Fit


# Also of `halftone quantize`: what differs between the two gives another plan.
search_option = click.option(
    "--scale-search",
    type=click.Choice([s.value for s in ScaleSearch]),
    help="Search for the scales of weights like this, whatever the recipe says.",
)


@click.command()
@click.argument("source")
@click.option("--recipe", required=True, help="A preset's name (see `halftone recipes`) or a file.")
@click.option("--gpu", help="Say what fits on this device, e.g. B200; an unknown name lists all.")
@click.option("--context", type=click.IntRange(min=1), default=32_768, show_default=True)
@search_option
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
    scale_search: str | None,
    max_shard_bytes: int,
    as_json: bool,
    output: Path | None,
) -> None:
    """Plan the quantization of SOURCE: a directory, hf://org/name@revision or s3://bucket/prefix.

    Reads a few kilobytes a shard and writes nothing but --output. A refused plan exits 2.
    """
    device = None if gpu is None else _device(gpu)
    planned, config = _planned(source, recipe, scale_search, max_shard_bytes)
    fit, misfit = _fit(planned, config, device, context)
    if output is not None and planned.plan.refusal is None:
        planned.full_document().save(output)
    if as_json:
        click.echo(
            json.dumps(summary(planned.plan, fit, misfit is not None), indent=2, ensure_ascii=False)
        )
    elif planned.plan.refusal is None:
        from halftone.cli.plan_text import print_plan

        print_plan(planned.plan, fit)
    if planned.plan.refusal is not None:
        click.echo(f"halftone: {planned.plan.refusal.message}", err=True)
        sys.exit(RefusedInput.exit_code)
    if misfit is not None:
        raise misfit


def recipe_of(recipe: str, scale_search: str | None) -> Recipe:
    """The recipe called `recipe`, or in that file, with the search of the command line."""
    chosen = load_recipe(recipe)
    if scale_search is None:
        return chosen
    return chosen.model_copy(update={"scaleSearch": ScaleSearch(scale_search)})


def summary(document: Plan, fit: "Fit | None", fit_is_impossible: bool = False) -> dict[str, Any]:
    """The plan without its row per tensor (those are in the file that --output writes).

    `fit` is there where a device was named, and null where nothing can be said of it.
    """
    shown: dict[str, Any] = document.model_dump(mode="json", exclude={"tensors", "layout"})
    shown["groups"] = [group._asdict() for group in document.groups]
    if fit is not None or fit_is_impossible:
        shown["fit"] = None if fit is None else fit.model_dump(mode="json")
    return shown


def _device(name: str) -> "Device":
    """Before the source is read: a slip of the pen should not cost a minute of headers."""
    from halftone.plan.devices import find_device

    return find_device(name)


def _planned(
    source: str, recipe: str, scale_search: str | None, max_shard_bytes: int
) -> tuple[Planned, dict[str, Any] | None]:
    """The plan, and the configuration where the source has one.

    A recipe or a source that cannot be read refuses the plan, like anything wrong inside them.
    """
    chosen = None
    try:
        chosen = recipe_of(recipe, scale_search)
        with opened_checkpoint(source) as checkpoint:
            planned = plan_checkpoint(checkpoint, chosen, max_shard_bytes)
            return planned, checkpoint.config
    except RefusedInput as refusal:
        return Planned(refused_plan(refusal, None, chosen)), None


def _fit(
    planned: Planned, config: dict[str, Any] | None, device: "Device | None", context: int
) -> "tuple[Fit | None, RefusedInput | None]":
    """What fits where a device was named, or why nothing can be said of an accepted plan."""
    if device is None or config is None or planned.plan.refusal is not None:
        return None, None
    from halftone.plan.fitting import fit_of

    try:
        return fit_of(planned, config, device, context), None
    except RefusedInput as refusal:
        return None, refusal
