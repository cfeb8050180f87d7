"""`halftone quantize`: the checkpoint and its `checkpoint.json` in one directory."""

import json
import os
import time
from pathlib import Path

import click

from halftone.cli.opening import opened_checkpoint
from halftone.cli.progress import progress
from halftone.plan.layout import MAX_SHARD_BYTES
from halftone.plan.planning import Planned, plan_checkpoint
from halftone.spec.documents import CheckpointDocument
from halftone.spec.job import ScaleSearch
from halftone.spec.recipes import load_recipe


@click.command()
@click.argument("source")
@click.argument("output", type=click.Path(file_okay=False, path_type=Path), metavar="OUTPUT_DIR")
@click.option("--recipe", required=True, help="A preset's name (see `halftone recipes`) or a file.")
@click.option(
    "--statistics",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="What `halftone calibrate` wrote, for a recipe that needs it.",
)
@click.option("--workers", type=click.IntRange(min=1, max=256), help="Threads; default: all cores.")
@click.option("--scale-search", type=click.Choice([s.value for s in ScaleSearch]))
@click.option(
    "--max-shard-bytes",
    type=click.IntRange(min=1),
    default=MAX_SHARD_BYTES,
    show_default=True,
    help="Most bytes of weights in one file, and so most work that a kill can cost.",
)
@click.option("--json", "as_json", is_flag=True, help="Print checkpoint.json's summary as JSON.")
def quantize(
    source: str,
    output: Path,
    recipe: str,
    statistics: Path | None,
    workers: int | None,
    scale_search: str | None,
    max_shard_bytes: int,
    as_json: bool,
) -> None:
    """Quantize SOURCE into OUTPUT_DIR. Killed at any moment, the same command goes on."""
    from halftone.quantize.engine import quantize as carry_out
    from halftone.quantize.engine import require_carried_out
    from halftone.quantize.statistics import read_statistics

    chosen = load_recipe(recipe)
    if scale_search is not None:
        chosen = chosen.model_copy(update={"scaleSearch": ScaleSearch(scale_search)})
    with opened_checkpoint(source) as checkpoint:
        planned = plan_checkpoint(checkpoint, chosen, max_shard_bytes)
        measured = None if statistics is None else read_statistics(statistics, planned)
        require_carried_out(planned, measured)
        for notice in planned.plan.warnings:
            click.echo(f"halftone: warning: {notice.message}", err=True)
        total = bytes_to_read(planned)
        begin = time.perf_counter()
        with progress("quantize", total) as shown:
            document = carry_out(
                planned,
                checkpoint,
                output.absolute(),
                statistics=measured,
                workers=workers or default_workers(),
                progress=shown,
            )
        seconds = time.perf_counter() - begin
    _tell(document, output, total, seconds, as_json)


def default_workers() -> int:
    """One thread for each core that this process may use."""
    return len(os.sched_getaffinity(0))


def bytes_to_read(planned: Planned) -> int:
    """What the engine's progress adds up to."""
    return sum(m.source_bytes for s in planned.shards for u in s.units for m in u.members)


def _tell(
    document: CheckpointDocument, output: Path, total: int, seconds: float, as_json: bool
) -> None:
    if as_json:
        shown = document.model_dump(mode="json", exclude={"groups"})
        shown |= {"seconds": f"{seconds:.3f}", "sourceBytes": total}
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    for line in document.roles:
        gain = f" (MinMax: {line.minMaxError})" if line.minMaxError else ""
        click.echo(f"{line.role}: {line.format}, relative error {line.relativeError}{gain}")
    size = sum(file.sizeBytes for file in document.files)
    rate = f"{seconds:.1f} s, {total / seconds / 1e6:,.0f} MB/s" if seconds > 0 else "at once"
    click.echo(f"{output}: {len(document.files)} files, {size:,} bytes in {rate}")
    click.echo(f"digest {document.digest}")
