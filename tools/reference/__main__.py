"""`python -m tools.reference write|check`: the reference pages, or what is stale among them."""

import sys
from pathlib import Path
from typing import Final

from tools.reference import (
    chart_values,
    commands,
    custom_resource,
    decisions,
    recipes,
    versions,
)

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = "docs/reference"
ADR: Final = "docs/adr"


def pages() -> dict[str, str]:
    """Every page as it should be, by its path in the repository."""
    charts = {f"{chart.name}.md": chart_values.written(chart) for chart in chart_values.charts()}
    named = {
        "quantizationjob.md": custom_resource.written(),
        "cli.md": commands.written(),
        "recipes.md": recipes.written(),
        "compatibility.md": versions.written(),
    }
    inside = {f"{FOLDER}/{name}": text for name, text in sorted({**charts, **named}.items())}
    return {**inside, f"{ADR}/README.md": decisions.written()}


def stale(root: Path = ROOT) -> list[str]:
    """What is wrong with the pages of the checkout `root`, as sentences."""
    wanted = pages()
    wrong = [name for name, text in wanted.items() if _text(root / name) != text]
    told = [f"{name} does not fit what it describes" for name in wrong]
    told += [f"{name} is nobody's" for name in sorted(_there(root) - wanted.keys())]
    return [f"{one}; run `make generate`." for one in told]


def write(root: Path = ROOT) -> None:
    """Write every page, and remove what is none."""
    (root / FOLDER).mkdir(exist_ok=True)
    wanted = pages()
    for name in _there(root) - wanted.keys():
        (root / name).unlink()
    for name, text in wanted.items():
        (root / name).write_text(text, encoding="utf-8")


def _there(root: Path) -> set[str]:
    return {f"{FOLDER}/{path.name}" for path in (root / FOLDER).glob("*.md")}


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def main(arguments: list[str]) -> int:
    """`write` or `check`; returns the exit status."""
    if arguments == ["write"]:
        write()
        return 0
    if arguments != ["check"]:
        print("reference: `write` or `check`, and nothing else.", file=sys.stderr)
        return 2
    problems = stale()
    print("\n".join(problems) or f"reference: {len(pages())} pages fit what they describe")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
