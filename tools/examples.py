"""Runs a numbered example, or prints the commands of one that needs more than this machine.

Called by `make example N=01`, and by tests, which take an example's commands from here:

    python -m tools.examples 05

The commands of a job are its lines `# cmd: …`; those of a folder stand in the `sh` blocks of its
README. They are run as they are printed there, from the root of the checkout. It must not run
anything that reaches a cluster or a repository of somebody else's.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / "examples"
# What runs with nothing but this machine, and the environments that it needs beside `.venv`.
HERE: Final[dict[str, tuple[str, ...]]] = {"01": ("serve",), "02": ("quantize", "serve"), "05": ()}

_BLOCK: Final = re.compile(r"(?m)^```sh\n(.*?)^```", re.DOTALL)


def examples() -> dict[str, Path]:
    """Every numbered example: its number, and its file or folder."""
    return {path.name[:2]: path for path in sorted(FOLDER.glob("[0-9][0-9]-*"))}


def jobs() -> list[Path]:
    """Every QuantizationJob among the examples, in their order."""
    files = (
        path
        for example in examples().values()
        for path in ([example] if example.is_file() else sorted(example.glob("*.yaml")))
    )
    return [path for path in files if "\nkind: QuantizationJob\n" in path.read_text()]


def commands(example: Path) -> list[str]:
    """The commands of a job file or of a folder, each on one line."""
    if example.is_file():
        return re.findall(r"(?m)^# cmd: (.+)$", example.read_text(encoding="utf-8"))
    text = (example / "README.md").read_text(encoding="utf-8")
    joined = "".join(_BLOCK.findall(text)).replace("\\\n", " ")
    return [" ".join(line.split()) for line in joined.splitlines() if line.strip()]


def main(numbers: list[str]) -> int:
    """Run or print one; returns the status of the first command that fails."""
    found = examples()
    if len(numbers) != 1 or numbers[0] not in found:
        print(f"Name one example: {', '.join(found)}; such as `make example N=01`.")
        return 2
    (number,) = numbers
    lines = commands(found[number])
    if number not in HERE:
        place = found[number].relative_to(ROOT)
        print(f"{place} needs more than this machine. Its commands:", *lines, sep="\n")
        return 2
    from tools import environments

    environments.main(list(HERE[number]))
    for line in lines:
        print(f"$ {line}", flush=True)
        status = subprocess.run(_here(line), cwd=ROOT, check=False).returncode
        if status:
            return status
    return 0


def _here(line: str) -> list[str]:
    """The words of a command, with `halftone` of this environment."""
    words = shlex.split(line)
    return [sys.executable, "-m", "halftone", *words[1:]] if words[0] == "halftone" else words


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
