"""The wheel works outside the checkout: recipes ship in it, and a missing extra is named.

A fresh virtual environment gets the wheel and, as links, what its core dependencies need, without
the packages of the extras. So the second half also shows what the core commands do without.
"""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from halftone.spec.pipelines import PIPELINE_FILE
from tests.builders import write_checkpoint
from tests.conftest import ROOT

EXTRAS = ("boto3", "botocore", "huggingface_hub", "llvmlite", "numba")
PACKAGED = (ROOT / "src" / "halftone" / "recipes").glob("*.yaml")
RECIPES = sorted(path.stem for path in PACKAGED if path.name != PIPELINE_FILE)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout by the pinned build tool."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel and without the extras."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith((*EXTRAS, "halftone", "_")) and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def halftone(python: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`halftone …` in the fresh environment, away from the checkout."""
    command: list[str | Path] = [python, "-m", "halftone", *arguments]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_every_data_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "src"
    wanted = {
        str(path.relative_to(package))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = set(zipfile.ZipFile(wheel).namelist())
    assert wanted - held == set()
    assert {name for name in held if not name.startswith("halftone")} == set()


def test_the_wheel_declares_its_command_and_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        texts = {
            Path(name).name: archive.read(name).decode()
            for name in archive.namelist()
            if ".dist-info/" in name
        }
    assert "halftone = halftone.cli.main:main" in texts["entry_points.txt"]
    assert "halftone_cpu = halftone.engine:register" in texts["entry_points.txt"]
    assert "License-Expression: Apache-2.0" in texts["METADATA"]
    assert "Apache License" in texts["LICENSE"]


def test_the_package_is_imported_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import halftone; print(halftone.__file__)"
    shown = subprocess.run(
        [installed, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(shown.stdout).is_relative_to(installed.parent.parent)


def test_recipes_are_listed_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    listed = halftone(installed, tmp_path, "recipes")
    assert listed.returncode == 0, listed.stderr
    assert RECIPES
    assert [name for name in RECIPES if name not in listed.stdout] == []


def test_planning_a_directory_needs_no_extra(installed: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source", "qwen3")
    planned = halftone(installed, tmp_path, "plan", "source", "--recipe", "nvfp4a16", "--json")
    assert planned.returncode == 0, planned.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("plan", "s3://bucket/model", "--recipe", "nvfp4a16"), "s3"),
        (("plan", "hf://org/name@main", "--recipe", "nvfp4a16"), "hub"),
        (("quantize", "source", "output", "--recipe", "nvfp4a16"), "data-free"),
    ],
)
def test_a_missing_extra_is_named(
    installed: Path, tmp_path: Path, arguments: tuple[str, ...], extra: str
) -> None:
    write_checkpoint(tmp_path / "source", "qwen3")

    refused = halftone(installed, tmp_path, *arguments)

    assert refused.returncode == 3, refused.stderr
    assert f"halftone[{extra}]" in refused.stderr
    assert not (tmp_path / "output").exists()
