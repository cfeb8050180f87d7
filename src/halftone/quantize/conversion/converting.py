"""Carry out a conversion: stream every shard once, and show the result only when it is whole.

    with opened_checkpoint(source) as checkpoint:
        conversion = convert(checkpoint, Path("out"), CheckpointFormat.ModelOpt)

Everything is written below `.NAME.converting` beside the output and renamed at the end; what a kill
leaves there is removed by the next run, which begins anew. A converted checkpoint is unproven:
documents, signature and card of the source speak of other bytes and are not carried over.
"""

from dataclasses import dataclass
from pathlib import Path

from halftone.checkpoint.index import Checkpoint
from halftone.plan.companions import carried_files
from halftone.quantize.companions import carry_over, write_json
from halftone.quantize.conversion.configuration import configuration_files
from halftone.quantize.conversion.settling import settle
from halftone.quantize.conversion.shards import Progress, write_shards
from halftone.quantize.conversion.source import read_quantized
from halftone.quantize.conversion.staging import require_space, staged_output
from halftone.quantize.conversion.steps import steps_of
from halftone.quantize.storage import storage_errors
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import CheckpointFormat
from halftone.spec.names import (
    INDEX_FILE,
    MODEL_CARD,
    MODELOPT_CONFIG_FILE,
    PROVENANCE_FILE,
    Reason,
)


class _Unseen:
    def advance(self, nbytes: int) -> None: ...


@dataclass(frozen=True)
class Conversion:
    """What was done. `nearest` names the global scales whose inverse no float32 divisor has.

    Of those the divisor with the nearest inverse was written, at most one unit in the last place
    of a float32 off. `widened` names the input scales that got the widest range of the matrices
    that a server merges theirs with. `left_behind` are the files of the source that did not come
    along, folders as `name/`: most of them would not be true of the result.
    """

    source: str
    came_from: CheckpointFormat
    became: CheckpointFormat
    files: tuple[str, ...]
    nbytes: int
    tensors: int
    changed: int
    nearest: tuple[str, ...]
    widened: tuple[str, ...]
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
    (see `read_quantized`, `steps_of` and `settle`), for a source in that layout already and for an
    output that is in the way; EnvironmentFault for a full disk and the like. Nothing is left behind
    by either.
    """
    source = read_quantized(checkpoint)
    if source.layout is to:
        raise RefusedInput(
            Reason.NothingToConvert,
            "quantization_config",
            f"'{checkpoint.source.uri}' is in {to}'s layout already; use it as it is.",
        )
    possible = steps_of(source, to)
    configurations = configuration_files(source, to)
    settled = settle(checkpoint.source, possible)
    steps = settled.steps
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
        widened=settled.widened,
        left_behind=left,
    )


def _companions(checkpoint: Checkpoint) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Files that are carried over, and those that are not; hidden ones go unmentioned.

    The card of an artifact of ours tells of a proof, which holds for other bytes.
    """
    names = {entry.path for entry in checkpoint.other_files}
    untrue = {MODEL_CARD} if PROVENANCE_FILE in names else set()
    carried = [e.path for e in carried_files(checkpoint.other_files) if e.path not in untrue]
    left = {_folder(name) for name in names - {*carried, MODELOPT_CONFIG_FILE}}
    told = sorted(name for name in left if not name.startswith("."))
    return tuple(carried), tuple(told)


def _folder(path: str) -> str:
    top, slash, _ = path.partition("/")
    return top + slash
