"""The requirement files: that they fit pyproject.toml, and that a misfit would be seen."""

from importlib import metadata
from pathlib import Path

import pytest

from tools import requirements

PINNED = "numba==0.68.1 ; sys_platform == 'linux' \\\n    --hash=sha256:00\n"


@pytest.mark.parametrize("name", requirements.SETS)
def test_every_file_fits_the_project(name: str) -> None:
    assert requirements.check(name) == []


def test_the_tests_run_in_the_pinned_environment() -> None:
    pins = requirements.pins((requirements.FOLDER / "dev.txt").read_text())
    assert {name: metadata.version(name) for name in pins} == pins


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (PINNED + "--index-url https://example.test/simple\n", "names the address of a registry"),
        (PINNED + "    # via -r /somewhere/in.txt\n", "names a path of a machine"),
        ("numba==0.68.1\n", "has no hash for 'numba'"),
        ("", "does not pin 'numba>=0.61'"),
        (PINNED.replace("0.68.1", "0.5"), "pins numba to 0.5, which 'numba>=0.61' excludes"),
    ],
)
def test_a_misfit_is_named_with_its_remedy(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "default.txt").write_text(text)

    problems = requirements.check("default", tmp_path)

    assert f"requirements/default.txt {problem}; run `make requirements`." in problems


def test_a_set_that_adds_to_another_pins_what_the_other_pins(tmp_path: Path) -> None:
    text = (requirements.FOLDER / "quantize-dev.txt").read_text()
    torch = requirements.pins(text)["torch"]
    (tmp_path / "quantize-dev.txt").write_text(text.replace(f"\ntorch=={torch}", "\ntorch==1.0"))

    (problem,) = requirements.check("quantize-dev", tmp_path)

    assert f"does not pin torch to {torch}, as the set that it adds to does" in problem


@pytest.mark.parametrize("words", [["chekc"], ["check", "--upgrade"]])
def test_another_word_is_none(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert requirements.main(words) == 2
    assert "`write [--upgrade …]` or `check`, and nothing else" in capsys.readouterr().err
