"""`halftone recipes`: what ships, or the text of one."""

import click

from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.spec.recipes import presets


@click.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the recipes, or print the one called NAME (a start for your own)."""
    known = presets()
    if name is None:
        width = max(map(len, known))
        for preset in known.values():
            click.echo(f"{preset.name:<{width}}  {preset.description}")
        return
    if name not in known:
        raise RefusedInput(
            Reason.UnknownRecipe,
            name,
            f"There is no recipe '{name}'; there are {', '.join(known)}.",
        )
    click.echo(known[name].text, nl=False)
