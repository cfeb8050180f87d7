"""The page reads what the gates write: real evidence of each gate that runs without a server.

A field that a gate renames would otherwise only show as a missing figure. We test these aspects:
the weight error of a checkpoint that was really quantized, judged tasks, and divergence.
"""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from halftone.spec.gates import KlDivergence, Metric, Task
from halftone.spec.reports import GateResult, Report
from halftone.stores import open_source
from halftone.validate.gates import divergence
from halftone.validate.gates.task import judge_tasks
from halftone.validate.gates.token_divergence import Divergence, PromptMeasure
from halftone.validate.gates.weight_error import measure_weight_error
from halftone.validate.page.evidence import gather
from halftone.validate.page.page import render_page
from tests.builders import write_checkpoint
from tests.commands import Made, quantize_directory
from tests.pages import Page
from tests.reporting import unmeasured

Measured = tuple[GateResult, dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Measured]:
    """A checkpoint, and what the gate says of its weights."""
    folder = tmp_path_factory.mktemp("evidence")
    source = write_checkpoint(folder / "source", "qwen3_5_moe")
    made = quantize_directory(source, folder / "out")
    with closing(open_source(source)) as base, closing(open_source(folder / "out")) as written:
        return made, measure_weight_error(None, made.planned, base, written)


def answered(scores: list[int]) -> Mapping[str, Any]:
    """What a model's answers to a task are told as."""
    items = [{"id": str(n), "score": score, "prompt": "1+1="} for n, score in enumerate(scores)]
    fixed = {"metric": "exact_match", "higherIsBetter": True, "fewShot": 0, "dataSha256": "0" * 64}
    return {"task": "arithmetic", "items": items, **fixed}


def task() -> Measured:
    gate = Task(name="sums", metric=Metric.Task, task="arithmetic.yaml", minRecoveryPercent=90)
    source = answered([1] * 190 + [0] * 10)
    ((result, evidence),) = judge_tasks([gate], [source], [answered([1] * 189 + [0] * 11)])
    return result, evidence


def diverged(largest: float) -> Measured:
    """Two prompts whose largest divergence is `largest`."""
    gate = KlDivergence(name="kl", metric=Metric.KlDivergence, maximum="0.1")
    values = np.array([0.0, 1e-4, largest])
    losses = np.array([1.0, 2.0, 3.0])
    prompts = tuple(
        PromptMeasure(
            name,
            kind,
            values,
            np.array([True, True, False]),
            losses,
            losses + 0.01,
            (1, 2, 3),
            ("a", "<b>", "\n"),
        )
        for name, kind in (("p-1", "text"), ("p-2", "code"))
    )
    measured = Divergence(prompts, np.array([0.0, 0.0, 1e-9]), "0" * 64, 64, "fixed ids")
    return divergence.judge(gate, measured), divergence.evidence(measured)


def with_gates(made: Made, *measured: Measured) -> tuple[Report, dict[str, dict[str, Any]]]:
    report = unmeasured(made.planned.full_document(), made.document)
    gates = tuple(result for result, _ in measured)
    evidence = {result.name: found for result, found in measured}
    return report.model_copy(update={"gates": gates}), evidence


def test_no_gate_writes_what_the_page_cannot_read(made: tuple[Made, Measured]) -> None:
    report, evidence = with_gates(made[0], made[1], task(), diverged(0.01), diverged(np.inf))
    found = gather(report, evidence)
    assert found.unreadable == ()
    assert found.weights is not None
    assert found.weights.groups
    assert found.divergence is not None
    assert found.divergence.histogram is not None
    assert found.tasks.keys() == {"sums"}


def test_every_gate_has_its_figure(made: tuple[Made, Measured]) -> None:
    report, evidence = with_gates(made[0], made[1], task(), diverged(0.01))
    plan, document = made[0].planned.full_document(), made[0].document
    page = Page(render_page(report, plan, document, evidence))
    titles = {
        "Weight error by role",
        "Weight error by layer",
        "KL divergence from the source",
        "Task recovery",
    }
    assert titles - set(page.headings) == set()
    assert "sums: arithmetic, exact_match" in page.text


def test_an_infinite_divergence_is_told(made: tuple[Made, Measured]) -> None:
    report, evidence = with_gates(made[0], diverged(np.inf))
    plan, document = made[0].planned.full_document(), made[0].document
    assert (
        "KL divergence from the source"
        in Page(render_page(report, plan, document, evidence)).headings
    )
