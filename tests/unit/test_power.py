"""Gates that cannot decide what they are asked are refused on paper, with the number they need."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from halftone.spec.errors import RefusedInput
from halftone.spec.gates import EngineLoads, Metric, Task
from halftone.spec.names import Reason
from halftone.validate.gates.power import KNOWN_ITEMS, known_items, refuse_underpowered
from halftone.validate.local_tasks import is_local, read_local_task
from tests.conftest import ROOT

ARITHMETIC = ROOT / "examples" / "pocket-model" / "arithmetic.yaml"
TASK: dict[str, Any] = {
    "task": "mine",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "mine.jsonl"}},
    "test_split": "test",
}


def gate(task: str, recovery: int, limit: int | None = None) -> Task:
    return Task(
        name=f"gate-{recovery}",
        metric=Metric.Task,
        task=task,
        sampleLimit=limit,
        minRecoveryPercent=recovery,
    )


def refused(*gates: Task) -> str:
    with pytest.raises(RefusedInput) as caught:
        refuse_underpowered(gates)
    assert caught.value.reason is Reason.GateUnderpowered
    assert caught.value.subject in {each.name for each in gates}
    return caught.value.message


def written(folder: Path, config: Any, lines: int = 5, name: str = "mine.jsonl") -> Path:
    (folder / name).write_text('{"prompt": "a", "answer": "b"}\n' * lines + "\n")
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize(
    ("recovery", "limit"), [(98, None), (98, 619), (97, 500), (95, 100), (0, 20), (98, 10**6)]
)
def test_enough_items_are_accepted(recovery: int, limit: int | None) -> None:
    refuse_underpowered([gate(str(ARITHMETIC), recovery, limit)])


def test_too_few_samples_are_refused_with_the_number_that_is_needed() -> None:
    assert refused(gate(str(ARITHMETIC), 98, 100)) == (
        "Gate 'gate-98' has 100 items, too few to see a loss of 2 % four times in five: it needs "
        "619; raise `sampleLimit` to 619, or lower `minRecoveryPercent` to 95."
    )


def test_a_task_with_too_few_items_cannot_be_helped_by_the_limit() -> None:
    message = refused(gate(str(ARITHMETIC), 99, 1_000_000))
    assert "has 1,000 items" in message
    assert "it needs 2,474" in message
    assert "sampleLimit" not in message
    assert message.endswith("lower `minRecoveryPercent` to 98, or take a task with more items.")


def test_the_way_out_that_is_named_is_one() -> None:
    for items in (10, 57, 100, 333, 1319):
        message = refused(gate("unknown-task", 99, items))
        if "lower" in message:
            wider = int(message.split("`minRecoveryPercent` to ")[1].rstrip("."))
            refuse_underpowered([gate("unknown-task", wider, items)])


def test_no_loss_at_all_cannot_be_shown() -> None:
    assert "`minRecoveryPercent: 100`" in refused(gate("gsm8k", 100))


def test_several_tasks_need_more_items_than_one() -> None:
    refuse_underpowered([gate(str(ARITHMETIC), 98, 700)])
    gates = [gate(str(ARITHMETIC), 98, 700), gate("mmlu", 97)]
    assert "as one of 2 tasks" in refused(*gates)


def test_built_in_tasks_are_known_by_their_published_sizes() -> None:
    assert known_items("gsm8k") == 1319
    refuse_underpowered([gate("gsm8k", 98)])
    assert "1,319" in refused(gate("gsm8k", 99))
    assert all(count > 0 for count in KNOWN_ITEMS.values())


def test_what_cannot_be_counted_on_paper_is_left_to_the_measurement() -> None:
    assert known_items("some_other_task") is None
    refuse_underpowered([gate("some_other_task", 99)])
    assert "has 50 items" in refused(gate("some_other_task", 99, 50))


def test_a_limit_bounds_each_task_of_a_group(tmp_path: Path) -> None:
    refuse_underpowered([gate("mmlu", 98, 11)])  # of 57 tasks
    assert "has 570 items" in refused(gate("mmlu", 98, 10))
    assert "raise `sampleLimit` to 11" in refused(gate("mmlu", 98, 10))
    group = tmp_path / "mine.yaml"
    group.write_text("group: mine\ntask: [arc_easy, arc_challenge]\n")
    refuse_underpowered([gate(str(group), 98, 10)])  # nobody knows on paper how many that are


def test_other_gates_are_none_of_its_business() -> None:
    refuse_underpowered([EngineLoads(name="loads", metric=Metric.EngineLoads)])


def test_the_pocket_models_task_is_counted() -> None:
    task = read_local_task(ARITHMETIC)
    assert task.items == 1000
    assert set(task.files) == {ARITHMETIC, ARITHMETIC.with_suffix(".jsonl")}
    assert task.data == (ARITHMETIC.with_suffix(".jsonl"),)
    assert is_local(str(ARITHMETIC))
    assert not is_local("gsm8k")


def test_data_are_found_as_the_harness_finds_them(tmp_path: Path) -> None:
    assert read_local_task(written(tmp_path, TASK)).items == 5
    (tmp_path / "list.json").write_text(json.dumps([{"prompt": "a"}] * 7))
    both = TASK | {"dataset_kwargs": {"data_files": {"test": ["mine.jsonl", "list.json"]}}}
    assert read_local_task(written(tmp_path, both)).items == 12
    pattern = TASK | {"dataset_kwargs": {"data_files": {"test": "*.jsonl", "train": "list.json"}}}
    task = read_local_task(written(tmp_path, pattern))
    assert task.items == 5
    assert set(task.data) == {tmp_path / "mine.jsonl", tmp_path / "list.json"}
    absolute = {"data_files": {"validation": str(tmp_path / "list.json")}}
    other = TASK | {"dataset_kwargs": absolute, "validation_split": "validation"}
    del other["test_split"]
    assert read_local_task(written(tmp_path, other)).items == 7


def test_an_included_file_lies_below_what_includes_it(tmp_path: Path) -> None:
    written(tmp_path, TASK)
    (tmp_path / "above.yaml").write_text("include: mine.yaml\ntask: above\n")
    task = read_local_task(tmp_path / "above.yaml")
    assert task.items == 5
    assert {path.name for path in task.files} == {"above.yaml", "mine.yaml", "mine.jsonl"}


def test_what_the_harness_takes_for_a_circle_is_refused_on_paper(tmp_path: Path) -> None:
    """It wants every file once, also where two others include it."""
    written(tmp_path, TASK)
    (tmp_path / "left.yaml").write_text("include: mine.yaml\n")
    (tmp_path / "above.yaml").write_text("include: [left.yaml, ./mine.yaml]\ntask: above\n")
    with pytest.raises(RefusedInput, match=r"mine\.yaml' is included more than once") as caught:
        read_local_task(tmp_path / "above.yaml")
    assert caught.value.reason is Reason.InvalidJob


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0c", "\x1c"])
def test_a_row_ends_at_a_line_feed_and_nowhere_else(separator: str, tmp_path: Path) -> None:
    """JSON leaves these as they are within a string."""
    path = written(tmp_path, TASK)
    rows = [json.dumps({"prompt": f"a{separator}b"}, ensure_ascii=False) for _ in range(4)]
    (tmp_path / "mine.jsonl").write_text("\r\n".join(rows), encoding="utf-8")
    assert read_local_task(path).items == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"process_docs": "!function mine.filtered"},
        {"dataset_path": "openai/gsm8k"},
        {"dataset_kwargs": {"data_files": {"test": "hf://datasets/a/b.jsonl"}}},
        {"dataset_kwargs": {"data_files": {"test": "mine.jsonl"}, "field": "data"}},
        {"test_split": "another"},
        {"test_split": ["test"]},
        {"dataset_path": ["json"]},
    ],
)
def test_items_that_only_running_would_show_have_no_count(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    assert read_local_task(written(tmp_path, TASK | changes)).items is None


def test_python_functions_are_named_and_never_run(tmp_path: Path) -> None:
    path = written(tmp_path, TASK)
    path.write_text(path.read_text() + "doc_to_text: !function trap.spring\n")
    (tmp_path / "trap.py").write_text("raise SystemExit('sprung')\n")
    assert read_local_task(path).items == 5


def test_python_that_decides_a_score_is_one_of_the_tasks_files(tmp_path: Path) -> None:
    """Else a score that was kept would be compared with one that other code computed."""
    path = written(tmp_path, TASK)
    (tmp_path / "scoring.py").write_text("")
    assert tmp_path / "scoring.py" not in read_local_task(path).files
    path.write_text(path.read_text() + "process_results: !function scoring.judge\n")
    assert tmp_path / "scoring.py" in read_local_task(path).files


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", Reason.InvalidJob),
        ("just words", Reason.InvalidJob),
        ("foo: bar", Reason.InvalidJob),
        ("task: a\ninclude: mine.yaml", Reason.InvalidJob),
        ("task: a\ninclude: none.yaml", Reason.SourceNotFound),
        (yaml.safe_dump(TASK), Reason.SourceNotFound),
        ("!!python/object/apply:os.getcwd []", Reason.InvalidJob),
        ("task: a\ninclude:", Reason.InvalidJob),
        ("task: a\ninclude: 5", Reason.InvalidJob),
        ("task: a\ninclude: [none.yaml, 5]", Reason.InvalidJob),
        ("task: a\ninclude: ../PLACE/mine.yaml", Reason.InvalidJob),
        (yaml.safe_dump(TASK | {"dataset_kwargs": {"data_files": {"test": 5}}}), Reason.InvalidJob),
    ],
)
def test_what_is_no_task_is_refused(text: str, reason: Reason, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text.replace("PLACE", tmp_path.name))
    with pytest.raises(RefusedInput, match=r"mine\.yaml|none\.yaml") as caught:
        refuse_underpowered([gate(str(tmp_path / "mine.yaml"), 98)])
    assert caught.value.reason is reason


def test_a_task_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedInput, match="cannot be read") as caught:
        known_items(str(tmp_path / "none.yaml"))
    assert caught.value.reason is Reason.SourceNotFound


@pytest.mark.parametrize("text", ["task: [", "task: !!bool perhaps", "task: 2026-02-30"])
def test_a_task_that_is_no_yaml_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "task.yaml").write_text(text)

    with pytest.raises(RefusedInput, match="is not YAML, so no task can be read from it: "):
        read_local_task(tmp_path / "task.yaml")
