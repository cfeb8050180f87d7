"""The dashboards' JSON, held to Grafana's own types by TypeScript; no Grafana server is at hand.

We test these aspects:
- every file is a dashboard as `@grafana/schema` has it, panels in collapsed rows included;
- a field that is misspelt, of another type, or a word that its enumeration lacks is found.

tests/grafana/check.mjs says what is let through. What the schema leaves open (the options of a
panel, what a query holds) is not looked at here.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import ROOT
from tools.dashboards.__main__ import FOLDER

SOURCE: Final = ROOT / "tests" / "grafana"
MODULES: Final = ROOT / ".tools" / "grafana"
PINS: Final = ("package.json", "package-lock.json")
MISSING: Final = "Node and npm are not on PATH; install Node 20 or newer to check dashboards"


@pytest.fixture(scope="module")
def modules() -> Path:
    """A folder with the pinned packages; they are fetched when the pins changed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    wanted = {name: (SOURCE / name).read_text() for name in PINS}
    stamp = MODULES / "ready"
    if not stamp.is_file() or stamp.read_text() != "".join(wanted.values()):
        MODULES.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        for name, text in wanted.items():
            (MODULES / name).write_text(text)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        found = subprocess.run(command, cwd=MODULES, check=False, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        stamp.write_text("".join(wanted.values()))
    return MODULES


def checked(modules: Path, *files: Path) -> tuple[int, str]:
    """What tsc says of files, with its status."""
    work = modules / f"work-{os.getpid()}"
    command = ["node", str(SOURCE / "check.mjs"), str(modules), str(work), *map(str, files)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    shutil.rmtree(work)
    return found.returncode, found.stdout + found.stderr


def test_every_dashboard_is_one_by_grafanas_types(modules: Path) -> None:
    files = sorted(FOLDER.glob("*.json"))
    assert len(files) == 3
    assert checked(modules, *files) == (0, "")


def _row(board: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in board["panels"] if one["type"] == "row")
    return found


def _misspelt(board: dict[str, Any]) -> None:
    panel = _row(board)["panels"][0]
    panel["gridPoz"] = panel.pop("gridPos")


def _another_type(board: dict[str, Any]) -> None:
    board["refresh"] = 30


def _no_word(board: dict[str, Any]) -> None:
    board["panels"][0]["fieldConfig"]["defaults"]["color"]["mode"] = "thresholdz"


def _strange_mark(board: dict[str, Any]) -> None:
    board["annotations"]["list"][0]["expression"] = "1"


SPOILT: Final[dict[str, tuple[Callable[[dict[str, Any]], None], str]]] = {
    "misspelt": (_misspelt, "'\"gridPoz\"' does not exist"),
    "another-type": (_another_type, "'number' is not assignable to type 'string'"),
    "no-word": (_no_word, '"thresholdz"'),
    "strange-mark": (_strange_mark, "'\"expression\"' does not exist"),
}


def test_what_is_wrong_is_found(modules: Path, tmp_path: Path) -> None:
    for name, (spoil, _) in SPOILT.items():
        board = json.loads((FOLDER / "endpoint.json").read_text())
        spoil(board)
        (tmp_path / f"{name}.json").write_text(json.dumps(board, indent=1))
    status, told = checked(modules, *tmp_path.iterdir())
    assert status != 0
    for name, (_, said) in SPOILT.items():
        lines = [line for line in told.splitlines() if f"{name}.dashboard.ts" in line]
        assert any(said in line for line in lines), (name, told)
