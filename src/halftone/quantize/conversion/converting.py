"""Carry out a conversion: stream every shard once, and show the result only when it is whole.

    with opened_checkpoint(source) as checkpoint:
        conversion = convert(checkpoint, Path("out"), CheckpointFormat.ModelOpt)

Everything is written below `.NAME.converting` beside the output and renamed at the end; what a kill
leaves there is removed by the next run, which begins anew. A converted checkpoint is unproven:
documents, signature and card of the source speak of other bytes and are not carried over.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.index import Checkpoint
from halftone.plan.companions import carried_files
from halftone.quantize.companions import carry_over, write_json
from halftone.quantize.conversion.configuration import configuration_files
from halftone.quantize.conversion.shards import Progress, write_shards
from halftone.quantize.conversion.source import read_quantized
from halftone.quantize.conversion.spans import spans_of
from halftone.quantize.conversion.staging import require_space, staged_output, storage_errors
from halftone.quantize.conversion.steps import steps_of, survives_as_bf16
from halftone.spec.errors import RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.formats import CheckpointFormat
from halftone.spec.names import (
    ARTIFACT_DOCUMENTS,
    ARTIFACT_FILE,
    INDEX_FILE,
    MODEL_CARD,
    PROVENANCE_FILE,
    Reason,
)


class _Unseen:
    def advance(self, nbytes: int) -> None: ...


@dataclass(frozen=True)
class Conversion:
    """What was done. `nearest` names the global scales whose inverse no float32 divisor has.

    Of those the divisor with the nearest inverse was written, at most one unit in the last place
    of a float32 off. `left_behind` are documents of the source that would not be true of the
    result.
    """

    source: str
    came_from: CheckpointFormat
    became: CheckpointFormat
    files: tuple[str, ...]
    nbytes: int
    tensors: int
    changed: int
    nearest: tuple[str, ...]
    left_behind: tuple[str, ...]


def convert(
    checkpoint: Checkpoint,
    output: Path,
    to: CheckpointFormat,
    *,
    progress: Progress | None = None,
) -> Conversion:
    """Write `checkpoint` in layout `to` into the directory `output`.

    Codes and NVFP4's block scales are copied. Raises RefusedInput for what cannot be converted
    (see `read_quantized` and `steps_of`), for a source in that layout already and for an output
    that is in the way; EnvironmentFault for a full disk and the like. Nothing is left behind by
    either.
    """
    source = read_quantized(checkpoint)
    if source.layout is to:
        raise RefusedInput(
            Reason.NothingToConvert,
            "quantization_config",
            f"'{checkpoint.source.uri}' is in {to}'s layout already; use it as it is.",
        )
    steps = steps_of(source, to, partial(_survivors, checkpoint.source))
    configurations = configuration_files(source, to)
    carried, left = _companions(checkpoint)
    sizes = {entry.path: entry.size_bytes for entry in checkpoint.other_files}
    with staged_output(output) as staged:
        needed = sum(step.nbytes for step in steps.values()) + sum(sizes[name] for name in carried)
        require_space(output, needed)
        shards = write_shards(source, steps, staged, output, progress or _Unseen())
        with storage_errors(output):
            for file, content in configurations.items():
                write_json(staged / file, content)
            if len(shards.names) > 1:
                write_json(staged / INDEX_FILE, shards.index)
            carry_over(checkpoint.source, carried, staged)
            files = {file.name: file.stat().st_size for file in staged.iterdir()}
    return Conversion(
        source=checkpoint.source.uri,
        came_from=source.layout,
        became=to,
        files=tuple(sorted(files)),
        nbytes=sum(files.values()),
        tensors=len(steps),
        changed=sum(step.changes for step in steps.values()),
        nearest=tuple(shards.nearest),
        left_behind=left,
    )


def _survivors(source: FileSource, entries: Sequence[TensorEntry]) -> set[str]:
    """The float32 scales among `entries` whose numbers are all BF16 numbers."""
    lost = set()
    shards: defaultdict[str, list[TensorEntry]] = defaultdict(list)
    for entry in entries:
        shards[entry.file].append(entry)
    for held in shards.values():
        for piece in spans_of(source, sorted(held, key=lambda entry: entry.offset)):
            if not survives_as_bf16(piece.data):
                lost.add(piece.entry.name)
    return {entry.name for entry in entries} - lost


def _companions(checkpoint: Checkpoint) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Files that are carried over, and documents of ours that are not.

    The card of an artifact of ours tells of a proof, which holds for other bytes.
    """
    names = {entry.path for entry in checkpoint.other_files}
    left = names & (ARTIFACT_DOCUMENTS | {ARTIFACT_FILE})
    if PROVENANCE_FILE in names:
        left |= names & {MODEL_CARD}
    carried = (entry.path for entry in carried_files(checkpoint.other_files))
    return tuple(name for name in carried if name not in left), tuple(sorted(left))
