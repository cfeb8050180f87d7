"""Commands of Halftone in another environment, one after the other in one process.

    python halftone_commands.py REQUEST.json ANSWER.json

REQUEST is a list of argument lists, such as `["stage", "calibrate", "--workdir", "work"]`; ANSWER
has an exit code, standard output and standard error of each. Importing torch takes longer than
most of them.
"""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from halftone.cli.main import main


def run(arguments: list[str]) -> dict[str, Any]:
    """How one command ended."""
    out, told, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(told):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return {"code": code, "out": out.getvalue(), "err": told.getvalue()}


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps([run(arguments) for arguments in asked]))
