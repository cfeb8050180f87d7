"""`python -m tools.dashboards write|check`: the files of the chart, or whether they are fresh."""

import sys
from pathlib import Path
from typing import Final

from tools.dashboards import endpoint, operator, quantization
from tools.dashboards.boards import written

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "charts" / "halftone-monitoring" / "dashboards"


def generated() -> dict[Path, str]:
    """Each file as it should be."""
    boards = {"endpoint": endpoint, "quantization": quantization, "operator": operator}
    return {FOLDER / f"{name}.json": written(board.made()) for name, board in boards.items()}


def main(arguments: list[str]) -> int:
    """`write` or `check`; returns the exit status."""
    if arguments == ["write"]:
        FOLDER.mkdir(exist_ok=True)
        for path, text in generated().items():
            path.write_text(text, encoding="utf-8")
        return 0
    if arguments != ["check"]:
        print("dashboards: `write` or `check`, and nothing else.", file=sys.stderr)
        return 2
    stale = [
        f"{path.relative_to(ROOT)} does not fit its source; run `make generate`."
        for path, text in generated().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    print("\n".join(stale) or "dashboards: the files fit their source")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
