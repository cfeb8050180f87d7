"""`halftone calibrate`: the statistics of a calibrated plan, in a directory of their own."""

import json
from pathlib import Path

import click

from halftone.checkpoint.index import Checkpoint
from halftone.cli.elsewhere import QUANTIZE, run_verb
from halftone.cli.opening import opened_checkpoint, pinned
from halftone.cli.progress import steps
from halftone.cli.signals import ended_in_order
from halftone.quantize.calibration.finished import load_statistics
from halftone.quantize.rebuilding import plan_again
from halftone.spec.documents import Method, Plan
from halftone.spec.errors import RefusedInput
from halftone.spec.names import STATISTICS_FILE, Reason
from halftone.spec.statistics import StatisticsDocument

# So many names of experts that no token reached are printed; the document has all.
_NAMED = 5


@click.command()
@click.argument("plan", type=click.Path(dir_okay=False, path_type=Path), metavar="PLAN")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--json", "as_json", is_flag=True, help="Print statistics.json.")
def calibrate(plan: Path, output: Path, as_json: bool) -> None:
    """Measure activations for PLAN (a plan.json) on the data that its recipe names.

    Writes statistics.json and statistics.safetensors to --output, for `halftone quantize
    --statistics`. Killed at any moment, the same command goes on after the last whole layer.
    """
    agreed = Plan.load(plan)
    _refuse_unmeasurable(agreed, plan)
    if agreed.source is None:
        raise AssertionError("an accepted plan has a source. This is a bug. Please report.")
    with opened_checkpoint(pinned(agreed.source.uri, agreed.source.revision)) as checkpoint:
        refuse_without_data(agreed, checkpoint)
        if QUANTIZE.is_here:
            _measure(agreed, checkpoint, output)
    if not QUANTIZE.is_here:
        run_verb(QUANTIZE.python(), "calibrate", str(plan), "--output", str(output))
    _tell(load_statistics(output / STATISTICS_FILE), output, as_json)


def _measure(agreed: Plan, checkpoint: Checkpoint, output: Path) -> None:
    from halftone.quantize.calibration.calibrating import calibrate as measure

    planned = plan_again(agreed, checkpoint)
    with ended_in_order(), steps("calibrate") as shown:
        measure(planned, checkpoint, output.absolute(), progress=shown, notice=warn)


def warn(sentence: str) -> None:
    """Say what goes on although somebody should know."""
    click.echo(f"halftone: warning: {sentence}", err=True)


def print_statistics(document: StatisticsDocument) -> None:
    """What was measured on, for people."""
    for data in document.data:
        cut = f", {data.truncated} cut to {document.maxSequenceLength}" if data.truncated else ""
        images = f" and {data.images:,} images" if data.images else ""
        click.echo(
            f"{data.modality}: {data.samples:,} of {data.usable:,} usable rows, "
            f"{data.tokens:,} tokens{images}{cut}"
        )
    if document.unrouted:
        shown = ", ".join(document.unrouted[:_NAMED])
        more = len(document.unrouted) - _NAMED
        rest = f" and {more:,} more" if more > 0 else ""
        click.echo(f"experts that no token was routed to: {shown}{rest}")


def _tell(document: StatisticsDocument, output: Path, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(document.model_dump(mode="json"), indent=2, ensure_ascii=False))
        return
    print_statistics(document)
    click.echo(f"{output / STATISTICS_FILE}: digest {document.digest}")


def refuse_without_data(plan: Plan, checkpoint: Checkpoint) -> None:
    """Refuse a calibrated plan that names no data, or data that its model cannot take."""
    from halftone.quantize.calibration.dataset.limits import refuse_impossible

    recipe = plan.recipe
    if recipe is None:
        return  # a refused plan says more
    if recipe.calibration is None:
        raise RefusedInput(
            Reason.CalibrationRequired,
            "quantization.calibration",
            f"The recipe '{recipe.name}' quantizes activations, or the KV cache with measured "
            "scales, and names no data to measure them on; set `quantization.calibration.dataset` "
            "of the job, or `calibration.dataset` of a recipe file, or choose a data-free recipe "
            "such as 'nvfp4a16' or 'fp8-dynamic'.",
        )
    refuse_impossible(recipe.calibration, checkpoint)


def _refuse_unmeasurable(plan: Plan, path: Path) -> None:
    if plan.refusal is not None:
        raise RefusedInput(plan.refusal.reason, plan.refusal.subject, plan.refusal.message)
    if plan.method is Method.DataFree:
        raise RefusedInput(
            Reason.InvalidJob,
            str(path),
            f"'{path}' is a data-free plan: it quantizes no activations and measures no KV cache, "
            "so there is nothing to calibrate; go on with `halftone quantize`.",
        )
