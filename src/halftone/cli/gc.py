"""`halftone gc`: what publishing left behind, listed; removed only when told so."""

import json
from contextlib import closing

import click
from rich.markup import escape
from rich.table import Table

from halftone.cli.plan_text import plain_console
from halftone.spec.artifacts import SHORT_DIGEST
from halftone.spec.presentation import short_size
from halftone.spec.publishing import Leftover
from halftone.stores.opening import open_target_uri


@click.command()
@click.argument("target", metavar="PATH_OR_URI")
@click.option("--yes", is_flag=True, help="Remove what is listed; it cannot be brought back.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def gc(target: str, yes: bool, as_json: bool) -> None:
    """List superseded artifacts and dead uploads of a directory, s3://bucket/prefix or hf://org/name.

    Never lists what a reader of the present artifact needs. With --yes removes what it lists.
    """
    with closing(open_target_uri(target)) as opened:
        found = list(opened.leftovers())
        is_empty = not found and opened.current() is None
        if yes:
            for leftover in found:
                opened.remove(leftover)
    if as_json:
        rows = [
            {
                "kind": str(row.kind),
                "uri": row.uri,
                "sizeBytes": row.size_bytes,
                "checkpointDigest": row.checkpoint_digest,
            }
            for row in found
        ]
        click.echo(json.dumps({"removed": yes, "leftovers": rows}, indent=2))
        return
    _print(found, yes)
    if is_empty:
        click.echo(f"there is no artifact at '{target}'", err=True)


def _print(found: list[Leftover], removed: bool) -> None:
    console = plain_console()
    if not found:
        console.print("nothing to remove")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("KIND", "DIGEST", "SIZE", "WHERE"):
        table.add_column(heading, justify="right" if heading == "SIZE" else "left")
    for row in found:
        digest = (row.checkpoint_digest or "")[:SHORT_DIGEST]
        table.add_row(row.kind, digest, short_size(row.size_bytes), escape(row.uri))
    console.print(table, soft_wrap=False)
    total = short_size(sum(row.size_bytes for row in found))
    console.print(f"removed {total}" if removed else f"{total}; `--yes` removes it")
