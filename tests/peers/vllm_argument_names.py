"""Names of all arguments that vLLM's engine and server take; run in the serving environment.

    python vllm_argument_names.py vllm_arguments.yaml

writes `src/halftone/serve/arguments/vllm_arguments.yaml` anew, for whoever has no vLLM. The peer
`vllm_engine_arguments.py` gives the same names to the test that compares the file.
"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import vllm
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import FrontendArgs

HEAD = """# Every argument of vLLM: its engine's (`AsyncEngineArgs`), its server's (`FrontendArgs`).
# Written by tests/peers/vllm_argument_names.py; a test in the serving environment compares it.
"""


def names() -> dict[str, Any]:
    """{version, engine, server}; what both have is the engine's."""
    engine = _public(AsyncEngineArgs)
    return {
        "version": vllm.__version__.partition("+")[0],
        "engine": sorted(engine),
        "server": sorted(_public(FrontendArgs) - engine),
    }


def _public(arguments: Any) -> set[str]:
    found = {field.name for field in dataclasses.fields(arguments)}
    return {name for name in found if not name.startswith("_")}


def main(table: Path) -> None:
    """Write the table."""
    found = names()
    lines = [f"version: {found['version']}"]
    for key in ("engine", "server"):
        lines += [f"{key}:", *(f"- {name}" for name in found[key])]
    table.write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
