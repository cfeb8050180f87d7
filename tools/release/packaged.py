"""The charts as Helm packages them, and the one version that all of a release has.

Called by `python -m tools.release check`. The version stands in `src/halftone/__init__.py`. Charts
repeat it because Helm reads nothing else; images get it when they are built, and charts ask for the
images of their own version unless somebody names another.
"""

import re
import subprocess
import tarfile
from pathlib import Path
from typing import Final

import yaml

from tools.images import version
from tools.servers import program

ROOT: Final = Path(__file__).resolve().parents[2]
CHARTS: Final = sorted(path.parent for path in (ROOT / "charts").glob("*/Chart.yaml"))
# What a user of a chart has use for; Helm's own tests of a chart are templates.
_HELD: Final = frozenset(
    {
        "Chart.yaml", "README.md", "values.yaml", "values.schema.json", ".helmignore",
        "dashboards", "files", "rules", "templates",
    }
)  # fmt: skip


def package(output: Path) -> list[Path]:
    """Every chart as an archive in `output`. Raises CalledProcessError with Helm's words."""
    output.mkdir(parents=True, exist_ok=True)
    for former in output.glob("*.tgz"):
        former.unlink()
    command = [str(program("helm")), "package", *map(str, CHARTS), "--destination", str(output)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return sorted(output.glob("*.tgz"))


def problems(archives: list[Path]) -> list[str]:
    """What is wrong with the archives: one missing, another version, a file of no use."""
    wanted = {f"{chart.name}-{version()}.tgz" for chart in CHARTS}
    found = {path.name for path in archives}
    sentences = [f"There is no {name}." for name in sorted(wanted - found)]
    for path in archives:
        strange = sorted({name.split("/")[1] for name in chart_names(path)} - _HELD)
        sentences += [
            f"{path.name} holds {name}, which a chart has no use for." for name in strange
        ]
    return sentences


def chart_names(archive: Path) -> list[str]:
    """The files of a packaged chart."""
    with tarfile.open(archive) as opened:
        return sorted(member.name for member in opened if member.isfile())


def version_problems(charts: list[Path] | None = None, changelog: str | None = None) -> list[str]:
    """Where another version stands than that of the package."""
    wanted, sentences = version(), []
    for chart in CHARTS if charts is None else charts:
        stated = yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))
        sentences += [
            f"{chart.name}/Chart.yaml has `{key}` {stated.get(key)}, and the package is {wanted}; "
            "write it there."
            for key in ("version", "appVersion")
            if str(stated.get(key)) != wanted
        ]
        values = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
        tag = values.get("image", {}).get("tag", "")
        if tag:
            sentences.append(f"{chart.name}/values.yaml pins the tag '{tag}'; leave it empty.")
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8") if changelog is None else changelog
    headings = re.findall(r"(?m)^## \[?([^\]\s]+)", text)
    if not headings or headings[0] not in ("Unreleased", wanted):
        sentences.append(f"CHANGELOG.md begins with neither 'Unreleased' nor {wanted}.")
    return sentences
