"""`halftone quantize`: the checkpoint and its `checkpoint.json` in one directory."""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from halftone.cli.opening import opened_checkpoint
from halftone.cli.plan import recipe_of, search_option
from halftone.cli.progress import progress
from halftone.plan.layout import MAX_SHARD_BYTES
from halftone.plan.planning import Planned, plan_checkpoint
from halftone.spec.documents import CheckpointDocument, Method, Plan
from halftone.spec.errors import RefusedInput
from halftone.spec.job import Recipe
from halftone.spec.names import Reason

if TYPE_CHECKING:
    from halftone.checkpoint.index import Checkpoint
    from halftone.quantize.statistics import Statistics


@click.command()
@click.argument("source")
@click.argument("output", type=click.Path(file_okay=False, path_type=Path), metavar="OUTPUT_DIR")
@click.option("--recipe", help="A preset's name (see `halftone recipes`) or a file.")
@click.option(
    "--plan",
    "agreed",
    type=click.Path(dir_okay=False, path_type=Path),
    help="In place of a recipe a plan.json, wherever its source lay: of `halftone plan`, or of a "
    "published artifact.",
)
@click.option(
    "--statistics",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="What `halftone calibrate` wrote, for a plan that needs it.",
)
@click.option("--workers", type=click.IntRange(min=1, max=256), help="Threads; default: all cores.")
@search_option
@click.option(
    "--max-shard-bytes",
    type=click.IntRange(min=1),
    show_default=f"{MAX_SHARD_BYTES}",
    help="Most bytes of weights in one file, and so most work that a kill can cost.",
)
@click.option("--json", "as_json", is_flag=True, help="Print checkpoint.json's summary as JSON.")
def quantize(
    source: str,
    output: Path,
    recipe: str | None,
    agreed: Path | None,
    statistics: Path | None,
    workers: int | None,
    scale_search: str | None,
    max_shard_bytes: int | None,
    as_json: bool,
) -> None:
    """Quantize SOURCE into OUTPUT_DIR. Killed at any moment, the same command goes on."""
    from halftone.quantize.engine import quantize as carry_out
    from halftone.quantize.engine import require_carried_out

    if (recipe is None) is (agreed is None):
        raise click.UsageError("Give one of `--recipe` and `--plan`.")
    if agreed is not None and (scale_search is not None or max_shard_bytes is not None):
        raise click.UsageError(
            "`--scale-search` and `--max-shard-bytes` are settled in the file of `--plan`; give "
            "them to `halftone plan`."
        )
    chosen = None if recipe is None else recipe_of(recipe, scale_search)
    plan = None if agreed is None else Plan.load(agreed)
    with opened_checkpoint(source) as checkpoint:
        planned = _planned(checkpoint, chosen, plan, max_shard_bytes or MAX_SHARD_BYTES)
        measured = _measured(planned, statistics, output)
        require_carried_out(planned, measured)
        _warn_of_other_weights(measured, checkpoint)
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


def _planned(
    checkpoint: "Checkpoint", recipe: Recipe | None, agreed: Plan | None, max_shard_bytes: int
) -> Planned:
    """The plan under `recipe`, or `agreed` made again for `checkpoint`; it may be refused."""
    if agreed is None:
        assert recipe is not None
        return plan_checkpoint(checkpoint, recipe, max_shard_bytes)
    if agreed.refusal is not None:
        return Planned(agreed)
    from halftone.quantize.rebuilding import plan_again

    return plan_again(agreed, checkpoint)


def _measured(planned: Planned, folder: Path | None, output: Path) -> "Statistics | None":
    """The statistics in `folder`, read only for a plan that takes some."""
    from halftone.quantize.statistics import read_statistics

    plan = planned.plan
    if folder is None or plan.refusal is not None:
        return None
    if plan.method is Method.DataFree:
        raise RefusedInput(
            Reason.StatisticsDiffer,
            "--statistics",
            f"The recipe '{plan.recipe.name if plan.recipe else ''}' is data-free on this model: "
            f"nothing in it is measured, so '{folder}' is of another plan; leave `--statistics` "
            "out, or give the recipe that was calibrated.",
        )
    if output.resolve() == folder.resolve():
        raise RefusedInput(
            Reason.OutputNotEmpty,
            str(output),
            f"'{output}' is the directory of `--statistics` too; give the checkpoint another one.",
        )
    return read_statistics(folder, planned)


def _warn_of_other_weights(measured: "Statistics | None", checkpoint: "Checkpoint") -> None:
    """Say that shards were written since; a copy of the same weights is no worse for it."""
    from halftone.cli.calibrate import warn
    from halftone.quantize.calibration.finished import source_stamp

    stated = None if measured is None else measured.document.sourceStamp
    if stated is not None and stated != source_stamp(checkpoint):
        warn(
            "a shard of the source is another file than the one that was calibrated, or was "
            "written since; unless it is a copy, calibrate again."
        )


def default_workers() -> int:
    """One thread for each core that this process may use."""
    return len(os.sched_getaffinity(0))


def bytes_to_read(planned: Planned, part: int = 0, parts: int = 1) -> int:
    """What the engine's progress adds up to: that of one worker of `parts`."""
    shards = planned.shards[part::parts]
    return sum(m.source_bytes for s in shards for u in s.units for m in u.members)


def print_roles(document: CheckpointDocument) -> None:
    """The weight error of every role, beside what it would have been without a search."""
    for line in document.roles:
        gain = f" (MinMax: {line.minMaxError})" if line.minMaxError else ""
        click.echo(f"{line.role}: {line.format}, relative error {line.relativeError}{gain}")


def _tell(
    document: CheckpointDocument, output: Path, total: int, seconds: float, as_json: bool
) -> None:
    if as_json:
        shown = document.model_dump(mode="json", exclude={"groups"})
        shown |= {"seconds": f"{seconds:.3f}", "sourceBytes": total}
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    print_roles(document)
    size = sum(file.sizeBytes for file in document.files)
    rate = f"{seconds:.1f} s, {total / seconds / 1e6:,.0f} MB/s" if seconds > 0 else "at once"
    click.echo(f"{output}: {len(document.files)} files, {size:,} bytes in {rate}")
    click.echo(f"digest {document.digest}")
