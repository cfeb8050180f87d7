"""Whether a command line of `halftone` is one: read by the program itself, and not carried out.

Called by tests of examples, documents and tools that print commands.
"""

import shlex
from pathlib import Path

import click

from halftone.cli.main import halftone
from tests.conftest import ROOT

# Files that a reader has and the checkout has not: options that want an existing one find it here.
READERS = ("key", "signing-key", "signing-key.pub")
# What the checkout's commands name below its root.
_LINKED = ("charts", "examples", "docs")


def stand_in_root(folder: Path) -> Path:
    """A folder that commands of a reader may name files in: parts of the checkout, and keys."""
    for name in _LINKED:
        (folder / name).symlink_to(ROOT / name)
    for name in READERS:
        (folder / name).write_text("a key\n")
    return folder


def read(line: str) -> click.Context:
    """The context of the verb that `line` calls, with its options read.

    Raises click.ClickException for an option or a value that the verb does not take. Paths are
    looked for in the current directory.
    """
    first, *words = shlex.split(line)
    assert first == "halftone", line
    command: click.Command = halftone
    context = click.Context(command, info_name=first)
    verb = first
    while isinstance(command, click.Group):
        verb, *words = words
        found = command.get_command(context, verb)
        assert found is not None, f"`{line}`: there is no verb '{verb}'"
        command = found
    return command.make_context(verb, words, parent=context)
