"""Refuses, before anything is measured, a `Task` gate that could not decide what it is asked.

Called when a job is planned. A gate with too few items would end `Inconclusive` after hours on a
GPU, or be taken for a proof that it is not.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from halftone.spec.errors import RefusedInput
from halftone.spec.gates import Gate, Metric, Task
from halftone.spec.names import Reason
from halftone.validate.local_tasks import is_local, read_local_task
from halftone.validate.statistics import detectable_margin, items_needed

# Items of the split that lm-evaluation-harness 0.4 evaluates, of tasks that are often used. A task
# that is not here is judged by its `sampleLimit`, or else only after it was measured.
KNOWN_ITEMS: Final = {
    "arc_challenge": 1172,
    "arc_easy": 2376,
    "boolq": 3270,
    "commonsense_qa": 1221,
    "gpqa_diamond_zeroshot": 198,
    "gsm8k": 1319,
    "hellaswag": 10042,
    "humaneval": 164,
    "ifeval": 541,
    "lambada_openai": 5153,
    "mbpp": 500,
    "mmlu": 14042,
    "openbookqa": 500,
    "piqa": 1838,
    "truthfulqa_mc1": 817,
    "truthfulqa_mc2": 817,
    "winogrande": 1267,
}
# How many tasks a group has: `sampleLimit` bounds each of them.
_TASKS_OF_GROUPS: Final = {"mmlu": 57}


def known_items(task: str) -> int | None:
    """How many items `task` has: a path to YAML, or a name; None where that cannot be known.

    Raises RefusedInput for a file that is no task, or has no data.
    """
    return read_local_task(Path(task)).items if is_local(task) else KNOWN_ITEMS.get(task)


def refuse_underpowered(
    gates: Sequence[Gate], items_of: Callable[[str], int | None] = known_items
) -> None:
    """Raise RefusedInput(GateUnderpowered) for the first `Task` gate that cannot see its margin.

    Judged at the source's best possible score: a source that is worse leaves a smaller margin and
    needs more items, which only measuring shows. Raises what `items_of` raises.
    """
    tasks = [gate for gate in gates if gate.metric is Metric.Task]
    for gate in tasks:
        if gate.minRecoveryPercent == 100:
            raise RefusedInput(
                Reason.GateUnderpowered,
                gate.name,
                f"Gate '{gate.name}' asks for `minRecoveryPercent: 100`, which no number of items "
                "can show: two equal models differ by chance; leave a margin, such as 98.",
            )
        data = items_of(gate.task)
        parts = _parts(gate.task)
        limit = None if gate.sampleLimit is None or parts is None else gate.sampleLimit * parts
        counts = [count for count in (data, limit) if count is not None]
        if counts:
            _judge(gate, min(counts), data, len(tasks), parts or 1)


def _parts(task: str) -> int | None:
    """Of how many tasks `task` is made; None for a group of one's own."""
    if is_local(task):
        return None if read_local_task(Path(task)).is_group else 1
    return _TASKS_OF_GROUPS.get(task, 1)


def _judge(gate: Task, items: int, data: int | None, tasks: int, parts: int) -> None:
    margin_percent = 100 - gate.minRecoveryPercent
    needed = items_needed(margin_percent / 100, tasks=tasks)
    if items >= needed:
        return
    wider = _reachable_percent(items, tasks)
    ways = [f"lower `minRecoveryPercent` to {wider}"] if wider else []
    if gate.sampleLimit is not None and (data is None or data >= needed):
        ways.insert(0, f"raise `sampleLimit` to {math.ceil(needed / parts):,}")
    elif data is not None:
        ways.append("take a task with more items")
    among = f" as one of {tasks} tasks" if tasks > 1 else ""
    raise RefusedInput(
        Reason.GateUnderpowered,
        gate.name,
        f"Gate '{gate.name}' has {items:,} items, too few to see a loss of {margin_percent} % "
        f"four times in five{among}: it needs {needed:,}; {', or '.join(ways)}.",
    )


def _reachable_percent(items: int, tasks: int) -> int:
    """The highest `minRecoveryPercent` that so many items can decide; 0 for none."""
    return max(0, math.floor(100 * (1 - detectable_margin(items, tasks=tasks))))
