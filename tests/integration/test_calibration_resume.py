"""Kill a calibration at any moment and run it again: the statistics are those of a quiet run.

Each case is some processes on one output directory, all but the last killed. Moments are counted
inside: every change of the directory, and every sample that went through a layer.

We test these aspects:
- killed at seeded moments, in CI, and at every moment, by hand: the same bytes, nothing that looks
  like statistics before they are whole, and nothing left over afterwards
- a layer that was measured is not measured again
- what lies there of other data is begun anew, and of another plan is refused
- a damaged journal, or a value that is missing, proves nothing
"""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.builders import write_checkpoint
from tests.builders.datasets import chat_rows, json_lines, text_rows, write_images, write_rows
from tests.environments import ask

pytestmark = pytest.mark.quantize_env

Answer = list[dict[str, Any]]

PARTIAL = ".statistics.partial"
BOTH = ["statistics.json", "statistics.safetensors"]
SEEDS = (1, 2, 3)
# Samples that go through five pieces: what stands before the layers, and four layers.
STEPS = 4 * 5


class Work:
    """A source, its rows, and outputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "out").mkdir()
        write_checkpoint(folder / "source", "qwen3_5", multi_token_prediction=False)
        pictures = write_images(folder / "pictures", 2)
        write_rows(folder / "rows.jsonl", [*text_rows(3), *chat_rows(2, images=pictures)])
        write_rows(folder / "other.jsonl", [*text_rows(3), *chat_rows(2, images=pictures)])
        self.changed = json_lines([*text_rows(3, seed=1), *chat_rows(2, images=pictures)]).decode()

    def case(
        self,
        output: str,
        *moments: int | None,
        rows: str = "rows.jsonl",
        role: str = "Mlp",
        spoilt: dict[str, str | None] | None = None,
    ) -> dict[str, Any]:
        """A question to the peer."""
        return {
            "source": str(self.folder / "source"),
            "output": str(self.folder / "out" / output),
            "moments": moments,
            "spoilt": [[str(self.folder), name, text] for name, text in (spoilt or {}).items()],
            "quantization": {
                "precision": [{"role": role, "format": "NVFP4"}],
                "kvCache": {"format": "FP8", "scales": "Calibrated"},
                "calibration": {
                    "dataset": {"path": str(self.folder / rows)},
                    "samples": 2,
                    "modalities": ["Text", "Image"],
                },
            },
        }

    def ask(self, cases: dict[str, dict[str, Any]], timeout_s: int = 250) -> dict[str, Answer]:
        """Every case in order, by processes of one peer."""
        found: list[Answer] = ask(
            "quantize",
            "calibration_kills.py",
            list(cases.values()),
            work=self.folder,
            timeout_s=timeout_s,
        )
        return dict(zip(cases, found, strict=True))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    work = Work(tmp_path_factory.mktemp("resume"))
    cases = {"quiet": work.case("quiet", None)}
    for seed in SEEDS:
        draw = random.Random(seed)
        moments = draw.randrange(1, 150), draw.randrange(1, 80)
        cases[f"killed {seed}"] = work.case(f"killed {seed}", *moments, None)
    cases |= {
        "killed late": work.case("other", 120, rows="other.jsonl"),
        "other data": work.case(
            "other", None, rows="other.jsonl", spoilt={"other.jsonl": work.changed}
        ),
        "other data, quiet": work.case("other, quiet", None, rows="other.jsonl"),
        "killed again": work.case("plan", 120),
        "other plan": work.case("plan", None, role="Attention"),
        "spoilt journal": work.case("plan", 120, spoilt={f"out/plan/{PARTIAL}/journal.json": "{}"}),
        "lost value": work.case("plan", None, spoilt={f"out/plan/{PARTIAL}/values/*": None}),
    }
    return work.ask(cases)


def assert_as_if_quiet(answer: Answer, quiet: Answer) -> None:
    *killed, last = answer
    whole = False
    for process in killed:
        assert process["ended"] is None
        whole = whole or set(BOTH) <= set(process["left"])
        assert whole or BOTH[0] not in process["left"]
    assert last["left"] == BOTH
    assert last["ended"]["document"] == quiet[-1]["ended"]["document"]
    total, done, skipped = last["ended"]["progress"]
    assert (total, done + skipped) == (0 if whole else STEPS, total)
    assert skipped % 4 == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_calibration_is_taken_up_and_gives_the_same(
    seed: int, answers: dict[str, Answer]
) -> None:
    assert_as_if_quiet(answers[f"killed {seed}"], answers["quiet"])


def test_what_was_measured_is_not_measured_again(answers: dict[str, Answer]) -> None:
    skipped = [answers[f"killed {seed}"][-1]["ended"]["progress"][2] for seed in SEEDS]

    assert max(skipped) >= 8


def test_work_on_other_data_is_begun_anew(answers: dict[str, Answer]) -> None:
    (after,), (quiet,) = answers["other data"], answers["other data, quiet"]

    assert answers["killed late"][0]["left"] == [PARTIAL]
    assert after["ended"]["progress"] == [STEPS, STEPS, 0]
    assert after["ended"]["document"] == quiet["ended"]["document"]
    assert after["ended"]["document"] != answers["quiet"][0]["ended"]["document"]


def test_work_of_another_plan_is_refused_and_kept(answers: dict[str, Answer]) -> None:
    (refused,) = answers["other plan"]

    assert refused["ended"]["refused"][1] == "OutputNotEmpty"
    assert "unfinished work of another plan" in refused["ended"]["refused"][3]
    assert refused["left"] == [PARTIAL]


def test_a_damaged_journal_and_a_lost_value_prove_nothing(answers: dict[str, Answer]) -> None:
    (spoilt,), (lost,) = answers["spoilt journal"], answers["lost value"]

    assert spoilt["left"] == [PARTIAL]
    assert lost["ended"]["progress"] == [STEPS, STEPS, 0]
    assert lost["ended"]["document"] == answers["quiet"][0]["ended"]["document"]


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_every_moment(tmp_path: Path) -> None:
    work = Work(tmp_path)
    quiet = work.ask({"quiet": work.case("quiet", None)})["quiet"]
    moments = range(1, quiet[0]["ended"]["moments"] + 1)

    found = work.ask({str(at): work.case(str(at), at, None) for at in moments}, timeout_s=7200)

    for answer in found.values():
        assert_as_if_quiet(answer, quiet)
