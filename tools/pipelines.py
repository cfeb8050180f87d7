"""Compiles the pipeline into the package, and checks that what lies there is what would be written.

Called by `make generate` (`write`) and `make verify` (`check`). The compiled form is kfp's own, but
for its layout: keys in order, texts of several lines as such, so that a change can be read in a
diff. It must hold nothing of one machine.
"""

import difflib
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import yaml

from halftone.spec.pipelines import PIPELINE_FILE

ROOT: Final = Path(__file__).resolve().parent.parent
COMPILED: Final = ROOT / "src" / "halftone" / "recipes" / PIPELINE_FILE
_HEAD: Final = "# Written by `make generate` from pipelines/; do not edit.\n"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and nothing as a reference to something above."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def compiled() -> str:
    """The pipeline as it should lie in the package."""
    from kfp.compiler import Compiler

    from pipelines.quantization.pipeline import quantization

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, PIPELINE_FILE)
        Compiler().compile(quantization, str(path))
        document = yaml.safe_load(path.read_text())
    return _HEAD + yaml.dump(document, Dumper=_Dumper, width=100, allow_unicode=True)


def main(arguments: list[str]) -> int:
    """`write` or `check`."""
    if arguments not in (["write"], ["check"]):
        print("usage: python -m tools.pipelines write|check", file=sys.stderr)
        return 2
    wanted = compiled()
    if arguments == ["write"]:
        COMPILED.write_text(wanted)
        return 0
    there = COMPILED.read_text() if COMPILED.is_file() else ""
    name = str(COMPILED.relative_to(ROOT))
    lines = difflib.unified_diff(
        there.splitlines(), wanted.splitlines(), name, "compiled now", lineterm=""
    )
    if there != wanted:
        print("\n".join(lines))
        print(f"{name} is not what pipelines/ gives; run `make generate`.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
