"""The tasks of a run as a table: which stage of the API each is, and what it may see.

Called by `rendering`, `placing` and `unsupported`. A task that is also a child of the Jobs runner
sees what that child sees; the others see less.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from halftone.control.stages import STAGES, Stage, Use
from halftone.spec.cluster import ChildStage
from halftone.spec.pipelines import Task
from halftone.spec.running import StageName

_NOTHING: Final[frozenset[Use]] = frozenset()
_RESOLVES: Final = frozenset({Use.Source, Use.Work})

# `resolve` looks at the source, at files that gates name, and at the work area; `split` and
# `conclude` work on their parameters alone.
TASKS: Final[Mapping[Task, Stage]] = {
    Task.Resolve: Stage(ChildStage.Plan, StageName.Plan, _RESOLVES, _RESOLVES | {Use.Validation}),
    Task.Target: STAGES[ChildStage.Target],
    Task.Plan: STAGES[ChildStage.Plan],
    Task.Calibrate: STAGES[ChildStage.Calibrate],
    Task.Split: Stage(ChildStage.Plan, StageName.Plan, _NOTHING, _NOTHING),
    Task.Quantize: STAGES[ChildStage.Quantize],
    Task.Assemble: STAGES[ChildStage.Assemble],
    Task.Validate: STAGES[ChildStage.Validate],
    Task.Publish: STAGES[ChildStage.Publish],
    Task.Conclude: Stage(ChildStage.Plan, StageName.Plan, _NOTHING, _NOTHING),
}


def dag_tasks(ir: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], str | None]]:
    """Every task of a compiled pipeline, nested ones too: name, itself, and its executor's label.

    The label is None for groups: conditions, loops, the exit handler and nested pipelines.
    """
    components = ir["components"]
    for holder in (ir["root"], *components.values()):
        for name, task in holder.get("dag", {}).get("tasks", {}).items():
            component = components[task["componentRef"]["name"]]
            yield name, task, component.get("executorLabel")
