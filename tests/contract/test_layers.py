"""The layers of the package: that they hold, and that breaking one would be seen.

We test these aspects: the contracts of pyproject.toml are kept; an upward import, a stranger's
client and a GPU import each break the contract that is meant to stop it; the command line starts
without the heavy packages.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

HEAVY = ["boto3", "huggingface_hub", "llvmlite", "numba", "ray", "torch", "vllm"]


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package in `checkout/src`."""
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": f"{checkout / 'src'}:{checkout}", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def copy_code(checkout: Path) -> None:
    for folder in ("src", "operators", "pipelines"):
        shutil.copytree(
            ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", checkout)


def test_the_layers_hold() -> None:
    linted = lint_imports(ROOT)
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("halftone/spec/errors.py", "import halftone.plan", "a room imports lower rooms only"),
        (
            "halftone/stores/__init__.py",
            "import halftone.checkpoint",
            "a room imports lower rooms only",
        ),
        ("halftone/validate/__init__.py", "import boto3", "only stores talk to S3 and the Hub"),
        ("halftone/plan/__init__.py", "import numba", "spec, plan and control work on paper"),
        ("halftone/control/decision.py", "import kr8s", "spec, plan and control work on paper"),
        ("halftone/control/decision.py", "import halftone.plan", "a room imports lower rooms only"),
        ("../operators/__init__.py", "import halftone.quantize", "the operator is small"),
        (
            "halftone/quantize/__init__.py",
            "import torch",
            "the GPU stack is imported by our plugin of vLLM",
        ),
        (
            "halftone/validate/verdicts.py",
            "import vllm",
            "the GPU stack is imported by our plugin of vLLM",
        ),
    ],
)
def test_a_wrong_import_breaks_its_contract(
    tmp_path: Path, module: str, line: str, contract: str
) -> None:
    copy_code(tmp_path)
    with (tmp_path / "src" / module).open("a") as file:
        file.write(f"\n{line}\n")

    linted = lint_imports(tmp_path)

    assert linted.returncode == 1, linted.stdout
    broken = [text for text in linted.stdout.splitlines() if " BROKEN" in text]
    assert [text for text in broken if text.startswith(contract)], linted.stdout


def test_a_room_that_no_layer_names_is_noticed(tmp_path: Path) -> None:
    copy_code(tmp_path)
    room = tmp_path / "src" / "halftone" / "attic"
    room.mkdir()
    (room / "__init__.py").write_text('"""A room nobody listed."""\n')

    linted = lint_imports(tmp_path)

    assert linted.returncode == 1
    assert "attic" in linted.stdout


def test_the_command_line_starts_without_the_heavy_packages() -> None:
    code = "import halftone.cli.main, json, sys; print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert set(json.loads(loaded.stdout)) & set(HEAVY) == set()
