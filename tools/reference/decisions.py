"""The list of decisions: each record's number and title, as its own first line has them.

Called by `tools.reference`.
"""

import re
from pathlib import Path
from typing import Final

from tools.reference.markdown import page, table

ADR: Final = Path(__file__).resolve().parents[2] / "docs" / "adr"

_TOLD: Final = """\
What somebody may want to undo one day, with the context it was decided in, its drawbacks and the
alternatives. Each is a page; a decision that is replaced stays, and says by which."""


def written() -> str:
    """The page."""
    return page("Decisions", _TOLD, table(["", "decision"], map(_row, records())))


def records() -> list[Path]:
    """Every record in order."""
    return sorted(ADR.glob("[0-9]*.md"))


def _row(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    found = re.match(r"# (\d+)\. (.+)\n", text)
    assert found is not None, f"{path.name} must begin with its number and title"
    return [found[1], f"[{found[2]}]({path.name})"]
