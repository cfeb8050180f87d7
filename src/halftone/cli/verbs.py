"""A group of verbs that are imported when they are called: `--help` should not cost a second.

Called by `main` and by verbs that have verbs of their own.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import click


class Verbs(click.Group):
    """Knows what each verb does without importing it.

    `module` and `attribute` say where a verb's command is, with `{}` in the verb's place.
    """

    def __init__(
        self, *arguments: Any, verbs: Mapping[str, str], module: str, attribute: str, **more: Any
    ) -> None:
        super().__init__(*arguments, **more)
        self._verbs = verbs
        self._module = module
        self._attribute = attribute

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._verbs:
            return None
        module = importlib.import_module(self._module.format(cmd_name))
        command = getattr(module, self._attribute.format(cmd_name))
        if not isinstance(command, click.Command):
            raise TypeError(f"{module.__name__} has no command. This is a bug. Please report.")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self._verbs.items()))
