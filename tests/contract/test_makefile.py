"""The Makefile is the one door: everything in it is documented, and short."""

import re
import subprocess

from tests.conftest import ROOT

TEXT = (ROOT / "Makefile").read_text()
LONGEST_RECIPE = 3


def test_make_alone_prints_every_target() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = {name for line in re.findall(r"(?m)^\.PHONY:(.*)$", TEXT) for name in line.split()}
    assert targets - set(re.findall(r"(?m)^  (\S+) +\S", shown)) == set()
    assert {"setup", "demo", "test", "lint", "bench", "verify", "clean"} <= targets


def test_no_recipe_is_longer_than_three_lines() -> None:
    recipes = re.findall(r"(?m)^(\S+):.*\n((?:\t.*\n)+)", TEXT)
    assert recipes
    assert [name for name, recipe in recipes if recipe.count("\n") > LONGEST_RECIPE] == []


def test_the_demo_takes_another_port_where_its_own_is_taken() -> None:
    def serves(*words: str) -> str:
        shown = subprocess.run(
            ["make", "-n", "demo", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        (line,) = (line for line in shown.splitlines() if "halftone serve" in line)
        return line

    assert "--port" not in serves()
    assert serves("DEMO_PORT=8123").endswith("--port 8123")
