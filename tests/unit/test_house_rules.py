"""The house rules that no linter knows: sizes, docstrings, names, and nothing of one machine.

Called by pytest and by `make lint`. Each rule reads the tree; none imports the code it judges.
"""

import ast
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE_FOLDERS = ("src", "tests", "benchmarks", "tools", "examples", "operators", "pipelines")
LONGEST_FILE = 400
LONGEST_FUNCTION = 80
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc"}
SKIPPED_FOLDERS = {"build", "dist", "__pycache__"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def walk() -> Iterator[Path]:
    """Every file of the checkout except environments, caches and outputs."""
    for folder, folders, files in os.walk(ROOT):
        hidden = {name for name in folders if name.startswith(".") and name != ".ci"}
        folders[:] = sorted(set(folders) - hidden - SKIPPED_FOLDERS)
        yield from (Path(folder, name) for name in sorted(files))


FILES = list(walk())
MODULES = {
    path.relative_to(ROOT): path.read_text(encoding="utf-8")
    for path in FILES
    if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in CODE_FOLDERS
}
# Parsed once, before any test's clock runs.
TREES = {path: ast.parse(source) for path, source in MODULES.items()}


def functions() -> Iterator[tuple[str, Function]]:
    """Every function with the place where it stands."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{path}:{node.lineno} {node.name}", node


# Paths of this machine, and hosts of package indices (spelt apart, not to match here).
FOLDERS = sorted({str(ROOT), str(ROOT.parent), str(Path.home())} - {"/", tempfile.gettempdir()})
HOSTS = ("pypi" + ".org", "files.python" + "hosted.org", "registry.npm" + "js.org")


def foreign_words() -> re.Pattern[bytes]:
    """What no file may hold: a folder as the beginning of a path, or a host."""
    paths = [rf"(?<![\w.$/-]){re.escape(folder)}/" for folder in FOLDERS]
    return re.compile("|".join([*paths, *map(re.escape, HOSTS)]).encode())


def may_hold_one(data: bytes) -> bool:
    """Whether the slow search is worth its time; weights have megabytes."""
    return any(word.encode() in data for word in (*FOLDERS, *HOSTS))


def test_the_walk_finds_the_package_and_the_tests() -> None:
    assert {Path("src/halftone/__init__.py"), Path("tests/conftest.py")} <= MODULES.keys()


def test_no_file_is_longer_than_400_lines() -> None:
    sizes = {str(path): len(source.splitlines()) for path, source in MODULES.items()}
    assert {path: size for path, size in sizes.items() if size > LONGEST_FILE} == {}


def test_no_function_is_longer_than_80_lines() -> None:
    sizes = {where: (node.end_lineno or 0) - node.lineno + 1 for where, node in functions()}
    assert {where: size for where, size in sizes.items() if size > LONGEST_FUNCTION} == {}


def test_every_module_says_why_it_exists() -> None:
    assert [str(p) for p, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_every_function_says_what_it_returns() -> None:
    assert [where for where, node in functions() if node.returns is None] == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [str(p) for p in MODULES if VAGUE_NAMES & {*p.parts, *p.stem.split("_")}] == []


def test_no_file_holds_a_path_of_this_machine_or_a_package_index() -> None:
    forbidden = foreign_words()
    contents = ((path, path.read_bytes()) for path in FILES)
    found = {path: forbidden.search(data) for path, data in contents if may_hold_one(data)}
    assert {str(path): match.group() for path, match in found.items() if match} == {}


@pytest.mark.parametrize("text", [f"cd {ROOT}/src", f"'{Path.home()}/x'", "https://pypi" + ".org/"])
def test_a_path_of_this_machine_or_a_package_index_is_recognized(text: str) -> None:
    assert foreign_words().search(text.encode())
