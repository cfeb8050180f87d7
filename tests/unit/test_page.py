"""The report page: what it shows, what it leaves out, and that it needs nothing beside itself.

We test these aspects: verdict, gates and figures are there; what was not measured is not drawn; the
page refers to nothing outside of itself; failures are named. Drawing takes most of a second, so
pages are made in fixtures; `tests/contract/test_report_page.py` has those that each need one of
their own.
"""

import re
import sys
from collections import Counter

import pytest

from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason
from halftone.spec.presentation import DIVERGENCE_CAVEAT, VERDICT_MEANINGS
from halftone.spec.reports import Verdict
from halftone.validate.page.page import render_page
from tests.builders import write_checkpoint
from tests.commands import quantize_directory
from tests.pages import Page
from tests.reporting import Evidence, evidence_of, measured, unmeasured

FIGURES = [
    "Weight error by role",
    "Weight error by layer",
    "KL divergence from the source",
    "Size before and after",
    "Task recovery",
    "Speed by load",
]
Documents = tuple[Plan, CheckpointDocument]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    """Plan and checkpoint document of a tiny model that was really quantized."""
    folder = tmp_path_factory.mktemp("page")
    made = quantize_directory(write_checkpoint(folder / "source", "qwen3_5"), folder / "out")
    return made.planned.full_document(), made.document


@pytest.fixture(scope="module")
def evidence(documents: Documents) -> Evidence:
    return evidence_of(*documents)


@pytest.fixture(scope="module")
def full(documents: Documents, evidence: Evidence) -> str:
    """The page of a report with every gate; made once, because matplotlib is slow to start."""
    return render_page(measured(*documents, evidence), *documents, evidence)


@pytest.fixture(scope="module")
def bare(documents: Documents) -> str:
    """The page of a report with `gates: []` and no evidence."""
    return render_page(unmeasured(*documents), *documents, {})


def test_every_element_is_closed_and_every_identifier_is_there_once(full: str) -> None:
    page = Page(full)
    assert page.open == []
    identifiers = page.values("id")
    assert [name for name, times in Counter(identifiers).items() if times > 1] == []
    assert set(page.values("aria-labelledby")) <= set(identifiers)


def test_the_page_refers_to_nothing_outside_of_itself(full: str) -> None:
    page = Page(full)
    assert page.elements.keys().isdisjoint({"script", "link", "img", "iframe", "object", "base"})
    references = [v for name in ("href", "src", "xlink:href", "action") for v in page.values(name)]
    assert [value for value in references if not value.startswith("#")] == []
    targets = {*(v[1:] for v in references), *re.findall(r"url\(#([^)]*)\)", full)}
    assert targets <= set(page.values("id"))
    assert re.findall(r"url\((?!#)|@import|https?://", full) == []
    assert "default-src 'none'" in full


def test_the_verdict_comes_first_with_its_sentence_and_its_meaning(
    documents: Documents, evidence: Evidence, full: str
) -> None:
    report = measured(*documents, evidence)
    text = Page(full).text
    places = [text.index(part) for part in ("Emulated", report.message, "What was measured")]
    assert places == sorted(places)
    assert VERDICT_MEANINGS[Verdict.Emulated] in text


def test_every_gate_is_shown_with_its_numbers(
    documents: Documents, evidence: Evidence, full: str
) -> None:
    text = Page(full).text
    for gate in measured(*documents, evidence).gates:
        for part in (gate.name, gate.metric.value, gate.message, gate.limit, gate.sourceScore):
            assert part is None or part in text, gate.name
    assert "99.67 to 100.11 (90\N{NO-BREAK SPACE}%)".replace("\N{NO-BREAK SPACE}", " ") in text


def test_every_measurement_has_its_figure_with_a_description(full: str) -> None:
    page = Page(full)
    assert [h for h in page.headings if h in FIGURES] == FIGURES
    assert page.elements["svg"] == len(FIGURES)
    drawings = [v for tag, name, v in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert [alt.split(".")[0] for alt in drawings] == FIGURES
    assert "Attention" in drawings[0]


def test_the_page_says_where_the_quantized_model_is_slower(full: str) -> None:
    assert "slower than the source at these numbers of requests: 32 (83.1 %)" in Page(full).text


def test_how_it_was_measured_names_platform_versions_and_digests(
    documents: Documents, evidence: Evidence, full: str
) -> None:
    report, text = measured(*documents, evidence), Page(full).text
    expected = ("vllm 0.32.0+cpu", "emulated on a CPU", report.digest, report.checkpointDigest)
    assert [part for part in expected if part not in text] == []


def test_the_caveat_stands_beside_the_divergence_and_its_gate(full: str) -> None:
    assert Page(full).text.count(DIVERGENCE_CAVEAT) == 2


def test_what_was_not_measured_is_not_drawn(bare: str) -> None:
    page = Page(bare)
    assert [h for h in page.headings if h in FIGURES] == ["Size before and after"]
    assert "No model was loaded" in page.text
    assert "How well the model still answers was not measured" in page.text
    assert "no task was measured" in page.text
    assert DIVERGENCE_CAVEAT not in page.text


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_extra_is_named(
    documents: Documents, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EnvironmentFault) as caught:
        render_page(unmeasured(*documents), *documents, {})
    assert caught.value.reason is Reason.MissingDependency
    assert "halftone[report]" in caught.value.message
