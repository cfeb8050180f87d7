"""`Task` and `Speed` as real vLLM and real lm-evaluation-harness measure them, on the pocket model.

One process loads the model and is asked everything; what it answers goes through the gates. No
network is there, and the harness' data are files of the test.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from halftone.spec.capacity import CapacityCard
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.gates import Metric, Speed, Task
from halftone.spec.names import Reason
from halftone.spec.reports import Outcome
from halftone.validate.gates.speed import judge
from halftone.validate.gates.task import judge_tasks
from halftone.validate.serving.session import EngineOptions, EngineSession
from tests.conftest import ROOT
from tests.environments import python_of

pytestmark = pytest.mark.serve_env

EXAMPLE = ROOT / "examples" / "pocket-model"
TASK = EXAMPLE / "arithmetic.yaml"
ITEMS = [json.loads(line) for line in (EXAMPLE / "arithmetic.jsonl").read_text().splitlines()]
LOAD = {"concurrencies": [1, 2], "promptTokens": 16, "outputTokens": 8, "repetitions": 2}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineSession]:
    """The pocket model, loaded once, in a process that finds no cache and leaves none."""
    folder = tmp_path_factory.mktemp("session")
    options = EngineOptions(
        maxModelLen=512,
        maxSequences=64,
        loadTimeoutSeconds=280,
        answerTimeoutSeconds=280,
        environment={"HF_HOME": str(folder / "hub"), "OMP_NUM_THREADS": "2"},
    )
    log = folder / "vllm.log"
    with EngineSession(
        EXAMPLE / "checkpoint", log=log, options=options, python=python_of("serve")
    ) as opened:
        yield opened
    assert not list(folder.rglob("hub/datasets/json*"))  # where tables of local data would be kept


@pytest.fixture(scope="module")
def arithmetic(session: EngineSession) -> dict[str, Any]:
    return session.ask("task", task=str(TASK), sampleLimit=100)


def written(folder: Path, name: str, lines: list[Any], **fields: Any) -> str:
    """A local task, its data beside it under a relative name."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config | fields))
    return str(path)


def test_arithmetic_is_scored_item_by_item(arithmetic: dict[str, Any]) -> None:
    assert arithmetic["task"] == "pocket-arithmetic"
    assert arithmetic["metric"] == "exact_match"
    assert arithmetic["higherIsBetter"] is True
    assert arithmetic["fewShot"] == 0
    assert [item["id"] for item in arithmetic["items"]] == [str(i) for i in range(100)]
    assert [i["prompt"] for i in arithmetic["items"]] == [i["prompt"] for i in ITEMS[:100]]
    scores = [item["score"] for item in arithmetic["items"]]
    assert set(scores) == {0.0, 1.0}
    assert arithmetic["score"] == sum(scores) / 100
    assert 0.75 <= arithmetic["score"] <= 0.95  # 88 % of all thousand
    assert 0.02 < arithmetic["standardError"] < 0.05


def test_the_same_model_asked_again_recovers_everything(
    session: EngineSession, arithmetic: dict[str, Any]
) -> None:
    again = session.ask("task", task=str(TASK), sampleLimit=100)
    gate = Task(name="sums", metric=Metric.Task, task=str(TASK), minRecoveryPercent=90)
    [(result, evidence)] = judge_tasks([gate], [arithmetic], [again])
    assert result.outcome is Outcome.Passed
    assert result.score == "100.00"
    assert evidence["difference"] == 0


def test_other_data_under_the_same_ids_are_noticed(
    session: EngineSession, arithmetic: dict[str, Any], tmp_path: Path
) -> None:
    shifted = written(
        tmp_path, "pocket-arithmetic", ITEMS[1:101], generation_kwargs={"until": ["\n"]}
    )
    other = session.ask("task", task=shifted, sampleLimit=None)
    gate = Task(name="sums", metric=Metric.Task, task=str(TASK), minRecoveryPercent=90)
    with pytest.raises(RefusedInput, match="not asked the same"):
        judge_tasks([gate], [arithmetic], [other])


def test_multiple_choice_is_scored_by_log_likelihood(
    session: EngineSession, arithmetic: dict[str, Any], tmp_path: Path
) -> None:
    """The right sum among two near misses is chosen at least as often as it is written freely."""
    lines = []
    for item in ITEMS[:40]:
        answer = int(item["answer"])
        choices = [f"{answer + 1}\n", f"{answer}\n", f"{answer + 10}\n"]
        lines.append({"prompt": item["prompt"], "choices": choices, "gold": 1})
    task = written(
        tmp_path,
        "choices",
        lines,
        output_type="multiple_choice",
        doc_to_choice="{{choices}}",
        doc_to_target="gold",
        metric_list=[
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        ],
    )
    found = session.ask("task", task=task, sampleLimit=None)
    assert found["metric"] == "acc"
    assert len(found["items"]) == 40
    free = [item["score"] for item in arithmetic["items"][:40]]
    chosen = [item["score"] for item in found["items"]]
    assert sum(chosen) >= sum(free)
    assert all(c >= f for c, f in zip(chosen, free, strict=True))


@pytest.mark.parametrize(
    ("fields", "reason", "said"),
    [
        ({"output_type": "nonsense"}, Reason.InvalidJob, "invalid output_type"),
        ({"doc_to_text": "{{absent}}"}, Reason.InvalidJob, "absent"),
        ({"test_split": "another"}, Reason.InvalidJob, "another"),
        (
            {
                "output_type": "loglikelihood_rolling",
                "doc_to_text": "",
                "metric_list": [{"metric": "word_perplexity"}],
            },
            Reason.NotSupported,
            "no score by item",
        ),
    ],
)
def test_a_task_that_cannot_be_scored_is_refused(
    fields: dict[str, Any],
    reason: Reason,
    said: str,
    session: EngineSession,
    tmp_path: Path,
) -> None:
    task = written(tmp_path, "broken", ITEMS[:3], **fields)
    with pytest.raises(RefusedInput, match=said) as caught:
        session.ask("task", task=task, sampleLimit=None)
    assert caught.value.reason is reason


def test_data_that_are_no_json_are_refused(session: EngineSession, tmp_path: Path) -> None:
    task = written(tmp_path, "broken", ITEMS[:3])
    (tmp_path / "broken.jsonl").write_text("not json\n")
    with pytest.raises(RefusedInput, match="cannot be read"):
        session.ask("task", task=task, sampleLimit=None)


def test_a_name_that_the_harness_does_not_know_is_refused(session: EngineSession) -> None:
    with pytest.raises(RefusedInput, match="lm_eval ls tasks") as caught:
        session.ask("task", task="gsm8q", sampleLimit=5)
    assert caught.value.subject == "gsm8q"


def test_data_that_cannot_be_reached_are_a_fault_of_the_surroundings(
    session: EngineSession,
) -> None:
    with pytest.raises(EnvironmentFault, match="cannot be reached") as caught:
        session.ask("task", task="gsm8k", sampleLimit=5)
    assert caught.value.reason is Reason.StoreUnavailable


def test_speed_is_measured_under_both_loads_and_gives_a_card(
    session: EngineSession, tmp_path: Path
) -> None:
    source = session.ask("speed", **LOAD, card=False)
    assert source["steps"] == []
    quantized = session.ask("speed", **LOAD, card=True)
    assert [load["concurrency"] for load in quantized["loads"]] == [1, 2]
    for load in quantized["loads"]:
        assert len(load["repetitions"]) == 2
        assert 0 < load["itlMs"]["p50"] <= load["itlMs"]["p95"]
        assert load["itlMs"]["p50"] < load["ttftMs"]["p95"]
    gate = Speed(name="speed", metric=Metric.Speed, concurrency=2, minRatioPercent=0)
    result, evidence = judge(gate, source, quantized, session.facts, "c" * 64, tmp_path)
    assert result.outcome is Outcome.Passed
    json.dumps(evidence, allow_nan=False)
    card = CapacityCard.load(tmp_path / evidence["cardFile"])
    assert float(card.prefillTokensPerSecond.value) > 0
    assert card.emulated
    assert card.kvCacheTokens is None  # the pocket model is a hybrid
    assert {group.kind for group in card.cacheGroups} == {"MambaSpec", "FullAttentionSpec"}
