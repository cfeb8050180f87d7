"""The reference of the command line: every verb, argument and option, as the program has them.

Called by `tools.reference`. Texts are those of `--help`. Verbs are imported one by one, so this
takes as long as all of them together.
"""

import inspect
from collections.abc import Iterator
from typing import Any, Final

import click

from halftone.cli.main import halftone
from tools.reference.markdown import code, page, table

_TOLD: Final = """\
What `halftone VERB --help` says, of all verbs. Exit codes are the same everywhere: 0 done, 1 a
check failed, 2 the input was refused, 3 the surroundings failed (the message says how to mend
it), 130 interrupted. Where a verb has `--json`, standard output holds one JSON document and
nothing else; errors go to standard error."""


def written() -> str:
    """The page."""
    context = click.Context(halftone, info_name="halftone")
    parts = [
        _contents(context),
        *(part for found in below(halftone, context) for part in _section(*found)),
    ]
    return page("Every command", _TOLD, *parts)


def below(
    group: click.Group, context: click.Context
) -> Iterator[tuple[click.Command, click.Context]]:
    """Every command of a group, and of the groups in it, with the context that it is called in."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        inner = click.Context(command, info_name=name, parent=context)
        yield command, inner
        if isinstance(command, click.Group):
            yield from below(command, inner)


def _contents(context: click.Context) -> str:
    verbs = [(one, halftone.get_command(context, one)) for one in halftone.list_commands(context)]
    rows = [
        [f"[{name}](#halftone-{name})", command.get_short_help_str(limit=200).replace("<", "&lt;")]
        for name, command in verbs
        if command is not None
    ]
    return table(["verb", "what it does"], rows)


def _section(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"## {context.command_path}"
    yield f"{code(_usage(command, context))}"
    yield from _paragraphs(command.help or "")
    shown = [one for one in command.params if not getattr(one, "hidden", False)]
    rows = [_row(one, context) for one in shown]
    if rows:
        yield table(["argument or option", "what it is"], rows)


def _usage(command: click.Command, context: click.Context) -> str:
    return " ".join([context.command_path, *command.collect_usage_pieces(context)])


def _paragraphs(text: str) -> Iterator[str]:
    """The help text; what stands behind `\\b` keeps its lines."""
    for paragraph in inspect.cleandoc(text).replace("\f", "").split("\n\n"):
        if paragraph.startswith("\b"):
            yield f"```text\n{paragraph.removeprefix(chr(8)).strip(chr(10))}\n```"
        elif paragraph.strip():
            yield " ".join(paragraph.split()).replace("<", "&lt;")


def _row(parameter: click.Parameter, context: click.Context) -> list[str]:
    record: tuple[str, str] | None = parameter.get_help_record(context)
    if record is None:
        return [code(parameter.make_metavar(context)), _argument(parameter)]
    names, told = record
    return [code(names), told.replace("<", "&lt;")]


def _argument(parameter: Any) -> str:
    words = [parameter.type.name]
    words += [] if parameter.required else ["may be left out"]
    words += ["may be repeated"] if parameter.nargs == -1 else []
    return ", ".join(words)
