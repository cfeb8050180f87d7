"""`halftone convert`: a quantized checkpoint in the other layout, its codes untouched."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from halftone.cli.opening import opened_checkpoint
from halftone.cli.progress import progress
from halftone.cli.signals import ended_in_order
from halftone.spec.formats import CheckpointFormat

if TYPE_CHECKING:
    from halftone.quantize.conversion.converting import Conversion

_MOST_NAMES: Final = 20


@click.command()
@click.argument("source")
@click.argument("output", type=click.Path(file_okay=False, path_type=Path), metavar="OUTPUT_DIR")
@click.option(
    "--to",
    "layout",
    type=click.Choice([layout.value for layout in CheckpointFormat]),
    required=True,
    help="The layout that the output has.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def convert(source: str, output: Path, layout: str, as_json: bool) -> None:
    """Write the quantized checkpoint SOURCE into OUTPUT_DIR in the other layout.

    SOURCE is a directory, hf://org/name@revision or s3://bucket/prefix, of ours or of anyone
    else's. Codes and block scales stay the bytes that they are; global scales are inverted, and
    the configuration says the same in the other words. Matrices that a server merges get the
    widest range of inputs among them. The result is unproven: inspect it.
    """
    from halftone.quantize.conversion.converting import convert as carry_out

    with opened_checkpoint(source) as checkpoint:
        total = sum(entry.nbytes for entry in checkpoint.tensors.values())
        with ended_in_order(), progress("convert", total) as shown:
            done = carry_out(
                checkpoint, output.absolute(), CheckpointFormat(layout), progress=shown
            )
    if as_json:
        click.echo(json.dumps(_document(done), indent=2, ensure_ascii=False))
    else:
        _tell(done, output)


def _document(done: "Conversion") -> dict[str, Any]:
    return {
        "source": done.source,
        "from": done.came_from,
        "to": done.became,
        "files": done.files,
        "bytes": done.nbytes,
        "tensors": done.tensors,
        "changedTensors": done.changed,
        "nearestScales": done.nearest,
        "widenedScales": done.widened,
        "leftBehind": done.left_behind,
    }


def _tell(done: "Conversion", output: Path) -> None:
    click.echo(
        f"{output}: {len(done.files)} files, {done.nbytes:,} bytes; {done.changed:,} of "
        f"{done.tensors:,} tensors have other names or scales in {done.became}'s layout."
    )
    if done.nearest:
        click.echo(
            f"No divisor gives {len(done.nearest)} of the global scales exactly, the first of them "
            f"`{done.nearest[0]}`; the nearest was written (one unit in the last place off)."
        )
    if done.widened:
        click.echo(
            "A server takes one range of inputs for the matrices that it merges, and a narrower "
            f"one would clip: {len(done.widened)} got the widest of theirs, the first of them "
            f"`{done.widened[0]}`."
        )
    if done.left_behind:
        click.echo(f"Left behind, for they may speak of other bytes: {_some(done.left_behind)}.")
    click.echo(f"This checkpoint is unproven; look at it with: halftone inspect {output}")


def _some(names: Sequence[str]) -> str:
    """The first of `names`, and how many more there are."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
