"""Python as an image has it: no module but those that its requirements name.

Called by tests that run there what a pod runs.

    [*only_what_the_operators_image_has(), "doctor", "--help"]    # `halftone doctor --help` there

NumPy stands in the requirements and is taken away by the Dockerfile.
"""

import re
import sys
from importlib.metadata import packages_distributions
from typing import Final

from tests.conftest import ROOT

_TAKEN_AWAY: Final = "numpy"
_SCRIPT: Final = """
import importlib, sys

class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {lacking!r}:
            raise ImportError(f"{{name}} is not in the operator's image")

sys.meta_path.insert(0, Lacking())
for name in {imported!r}:
    importlib.import_module(name)
from halftone.cli.main import main
main()
"""


def only_what_the_operators_image_has(*imported: str) -> list[str]:
    """The words before a verb of `halftone`; `imported` are modules to import first."""
    text = (ROOT / "requirements" / "operator.txt").read_text()
    there = {_plain(name) for name in re.findall(r"(?m)^([\w.-]+)==", text)} - {_TAKEN_AWAY}
    there.add("halftone")
    lacking = {
        module
        for module, distributions in packages_distributions().items()
        if not {_plain(each) for each in distributions} & there
    }
    return [sys.executable, "-c", _SCRIPT.format(lacking=lacking, imported=imported)]


def _plain(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
