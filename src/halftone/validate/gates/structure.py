"""The gate `structure`: the checkpoint is well formed, loadable, and the one that was planned.

Runs unasked. What `halftone inspect` finds in anyone's checkpoint is a failure here too; beside it
stand the checks that need the plan and the source.
"""

from collections.abc import Iterator
from typing import Any

from halftone.checkpoint.index import Checkpoint, read_checkpoint
from halftone.plan.planning import Planned
from halftone.spec.documents import CheckpointDocument
from halftone.spec.files import FileSource
from halftone.spec.gates import STRUCTURE_GATE, Metric
from halftone.spec.reports import GateResult, Outcome
from halftone.validate.agreement import (
    broken_towers,
    changed_files,
    changed_kept_tensors,
    plan_defects,
    tokenizer_defects,
)
from halftone.validate.cache_scales import unasked_cache
from halftone.validate.configurations import differing_configurations
from halftone.validate.findings import Defect
from halftone.validate.input_scales import unshared_inputs
from halftone.validate.inspection import inspect_source

# Evidence names this many defects; a checkpoint of 30,000 experts can have as many.
_MOST_DEFECTS = 1000


def measure_structure(
    planned: Planned,
    source: FileSource,
    checkpoint: FileSource,
    document: CheckpointDocument | None = None,
) -> tuple[GateResult, dict[str, Any]]:
    """The gate's result and its evidence, {"checked": {…}, "defects": […], "warnings": […]}.

    With `document`, the files must also be those that it states; what is wrong in a changed file is
    named first.
    Raises RefusedInput for a checkpoint whose headers cannot be read at all.
    """
    inspection = inspect_source(checkpoint)
    read = read_checkpoint(checkpoint, whole=False)
    roles = [row.role for row in inspection.roles]
    defects: list[Defect] = [
        *plan_defects(planned, read),
        *inspection.defects,
        *broken_towers(roles, read.config),
        *tokenizer_defects(read),
        *unshared_inputs(planned, read),
        *unasked_cache(planned.plan.recipe, read.config),
        *_differing_configurations(planned, read),
        *changed_kept_tensors(planned, source, read),
        *(changed_files(document, checkpoint) if document is not None else ()),
    ]
    # What was dequantized on the way in is kept too, but is not the source's byte for byte.
    kept = sum(1 for tensor in planned.tensors if tensor.format is None and tensor.scale is None)
    evidence = {
        "checked": {
            "tensors": len(read.tensors),
            "keptTensors": kept,
            "groups": len(inspection.groups),
            "bytes": inspection.bytes,
        },
        "defects": [d.model_dump(mode="json") for d in defects[:_MOST_DEFECTS]],
        "warnings": [w.model_dump(mode="json") for w in inspection.warnings],
    }
    return _result(defects, len(read.tensors), kept), evidence


def _differing_configurations(planned: Planned, read: Checkpoint) -> Iterator[Defect]:
    if planned.architecture is not None:
        yield from differing_configurations(planned.plan.recipe, planned.architecture, read)


def _result(defects: list[Defect], tensors: int, kept: int) -> GateResult:
    if not defects:
        message = (
            f"All {tensors:,} tensors are as planned, {kept:,} kept ones equal the source byte "
            "for byte."
        )
        return _row(Outcome.Passed, message, "0", None, tensors)
    more = f" ({len(defects) - 1:,} more defects)" if len(defects) > 1 else ""
    first = defects[0]
    return _row(Outcome.Failed, first.message + more, str(len(defects)), first.tensor, tensors)


def _row(outcome: Outcome, message: str, score: str, culprit: str | None, items: int) -> GateResult:
    return GateResult(
        name=STRUCTURE_GATE,
        metric=Metric.Structure,
        outcome=outcome,
        message=message,
        score=score,
        limit="0 defects",
        unit="defects",
        culprit=culprit,
        items=items,
    )
