"""`halftone sweep`: measure each role in each format, and propose a precision list."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from halftone.cli.elsewhere import QUANTIZE, run_verb
from halftone.cli.opening import opened_checkpoint, pinned
from halftone.cli.progress import progress, steps
from halftone.cli.quantize import default_workers
from halftone.cli.signals import ended_in_order
from halftone.spec.calibration import Calibration, Dataset
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import CheckpointFormat, Format
from halftone.spec.job import Recipe, ScaleSearch
from halftone.spec.names import Reason
from halftone.spec.recipes import load_recipe

if TYPE_CHECKING:
    from halftone.quantize.sweep.document import Divergences
    from halftone.quantize.sweep.sweeping import Prepared

_GB: Final = 10**9
# Enough for a ranking of formats; the recipe gets the same number.
_SAMPLES: Final = 64


@click.command()
@click.argument("source")
@click.option(
    "--budget-gb",
    required=True,
    metavar="N",
    help="Most gigabytes (of 10⁹ bytes) of tensors, as `halftone plan` counts them.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("sweep"),
    show_default=True,
    help="A new directory for recipe, table and plot.",
)
@click.option(
    "--dataset",
    type=click.Path(path_type=Path),
    help="Rows of text to measure layers on; without it the choice goes by weight error alone.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1, max=1_000_000),
    help=f"Rows of --dataset to use; default {_SAMPLES}.",
)
@click.option(
    "--max-sequence-length",
    type=click.IntRange(min=1, max=1_048_576),
    help="Most tokens of a row of --dataset; default 2048.",
)
@click.option(
    "--recipe",
    help="Take all but precision from this preset or file: data, KV cache, layout, scale search.",
)
@click.option(
    "--scale-search",
    type=click.Choice([s.value for s in ScaleSearch]),
    help="How scales of weights are found; default: as in --recipe, else MinMax.",
)
@click.option(
    "--checkpoint-format",
    type=click.Choice([f.value for f in CheckpointFormat]),
    help="The layout to write; default: as in --recipe, else CompressedTensors.",
)
@click.option(
    "--format",
    "formats",
    type=click.Choice([f.value for f in Format]),
    multiple=True,
    help="Look at this format alone; may be repeated. Default: all that vLLM loads today.",
)
@click.option(
    "--layers",
    type=click.IntRange(min=1),
    help="Most layers of a role to measure, spread evenly; default: all, or 8 of a large role.",
)
@click.option("--workers", type=click.IntRange(min=1, max=256), help="Threads; default: all cores.")
@click.option("--json", "as_json", is_flag=True, help="Print sweep.json.")
@click.option("--measure-to", type=click.Path(path_type=Path), hidden=True)
def sweep(
    source: str,
    budget_gb: str,
    output: Path,
    dataset: Path | None,
    samples: int | None,
    max_sequence_length: int | None,
    recipe: str | None,
    scale_search: str | None,
    checkpoint_format: str | None,
    formats: tuple[str, ...],
    layers: int | None,
    workers: int | None,
    as_json: bool,
    measure_to: Path | None,
) -> None:
    """Propose the precision list of best quality for SOURCE under a size.

    Measures every role in every format: the error of the weights and, with --dataset, how far each
    layer's output moves. Writes a recipe, the table it came from and a plot to --output; nothing is
    applied.
    """
    from halftone.quantize.sweep.files import refuse_in_the_way, staged
    from halftone.quantize.sweep.plotting import require_plotting
    from halftone.quantize.sweep.sweeping import Wanted, measure_weights, prepare, propose

    wanted = Wanted(_bytes(budget_gb), tuple(map(Format, formats)), layers)
    base = _base(recipe, scale_search, checkpoint_format)
    base = _with_data(base, dataset, samples, max_sequence_length)
    if measure_to is None:
        require_plotting()
        refuse_in_the_way(output)
    with opened_checkpoint(source) as checkpoint:
        prepared = prepare(checkpoint, base, wanted)
        if measure_to is not None:
            found = _measured_here(prepared, measure_to.parent, dataset)
            measure_to.write_text(found.model_dump_json())
            return
        _refuse_impossible(prepared, dataset)
        with ended_in_order(), staged(output) as place:
            divergences = None
            if base.calibration is not None:
                divergences = _divergences(prepared, place.scratch, dataset)
            with progress("weights", prepared.source_bytes) as shown:
                errors = measure_weights(prepared, workers or default_workers(), shown.advance)
            document = propose(prepared, errors, divergences)
            place.publish(document)
    if as_json:
        click.echo(json.dumps(document.model_dump(mode="json"), indent=2, ensure_ascii=False))
        return

    from halftone.cli.sweep_text import print_sweep

    print_sweep(document, output)


def _bytes(budget_gb: str) -> int:
    """Decimal gigabytes as bytes; refuses what is no number above zero."""
    try:
        budget = Decimal(budget_gb)
    except InvalidOperation:
        budget = Decimal("NaN")
    if not budget.is_finite() or budget <= 0 or budget >= 10**9:
        raise RefusedInput(
            Reason.InvalidJob,
            "--budget-gb",
            f"`--budget-gb` '{budget_gb}' is not a size; give gigabytes above 0, such as 17.5.",
        )
    return int(budget * _GB)


def _base(recipe: str | None, scale_search: str | None, checkpoint_format: str | None) -> Recipe:
    """The recipe whose precision list is looked for."""
    base = Recipe(name="recipe", precision=()) if recipe is None else load_recipe(recipe)
    changes: dict[str, object] = {"name": "recipe"}
    if scale_search is not None:
        changes["scaleSearch"] = ScaleSearch(scale_search)
    if checkpoint_format is not None:
        changes["checkpointFormat"] = CheckpointFormat(checkpoint_format)
    return base.model_copy(update=changes)


def _with_data(
    base: Recipe, dataset: Path | None, samples: int | None, max_sequence_length: int | None
) -> Recipe:
    """`base` with the data of the command line, which win over its own."""
    changes: dict[str, object] = {}
    if samples is not None:
        changes["samples"] = samples
    if max_sequence_length is not None:
        changes["maxSequenceLength"] = max_sequence_length
    calibration = base.calibration
    if dataset is not None:
        named = Dataset(path=str(dataset.absolute()))
        if calibration is None:
            calibration = Calibration(dataset=named, samples=_SAMPLES)
        calibration = calibration.model_copy(update={"dataset": named})
    if calibration is None and changes:
        raise RefusedInput(
            Reason.InvalidJob,
            "--dataset",
            "`--samples` and `--max-sequence-length` are about data, and none are given; name "
            "them with `--dataset FILE`.",
        )
    if calibration is None:
        return base
    return base.model_copy(update={"calibration": calibration.model_copy(update=changes)})


def _divergences(prepared: "Prepared", scratch: Path, dataset: Path | None) -> "Divergences":
    """What each layer's output moves by: measured here, or where torch is.

    Activations between two layers may take much room: they lie where the output will.
    """
    from halftone.quantize.sweep.document import Divergences

    if QUANTIZE.is_here:
        return _measured_here(prepared, scratch, dataset)
    answer = scratch / "divergences.json"
    source = prepared.checkpoint.source
    options = [*_same_options(click.get_current_context()), "--measure-to", str(answer)]
    run_verb(QUANTIZE.python(), "sweep", pinned(source.uri, source.revision), *options)
    return Divergences.model_validate_json(answer.read_bytes())


def _same_options(context: click.Context) -> list[str]:
    """The options once more, for the same verb in another process."""
    arguments = []
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if not isinstance(parameter, click.Option) or parameter.is_flag or value is None:
            continue
        for one in value if parameter.multiple else (value,):
            arguments += [parameter.opts[0], str(one)]
    return arguments


def _measured_here(prepared: "Prepared", scratch: Path, dataset: Path | None) -> "Divergences":
    from halftone.cli.calibrate import warn
    from halftone.quantize.sweep.measuring.layers import measure_layers

    with _told_by_option(dataset), steps("layers") as shown:
        return measure_layers(prepared, scratch, shown, warn)


def _refuse_impossible(prepared: "Prepared", dataset: Path | None) -> None:
    """Refuse data that the model cannot take, before another environment is started for them."""
    from halftone.quantize.calibration.dataset.limits import refuse_impossible

    if prepared.recipe.calibration is not None:
        with _told_by_option(dataset):
            refuse_impossible(prepared.recipe.calibration, prepared.checkpoint)


@contextmanager
def _told_by_option(dataset: Path | None) -> Iterator[None]:
    """Where a refusal names a field of a job that is an option here, it names the option."""
    options = {"quantization.calibration.maxSequenceLength": "--max-sequence-length"}
    if dataset is not None:
        options["quantization.calibration.dataset.path"] = "--dataset"
    try:
        yield
    except RefusedInput as error:
        option = options.get(error.subject)
        if option is None:
            raise
        told = error.message.replace(f"`{error.subject}`", f"`{option}`")
        raise RefusedInput(error.reason, option, told) from error
