"""Whether vLLM's own command line takes lines of a model card; run in the serving environment.

    python vllm_serve_lines.py LINES.json ANSWERS.json

LINES is a list of command lines. ANSWERS gets for each what vLLM's parser made of it: the model and
every option that differs from its default, and the parsers for tools and reasoning that vLLM does
not know. A line that the parser refuses ends this script with its message. Nothing is loaded.
"""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

DEFAULTS = "default"


def parse(line: str) -> dict[str, Any]:
    """What one line asks for."""
    words = shlex.split(line)
    assert words[:2] == ["vllm", "serve"], line
    parser = FlexibleArgumentParser()
    commands = parser.add_subparsers(required=False, dest="subparser")
    ServeSubcommand().subparser_init(commands)
    asked = vars(parser.parse_args(words[1:]))
    plain = vars(parser.parse_args(["serve", asked["model_tag"]]))
    return {
        "model": asked["model_tag"],
        "options": {
            key: as_json(value) for key, value in asked.items() if value != plain.get(key, DEFAULTS)
        },
        "unknown": unknown_parsers(asked),
    }


def unknown_parsers(asked: dict[str, Any]) -> list[str]:
    """Names of parsers that vLLM has no class for."""
    known = (
        ("tool_call_parser", ToolParserManager.list_registered()),
        ("reasoning_parser", ReasoningParserManager.list_registered()),
    )
    return [str(asked[key]) for key, names in known if asked.get(key) and asked[key] not in names]


def as_json(value: Any) -> Any:
    """Configurations as text."""
    return value if isinstance(value, str | int | float | bool | dict | None) else str(value)


def main(lines: Path, answers: Path) -> None:
    """Parse every line of a file."""
    answers.write_text(json.dumps([parse(line) for line in json.loads(lines.read_text())]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
