"""The report page of damaged, hostile and very large reports; each is drawn anew: seconds.

We test these aspects: text from tensors, logs and models is escaped, in drawings too; equal
documents give equal bytes; a page of a large model stays small; evidence of another form, and
errors without bound, are told and not drawn; the file is written whole or not at all. What a sound
page shows is tested in `tests/unit/test_page.py`.
"""

import copy
from pathlib import Path
from typing import Any

import pytest

from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason
from halftone.spec.presentation import DIVERGENCE_CAVEAT, VERDICT_MEANINGS
from halftone.spec.reports import Outcome, Report, Verdict
from halftone.validate.page import write_page
from halftone.validate.page.page import render_page
from tests.builders import write_checkpoint
from tests.commands import quantize_directory
from tests.pages import Page
from tests.reporting import Evidence, evidence_of, measured, unmeasured

HOSTILE = "<script>alert(1)</script> $x_1$ & \"'</svg></style>"
FIGURES = 6
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


def test_a_gate_that_did_not_run_says_why_and_shows_no_caveat(
    documents: Documents, evidence: Evidence
) -> None:
    stopped = {"outcome": Outcome.NotRun, "message": "Not run, because 'weight-error' failed."}
    given = measured(*documents, evidence, Verdict.Failed)
    gates = (*given.gates[:2], *(gate.model_copy(update=stopped) for gate in given.gates[2:]))
    report = given.model_copy(update={"gates": gates})
    page = Page(render_page(report, *documents, {"weight-error": evidence["weight-error"]}))
    assert page.text.count("Not run, because 'weight-error' failed.") == len(gates) - 2
    assert DIVERGENCE_CAVEAT not in page.text


def test_text_from_outside_is_never_markup(documents: Documents, evidence: Evidence) -> None:
    given = copy.deepcopy(evidence)
    given["loads"] |= {
        "generated": [{"text": HOSTILE}],
        "warnings": [HOSTILE],
        "kernels": [HOSTILE],
    }
    given["divergence"]["worst"] = [{HOSTILE: HOSTILE}]
    given["weight-error"]["groups"][0] |= {"name": HOSTILE, "role": HOSTILE}
    given["weight-error"]["roles"][0] |= {"role": HOSTILE}
    given["arithmetic"]["task"] = HOSTILE
    report = measured(*documents, given)
    report = report.model_copy(
        update={
            "message": HOSTILE,
            "gates": tuple(
                gate.model_copy(update={"message": HOSTILE, "culprit": HOSTILE, "limit": HOSTILE})
                for gate in report.gates
            ),
        }
    )
    page = Page(render_page(report, *documents, given))
    assert page.open == []
    assert "script" not in page.elements
    # Shown as it is: in messages, tables, drawings, generated text and the log.
    assert page.text.count("<script>alert(1)</script> $x_1$ &") > 20


def test_equal_documents_give_equal_bytes(
    documents: Documents, evidence: Evidence, full: str
) -> None:
    again = render_page(measured(*documents, evidence), *documents, evidence)
    assert again == full


def test_a_page_of_twenty_thousand_groups_stays_below_400_kilobytes(
    documents: Documents, evidence: Evidence
) -> None:
    group = evidence["weight-error"]["groups"][0]
    many = [
        group | {"name": f"model.layers.{layer}.mlp.experts.{n}.gate_up_proj", "layer": layer}
        for layer in range(80)
        for n in range(250)
    ]
    given = evidence | {"weight-error": evidence["weight-error"] | {"groups": many}}
    text = render_page(measured(*documents, given), *documents, given)
    assert len(text.encode()) < 400_000


def test_evidence_of_another_form_is_told_and_not_drawn(
    documents: Documents, evidence: Evidence
) -> None:
    given = evidence | {"weight-error": {"roles": "none"}}
    page = Page(render_page(measured(*documents, given), *documents, given))
    assert "The evidence of weight-error has another form" in page.text
    assert "Weight error by role" not in page.headings


def test_a_gate_that_could_not_measure_has_nothing_to_draw(
    documents: Documents, evidence: Evidence
) -> None:
    """Its sentence stands with the gates; neither an empty figure nor another form is told."""
    failed = {"error": "vLLM does not load the checkpoint."}
    given = dict.fromkeys(evidence, failed) | {"weight-error": evidence["weight-error"]}
    page = Page(render_page(measured(*documents, given), *documents, given))
    assert "another form" not in page.text
    drawn = {"KL divergence from the source", "Task recovery", "Speed by load"}
    assert not (drawn | {"What the server said"}) & set(page.headings)


def test_an_error_without_bound_is_told_beside_the_drawing(
    documents: Documents, evidence: Evidence
) -> None:
    given = copy.deepcopy(evidence)
    group = given["weight-error"]["groups"][0]
    group |= {"relativeError": None, "relativeErrorServing": None}
    given["weight-error"]["roles"][0] |= {"relativeErrorServing": None}
    page = Page(render_page(measured(*documents, given), *documents, given))
    assert f"Without bound, and so not drawn: {group['name']}." in page.text
    assert "unbounded" in page.text


def test_a_divergence_without_bound_is_told(documents: Documents, evidence: Evidence) -> None:
    given = copy.deepcopy(evidence)
    broken: dict[str, Any] = given["divergence"]
    broken |= {"mean": None, "p99": None, "standardError": None}
    broken["prompts"][0]["meanKl"] = None
    broken["perplexity"]["quantized"] = None
    broken["noiseFloor"] = {"mean": 0.0, "p99": 0.0}
    page = Page(render_page(measured(*documents, given), *documents, given))
    assert "18.02 → unbounded" in page.text
    assert f"unbounded ({broken['prompts'][0]['id']})" in page.text
    assert "KL divergence from the source" in page.headings


def test_a_single_unbounded_gate_score_is_no_reason_to_fail(
    documents: Documents, evidence: Evidence
) -> None:
    given = measured(*documents, evidence)
    gates = tuple(
        g.model_copy(update={"score": None, "interval": None, "sourceScore": None})
        for g in given.gates
    )
    report = given.model_copy(update={"gates": gates})
    page = Page(render_page(report, *documents, evidence))
    assert "Task recovery" in page.headings
    assert page.elements["svg"] == FIGURES - 1


def test_the_page_is_written_whole(
    documents: Documents, evidence: Evidence, full: str, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    write_page(measured(*documents, evidence), *documents, evidence, path)
    assert path.read_text() == full
    assert list(tmp_path.iterdir()) == [path]


def test_a_passed_report_does_not_say_emulated(documents: Documents, evidence: Evidence) -> None:
    given: Report = measured(*documents, evidence, Verdict.Passed)
    assert given.platform is not None
    real = given.platform.model_copy(update={"device": "NVIDIA B200", "emulated": False})
    report = given.model_copy(update={"platform": real})
    text = Page(render_page(report, *documents, evidence)).text
    assert "as deployed" in text
    assert "EngineLoads, emulated" not in text
    assert VERDICT_MEANINGS[Verdict.Emulated] not in text


def test_a_report_without_any_gate_says_so(documents: Documents) -> None:
    report = unmeasured(*documents).model_copy(update={"gates": ()})
    assert "No gate ran." in Page(render_page(report, *documents, {})).text


def test_a_place_that_cannot_be_written_is_named(
    documents: Documents, evidence: Evidence, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "report.html"
    with pytest.raises(EnvironmentFault) as caught:
        write_page(unmeasured(*documents), *documents, {}, path)
    assert caught.value.reason is Reason.StorageFailed
    assert str(path) in caught.value.message
