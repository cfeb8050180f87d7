"""`halftone compare`: the same prompts to two endpoints, and whether the new one is as good."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from halftone.cli.numbers import Finite
from halftone.cli.output_files import require_writable, write_whole
from halftone.cli.signals import ended_in_order

if TYPE_CHECKING:
    from halftone.serve.comparing.document import Comparison
    from halftone.serve.comparing.judging import Limits
    from halftone.serve.comparing.prompts import Prompt
    from halftone.serve.comparing.replaying import Plan
    from halftone.serve.measuring.connection import Place

_KEY_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("old_url", metavar="OLD_URL")
@click.argument("new_url", metavar="NEW_URL")
@click.option(
    "--prompts",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='JSON Lines of {"prompt": …} or {"messages": […]}, with "max_tokens" if you like.',
)
@click.option("--old-model", help="The old endpoint's model; default: the only one it serves.")
@click.option("--new-model", help="The same of the new endpoint.")
@click.option("--old-api-key-file", type=_KEY_FILE, help="A file with its API key alone.")
@click.option("--new-api-key-file", type=_KEY_FILE, help="Default of both: VLLM_API_KEY.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="An answer's."
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1, max=1024),
    default=1,
    show_default=True,
    help="Prompts at a time; each goes to one endpoint and then to the other.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1, max=100),
    default=1,
    show_default=True,
    help="How often each prompt is replayed, for steadier times.",
)
@click.option(
    "--timeout-seconds",
    type=Finite(min=0, min_open=True),
    default=900.0,
    show_default=True,
    help="Longest time of one answer.",
)
@click.option(
    "--top-logprobs",
    type=click.IntRange(min=1, max=100),
    default=20,
    show_default=True,
    help="Likeliest tokens of each distribution that are compared; vLLM gives 20 unless told.",
)
@click.option(
    "--max-divergence",
    type=Finite(min=0, min_open=True),
    default=0.05,
    show_default=True,
    help="Mean KL divergence that is still the same, in nats a token.",
)
@click.option(
    "--max-ttft-increase-percent",
    type=Finite(min=0),
    default=20.0,
    show_default=True,
    help="How much longer the median first token may take.",
)
@click.option(
    "--max-itl-increase-percent",
    type=Finite(min=0),
    default=20.0,
    show_default=True,
    help="How much longer the median time between tokens may be.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the comparison as JSON to this file, too.",
)
def compare(
    old_url: str,
    new_url: str,
    prompts: Path,
    old_model: str | None,
    new_model: str | None,
    old_api_key_file: Path | None,
    new_api_key_file: Path | None,
    max_tokens: int,
    concurrency: int,
    repeats: int,
    timeout_seconds: float,
    top_logprobs: int,
    max_divergence: float,
    max_ttft_increase_percent: float,
    max_itl_increase_percent: float,
    as_json: bool,
    output: Path | None,
) -> int:
    """Replay prompts on OLD_URL and NEW_URL and say whether the new endpoint is as good.

    Exits 0 for the verdict Same, 1 for Worse and Undecided, as `halftone validate` does for gates
    that fail or decide nothing.
    """
    from halftone.serve.comparing.document import Verdict
    from halftone.serve.comparing.judging import Limits
    from halftone.serve.comparing.prompts import read_prompts
    from halftone.serve.comparing.replaying import Plan
    from halftone.serve.measuring.connection import Place

    if output is not None:
        require_writable(output)
    asked = read_prompts(prompts, max_tokens)
    places = (
        Place(old_url, old_api_key_file, "--old-api-key-file", "--old-model"),
        Place(new_url, new_api_key_file, "--new-api-key-file", "--new-model"),
    )
    plan = Plan(concurrency, repeats, top_logprobs, timeout_seconds)
    limits = Limits(max_divergence, max_ttft_increase_percent, max_itl_increase_percent)
    with ended_in_order():
        found = asyncio.run(_compare(places, (old_model, new_model), asked, plan, limits))
    text = found.model_dump_json(indent=2) + "\n"
    if as_json:
        click.echo(text, nl=False)
    else:
        from halftone.cli.compare_text import print_comparison

        print_comparison(found)
    if output is not None:  # last: what was measured is told where it cannot be written
        write_whole(output, text)
    return 0 if found.verdict is Verdict.Same else 1


async def _compare(
    places: "tuple[Place, Place]",
    models: tuple[str | None, str | None],
    prompts: "tuple[Prompt, ...]",
    plan: "Plan",
    limits: "Limits",
) -> "Comparison":
    from halftone.serve.comparing.judging import Subject, judge
    from halftone.serve.comparing.replaying import replay
    from halftone.serve.measuring.connection import connected

    async with (
        connected(places[0], plan.timeout_s) as old,
        connected(places[1], plan.timeout_s) as new,
    ):
        await old.find_model(models[0])
        await new.find_model(models[1])
        replayed = await replay(old, new, prompts, plan, _say)
        before, after = (Subject(each.place.url, each.model.name) for each in (old, new))
    return judge(replayed, before, after, plan, limits)


def _say(line: str) -> None:
    click.echo(f"halftone: {line}", err=True)
