"""`halftone bench`: load on an endpoint, a table beside a baseline's, and a capacity card."""

import asyncio
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import click

from halftone.cli.elsewhere import SERVE
from halftone.cli.output_files import require_writable, write_whole
from halftone.cli.signals import ended_in_order
from halftone.spec.errors import RefusedInput
from halftone.spec.names import CAPACITY_DIRECTORY, Reason

if TYPE_CHECKING:
    from halftone.serve.measuring.document import Bench

BENCH_FILE: Final = "bench.json"
_KEY_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_MOST: Final = 4096


class _Concurrencies(click.ParamType["tuple[int, ...]"]):
    name = "N,N,…"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        try:
            numbers = sorted({int(each) for each in str(value).split(",")})
        except ValueError:
            numbers = [0]
        if not 1 <= numbers[0] <= numbers[-1] <= _MOST:
            self.fail(f"'{value}' is not a list of whole numbers from 1 to {_MOST}", param, ctx)
        return tuple(numbers)


@click.command()
@click.argument("url", metavar="ENDPOINT_URL")
@click.option("--baseline", help="Another endpoint's URL, such as the source's, to compare with.")
@click.option("--model", help="The model to ask; default: the only one that is served.")
@click.option("--baseline-model", help="The same of the baseline.")
@click.option("--api-key-file", type=_KEY_FILE, help="A file with its API key alone.")
@click.option("--baseline-api-key-file", type=_KEY_FILE, help="Default of both: VLLM_API_KEY.")
@click.option(
    "--concurrency",
    type=_Concurrencies(),
    default="1,8,32",
    show_default=True,
    help="Requests at a time; each number is a load of its own.",
)
@click.option("--input-tokens", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--output-tokens", type=click.IntRange(min=2), default=64, show_default=True)
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Requests of each round, for each of those at a time.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How often every load is repeated, in turns with the baseline; bounds come from these.",
)
@click.option("--card/--no-card", default=True, help="Whether to time steps for a capacity card.")
@click.option("--json", "as_json", is_flag=True, help="Print bench.json.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write bench.json and the capacity card to this directory.",
)
def bench(
    url: str,
    baseline: str | None,
    model: str | None,
    baseline_model: str | None,
    api_key_file: Path | None,
    baseline_api_key_file: Path | None,
    concurrency: tuple[int, ...],
    input_tokens: int,
    output_tokens: int,
    requests: int,
    rounds: int,
    card: bool,
    as_json: bool,
    output: Path | None,
) -> None:
    """Put load on ENDPOINT_URL with vLLM's benchmark and print what users get.

    With --baseline both are measured in turns, and their ratios have 95 % bounds.
    """
    from halftone.serve.measuring.benching import look_at, measure
    from halftone.serve.measuring.connection import Place
    from halftone.serve.measuring.rounds import Shape

    if baseline is None and (baseline_model or baseline_api_key_file):
        told = "`--baseline-model` and `--baseline-api-key-file` need the URL in `--baseline`."
        raise RefusedInput(Reason.InvalidJob, "--baseline", told)
    if output is not None:
        require_writable(output / BENCH_FILE)
        require_writable(output / CAPACITY_DIRECTORY / "card")
    python = replace(SERVE, purpose="Load from vLLM's benchmark needs").python()
    shape = Shape(input_tokens, output_tokens, concurrency, requests, rounds)
    places = [(Place(url, api_key_file), model)]
    if baseline is not None:
        place = Place(
            baseline, baseline_api_key_file, "--baseline-api-key-file", "--baseline-model"
        )
        places.append((place, baseline_model))
    with ended_in_order(), TemporaryDirectory(prefix="halftone-bench-") as scratch:
        found = [asyncio.run(look_at(place, named, shape)) for place, named in places]
        endpoints = [endpoint for endpoint, _ in found]
        log = Path(scratch) / "benchmark.log"
        result = measure(python, log, endpoints, found[0][1], shape, card, _say)
    written = None
    try:
        if output is not None:
            written = _write(result, output)
    finally:  # what was measured is told where it cannot be written
        if as_json:
            click.echo(result.model_dump_json(indent=2))
        else:
            from halftone.cli.bench_text import print_bench

            print_bench(result, written)


def _say(line: str) -> None:
    click.echo(f"halftone: {line}", err=True)


def _write(result: "Bench", output: Path) -> Path | None:
    """`bench.json` and the card; the card's path, if there is one."""
    write_whole(output / BENCH_FILE, result.model_dump_json(indent=2) + "\n")
    card = result.capacity.card
    if card is None:
        return None
    path = output / card.path
    write_whole(path, card.to_bytes().decode())
    return path
