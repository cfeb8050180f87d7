"""The reference: pages that are written from what they describe, and leave nothing out.

We test these aspects:
- what lies in docs/reference is what would be written; a change, a missing page and a page of
  nobody's are noticed, and writing mends them;
- every field of the CRD with its description, every rule, every value of each chart, every verb
  with each of its options, every preset and every decision is there;
- versions are those of the files that pin them.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from halftone.cli.main import halftone
from halftone.spec.recipes import presets
from tests.conftest import ROOT
from tests.crd_schema import crd_schema, nodes, rules
from tools import charts, requirements
from tools.reference import chart_values, decisions
from tools.reference.__main__ import FOLDER, main, pages, stale, write
from tools.reference.commands import below
from tools.reference.markdown import cell

PAGES = pages()


def page(name: str) -> str:
    """One page of the reference."""
    return PAGES[f"{FOLDER}/{name}.md"]


def test_what_lies_there_is_what_would_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert stale() == []
    assert main(["check"]) == 0
    assert "pages fit what they describe" in capsys.readouterr().out
    assert main(["look"]) == 2


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed page": (
        lambda folder: (folder / "cli.md").write_text("# Every command\n"),
        "docs/reference/cli.md does not fit what it describes; run `make generate`.",
    ),
    "a page that is not there": (
        lambda folder: (folder / "recipes.md").unlink(),
        "docs/reference/recipes.md does not fit what it describes; run `make generate`.",
    ),
    "a page of nobody's": (
        lambda folder: (folder / "old.md").write_text("# Old\n"),
        "docs/reference/old.md is nobody's; run `make generate`.",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_stale_is_noticed_and_mended(tmp_path: Path, what: str) -> None:
    for folder in (FOLDER, "docs/adr"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    spoil, told = SPOILT[what]
    spoil(tmp_path / FOLDER)
    assert stale(tmp_path) == [told]
    write(tmp_path)
    assert stale(tmp_path) == []


def test_every_field_of_the_custom_resource_is_there() -> None:
    text = page("quantizationjob")
    parts = dict(re.findall(r"(?ms)^## (\S+)\n(.*?)(?=^## |\Z)", text))
    for path, node in nodes(crd_schema()):
        owner, _, name = path.rpartition(".")
        if owner.startswith(("spec", "status")) and not name.endswith(("]", "}")):
            row = next(one for one in parts[owner].splitlines() if one.startswith(f"| `{name}` |"))
            assert cell(node["description"]) in row, path
            assert all(f"`{word}`" in row for word in node.get("enum", ())), path


def test_every_rule_of_the_custom_resource_is_there() -> None:
    text = page("quantizationjob")
    found = rules(crd_schema())
    assert len(found) > 20
    assert [rule.path for rule in found if rule.message[1:] not in text] == []


@pytest.mark.parametrize("chart", chart_values.charts(), ids=lambda chart: chart.name)
def test_every_value_of_a_chart_is_there(chart: Path) -> None:
    text = page(chart.name)
    values = charts.read((chart / "values.yaml").read_text())
    count = 0
    while values:
        for value in values:
            if value.prose:
                assert f"| `{value.name}` |" in text, value.name
                assert cell(value.prose) in text, value.name
                count += 1
        values = [below for value in values for below in value.below]
    assert count > 10
    # Every type that a row links to is explained.
    used = set(re.findall(r"\[(\w+)\]\(#types\)", text))
    assert {one for one in used if f"\n| `{one}` | " not in text.partition("## Types")[2]} == set()


def test_every_verb_with_every_option_is_there() -> None:
    text = page("cli")
    found = list(below(halftone, click.Context(halftone, info_name="halftone")))
    assert len(found) > 25
    for command, context in found:
        part = text.partition(f"\n## {context.command_path}\n")[2].partition("\n## ")[0]
        assert part, context.command_path
        options = [one for one in command.params if isinstance(one, click.Option)]
        shown = [name for one in options if not one.hidden for name in one.opts]
        assert [name for name in shown if not re.search(rf"`.*{name}\b", part)] == []


def test_every_preset_and_every_decision_is_there() -> None:
    assert [one for one in presets() if f"\n## {one}\n" not in page("recipes")] == []
    index = PAGES["docs/adr/README.md"]
    assert [one.name for one in decisions.records() if f"]({one.name})" not in index] == []


def test_versions_are_those_that_are_pinned() -> None:
    text = page("compatibility")
    pins = requirements.pins((ROOT / "requirements" / "serve-gpu.txt").read_text())
    for name in ("vllm", "ray", "torch"):
        row = next(one for one in text.splitlines() if one.startswith(f"| {name} |"))
        assert row.split("|")[-2].strip() == pins[name]
    assert pins["ray"] == charts_ray(), "the chart's Ray is the image's"
    for name, module in (("KubeRay's operator", "kuberay"), ("etcd", "kubernetes")):
        row = next(one for one in text.splitlines() if one.startswith(f"| {name} |"))
        version = row.split("|")[2].strip()
        assert f" v{version}" in (ROOT / "tools" / "go" / module / "go.mod").read_text()


def charts_ray() -> str:
    """The version of Ray that the endpoint's chart says is in its image."""
    text = (ROOT / "charts" / "halftone-endpoint" / "values.yaml").read_text()
    found = re.search(r"(?m)^ray:\n(?:  .*\n)*?  version: \"?([\d.]+)\"?$", text)
    assert found is not None
    return found[1]
