"""Command lines in documents, and what is wrong with them though nobody runs them.

Called by `tests/contract/test_docs_commands.py`. A line of a block becomes simple commands, as a
shell would cut them; each is held to what it calls: our own program by its parser, Helm and kubectl
by their own help, a chart by rendering it with the values of the line, `make` by the Makefile.
"""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Final

import click

from halftone.cli.main import halftone
from tests.conftest import ROOT
from tools.servers import program

# Programs of others that no test here can ask about their options.
FOREIGN: Final = frozenset(
    {"aws", "curl", "docker", "grep", "head", "mkdir", "printf", "promtool", "sort", "tail"}
)
PROGRAMS: Final = FOREIGN | {"halftone", "helm", "kubectl", "make", "pip", "python", "export"}
# What a chart cannot be rendered without; a line's own values come behind and win.
_LEAST: Final = {
    "halftone-operator": ("image.registry=registry.test",),
    "halftone-endpoint": (
        "image.registry=registry.test",
        "apiKey.secretName=clients",
        "trust.publicKeyRef.name=signer",
        "artifact.uri=s3://models/out",
    ),
    "halftone-monitoring": (),
}
_APIS: Final = ("monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1", "ray.io/v1")
_VALUES: Final = frozenset({"--set", "--set-string", "--set-json"})


def simple_commands(text: str) -> list[list[str]]:
    """The commands of a block, as words; comments, redirections and assignments are left out."""
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        redirected = False
        for word in lexer:
            if set(word) <= set("|&;"):
                found.append(words)
                words = []
            elif set(word) <= set("<>"):
                redirected = True
            elif redirected:
                redirected = False
            elif words or not re.match(r"[A-Z_]+=", word):
                words.append(word)
        found.append(words)
    return [words for words in found if words]


def is_commands(language: str, text: str) -> bool:
    """Whether a block is something to type: marked as shell, or begun by a program we know."""
    if language:
        return language in {"sh", "bash", "console"}
    first = text.split(maxsplit=1)
    return bool(first) and first[0] in PROGRAMS


def problems(words: list[str]) -> list[str]:
    """What is wrong with one command, as sentences; none where it could be run."""
    name, *arguments = words
    match name.removeprefix(".venv/bin/"):
        case "halftone":
            return list(_of_halftone(arguments))
        case "make":
            return [f"there is no target `{one}`" for one in _missing_targets(arguments)]
        case "helm":
            return [*_of_options("helm", arguments), *_of_chart(arguments)]
        case "kubectl":
            return list(_of_options("kubectl", arguments))
        case "pip":
            return [f"there is no extra `{one}`" for one in _missing_extras(" ".join(arguments))]
        case "python":
            module = arguments[arguments.index("-m") + 1]
            return [] if find_spec(module) else [f"there is no module `{module}`"]
        case "export":
            return []
        case foreign if foreign in FOREIGN:
            return []
    return [f"nobody knows the program `{name}`"]


def unknown_words(span: str) -> list[str]:
    """Verbs and options of a code span `halftone …` that do not exist; it may be a fragment."""
    arguments = [word for word in span.split()[1:] if re.match(r"[a-z-]", word)]
    command, context, rest = _resolved(arguments)
    if command is None:
        return rest[:1]
    known = _names(command, context)
    told = [word.partition("=")[0] for word in rest if re.match(r"-{1,2}[a-z]", word)]
    return [word for word in told if word not in known]


def _resolved(
    arguments: list[str],
) -> tuple[click.Command | None, click.Context, list[str]]:
    """The command that the arguments begin with, and the others; None where a verb is unknown."""
    command: click.Command = halftone
    context = click.Context(halftone, info_name="halftone")
    rest = list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        if found is None:
            return None, context, rest
        command = found
        context = click.Context(command, info_name=rest.pop(0), parent=context)
    return command, context, rest


def _names(command: click.Command, context: click.Context) -> set[str]:
    return {
        name for one in command.get_params(context) for name in (*one.opts, *one.secondary_opts)
    }


def _of_halftone(arguments: list[str]) -> Iterator[str]:
    command, context, rest = _resolved(arguments)
    if command is None:
        yield f"there is no verb `{rest[0]}`"
        return
    if isinstance(command, click.Group):
        yield from (f"there is no `{one}`" for one in rest if one not in _names(command, context))
        return
    try:
        given, beyond, _ = command.make_parser(context).parse_args(args=list(rest))
    except click.UsageError as error:
        yield error.format_message()
        return
    if beyond:
        yield f"`{beyond[0]}` is one argument too many"
    if "help" in given:
        return
    for parameter in command.get_params(context):
        value = given.get(parameter.name or "")
        if value is None or parameter.value_is_missing(value):
            if parameter.required:
                yield f"`{parameter.human_readable_name}` is missing"
        elif isinstance(parameter.type, click.Choice | click.IntRange | click.FloatRange):
            yield from _unfit(parameter, value, context)


def _unfit(parameter: click.Parameter, value: object, context: click.Context) -> Iterator[str]:
    try:
        parameter.type_cast_value(context, value)
    except click.UsageError as error:
        yield error.format_message()


def _missing_targets(arguments: list[str]) -> list[str]:
    targets = set(re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "Makefile").read_text()))
    named = [one for one in arguments if "=" not in one and "/" not in one]
    return [one for one in named if one not in targets]


def _missing_extras(line: str) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = project["optional-dependencies"]
    named = re.findall(r"(?:halftone|\.)\[([a-z0-9,-]+)\]", line)
    return [one for extras in named for one in extras.split(",") if one not in known]


def _of_options(name: str, arguments: list[str]) -> Iterator[str]:
    """Options that the program does not have, by its own help."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    path = tuple(_subcommand(name, own))
    known = _options_of(name, path)
    for word in own:
        option = word.partition("=")[0]
        if re.fullmatch(r"-[a-zA-Z]|--[a-z-]+", option) and option not in known:
            yield f"`{name} {' '.join(path)}` has no option `{option}`"


def _subcommand(name: str, arguments: list[str]) -> Iterator[str]:
    """The words that name what the program does: one, or two or three where there are such."""
    deeper = {"create": 2, "rollout": 1} if name == "kubectl" else {}
    yield arguments[0]
    for word in arguments[1 : 1 + deeper.get(arguments[0], 0)]:
        if word in {"secret", "generic", "configmap", "namespace", "status"}:
            yield word


@cache
def _options_of(name: str, path: tuple[str, ...]) -> frozenset[str]:
    asked = [[*path, "--help"], *([["options"]] if name == "kubectl" else [])]
    said = ""
    for words in asked:
        command = [str(program(name)), *words]
        said += subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return frozenset(re.findall(r"(?<![\w-])(-[a-zA-Z]|--[a-z-]+)\b", said))


def _of_chart(arguments: list[str]) -> Iterator[str]:
    """What Helm says against the values of a line that names a chart of ours."""
    chart = next((one for one in arguments if one.startswith("charts/")), None)
    if chart is None:
        return
    if not (ROOT / chart / "Chart.yaml").is_file():
        yield f"there is no chart `{chart}`"
        return
    least = [word for one in _LEAST[Path(chart).name] for word in ("--set", one)]
    given = [
        # Placeholders, and files, stand for what a value's pattern would not take.
        [option, re.sub(r"=\$\(cat \S+\)$", "={}", value.replace("=DIGEST", "=" + "a" * 64))]
        for option, value in pairwise(arguments)
        if option in _VALUES
    ]
    served = [word for one in _APIS for word in ("--api-versions", one)]
    command = [str(program("helm")), "template", "small", chart, *served, *least]
    command += [word for pair in given for word in pair]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        yield found.stderr.strip()
