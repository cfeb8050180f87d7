"""We test these aspects of a sweep's predictions, on the pocket model and by hand (`make soak`):

- combinations stand in nearly the same order by predicted loss as by the KL divergence of the whole
  model, which the sweep never measures;
- weight error alone orders them less well, which is why the sweep asks for data.
"""

import random
import sysconfig
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from halftone.quantize.sweep.document import SweepDocument
from halftone.spec.names import SWEEP_FILE
from tests.commands import halftone
from tests.conftest import ROOT
from tests.environments import ask, python_of

pytestmark = [pytest.mark.soak, pytest.mark.quantize_env]

POCKET = ROOT / "examples" / "pocket-model"
COMBINATIONS = 40
TEXTS = 12


def swept(source: Path, budget: str, output: Path, *options: str | Path) -> SweepDocument:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HALFTONE_QUANTIZE_PYTHON", str(python_of("quantize")))
        ended = halftone("sweep", source, "--budget-gb", budget, "--output", output, *options)
    assert ended.code == 0, ended.err
    return SweepDocument.model_validate_json((output / SWEEP_FILE).read_bytes())


def losses_of(document: SweepDocument) -> dict[tuple[str, str], float]:
    return {
        (row.role, row.format): float(row.loss)
        for row in document.formats
        if row.format is not None and row.loss is not None
    }


def rank_correlation(left: list[float], right: list[float]) -> float:
    """Spearman's, without ties."""
    ranks = np.array([np.argsort(np.argsort(values)) for values in (left, right)])
    return float(np.corrcoef(ranks)[0, 1])


def passages() -> list[str]:
    """Text of the kind that the model was trained on, from modules in the order of their names."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = (
        path.read_text(encoding="utf-8")[600:1100] for path in sorted(folder.glob("[a-f]*.py"))
    )
    return list(islice((text for text in found if len(text) == 500), TEXTS))


def test_predicted_losses_stand_in_the_order_of_the_true_divergence(tmp_path: Path) -> None:
    source = POCKET / "checkpoint"
    data = ("--dataset", POCKET / "calibration.jsonl", "--max-sequence-length", "128")
    measured = losses_of(swept(source, "0.0075", tmp_path / "data", *data))
    free = losses_of(swept(source, "0.0075", tmp_path / "free"))
    draw = random.Random(5)
    combinations: list[dict[str, str]] = [{role: fmt} for role, fmt in measured]
    formats = {role: [None, *(f for r, f in measured if r == role)] for role, _ in measured}
    while len(combinations) < COMBINATIONS:
        drawn = {role: draw.choice(some) for role, some in formats.items()}
        combination = {role: fmt for role, fmt in drawn.items() if fmt is not None}
        if combination and combination not in combinations:
            combinations.append(combination)
    request = {"source": str(source), "texts": passages(), "combinations": combinations}
    true = ask("quantize", "sweep_truth.py", request, work=tmp_path, timeout_s=3600)

    predicted = [sum(measured[pair] for pair in one.items()) for one in combinations]
    both = [i for i, one in enumerate(combinations) if all(p in free for p in one.items())]
    by_weights = [sum(free[pair] for pair in combinations[i].items()) for i in both]
    with_data = rank_correlation(predicted, true)
    without = rank_correlation(by_weights, [true[i] for i in both])
    print(f"rank correlation with KL: {with_data:.3f} with data, {without:.3f} by weight error")
    assert with_data > 0.9
    assert 0 < without < with_data
