"""Wheel and sdist: what they hold, that one gives the other, and that their metadata are whole.

Called by `python -m tools.release check`. Both are built by the pinned hatchling, from the checkout
and then the wheel once more from the sdist: equal bytes, or somebody gets another Halftone.
"""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
# Beside the package itself; `.gitignore` says to hatchling what a checkout leaves out.
_BESIDE: Final = frozenset(
    {".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
)
_PACKAGE: Final = "halftone"


def build(output: Path) -> tuple[Path, Path]:
    """Wheel and sdist in `output`. Raises subprocess.CalledProcessError; hatchling has said why."""
    output.mkdir(parents=True, exist_ok=True)
    for former in (*output.glob("*.whl"), *output.glob("*.tar.gz")):
        former.unlink()
    _hatchling(ROOT, output)
    return next(output.glob("*.whl")), next(output.glob("*.tar.gz"))


def problems(wheel: Path, sdist: Path) -> list[str]:
    """What is wrong with both."""
    return [
        *_foreign(wheel, wheel_names(wheel)),
        *_foreign(sdist, sdist_names(sdist)),
        *_lacking(wheel, sdist),
        *_built_again(wheel, sdist),
        *_metadata(wheel, sdist),
    ]


def wheel_names(wheel: Path) -> list[str]:
    """The files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return sorted(name for name in archive.namelist() if not name.endswith("/"))


def sdist_names(sdist: Path) -> list[str]:
    """The files of an sdist, without its one folder."""
    with tarfile.open(sdist) as archive:
        names = (member.name.partition("/")[2] for member in archive if member.isfile())
        return sorted(names)


def _foreign(path: Path, names: list[str]) -> list[str]:
    """Files that are none of Halftone's: tests, tools, somebody's secrets."""
    inside = ("src/halftone/",) if path.name.endswith(".tar.gz") else ("halftone/", "halftone-")
    strange = [
        name
        for name in names
        if not (name.startswith(inside) or name in _BESIDE) or "__pycache__" in name
    ]
    return [f"{path.name} holds {name}, which is no part of the package." for name in strange]


def _lacking(wheel: Path, sdist: Path) -> list[str]:
    """Files that git keeps below `src/halftone` and a distribution has not."""
    listed = subprocess.run(
        ["git", "ls-files", "src/halftone"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    in_wheel = {f"src/{name}" for name in wheel_names(wheel)}
    in_sdist = set(sdist_names(sdist))
    return [
        f"{path.name} lacks {name}, which the checkout has."
        for path, held in ((wheel, in_wheel), (sdist, in_sdist))
        for name in sorted(set(listed) - held)
        if (ROOT / name).exists()
    ]


def _built_again(wheel: Path, sdist: Path) -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (unpacked,) = folder.iterdir()
        _hatchling(unpacked, folder / "again", "--target", "wheel")
        again = next((folder / "again").glob("*.whl"))
        if again.name == wheel.name and _sha256(again) == _sha256(wheel):
            return []
        return [f"{sdist.name} builds a wheel that is not {wheel.name} byte for byte."]


def _metadata(*paths: Path) -> list[str]:
    """What an index would say of them."""
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, paths)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    told = " ".join((found.stdout + found.stderr).split())
    return [f"twine does not take the metadata: {told}"] if found.returncode else []


def _hatchling(folder: Path, output: Path, *options: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(output), *options]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
