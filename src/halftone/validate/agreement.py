"""Whether a checkpoint is the one that was planned: every tensor, and every byte that was kept.

An inspection can judge anyone's checkpoint; these checks know what was intended. Each returns the
defects that it finds, the first of a kind first. Called by `halftone.validate.gates.structure`.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from threading import Lock
from typing import Any, Final, NamedTuple

from halftone.checkpoint.architectures import text_config
from halftone.checkpoint.digests import file_sha256
from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.index import Checkpoint
from halftone.checkpoint.json_objects import parse_object
from halftone.checkpoint.scratch import Scratch
from halftone.plan.planning import Planned
from halftone.plan.tensors import LogicalTensor
from halftone.spec.documents import CheckpointDocument, WrittenFile
from halftone.spec.errors import RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.names import CHECKPOINT_FILE, CONFIG_FILE, DefectKind
from halftone.spec.roles import Role
from halftone.validate.findings import Defect
from halftone.validate.streaming import TILE_BYTES, for_all

_TOKENIZER: Final = "tokenizer.json"
_MAX_TOKENIZER_BYTES: Final = 256_000_000
# A configuration's block that promises a tower, and the role of the tower's weights.
_TOWERS: Final = {"vision_config": Role.Vision, "audio_config": Role.Audio}


def plan_defects(planned: Planned, checkpoint: Checkpoint) -> Iterator[Defect]:
    """Tensors and files that are not as planned: absent, surplus, of another dtype or shape."""
    found = checkpoint.tensors
    for shard in planned.shards:
        for row in shard.rows:
            entry = found.get(row.name)
            if entry is None:
                yield _defect(
                    DefectKind.MissingTensor,
                    row.name,
                    f"`{row.name}` was planned for '{row.file}' and is not in the checkpoint.",
                )
            elif (entry.dtype, entry.shape) != (row.dtype, row.shape):
                yield _defect(
                    DefectKind.UnexpectedLayout,
                    row.name,
                    f"`{row.name}` is {entry.dtype} {list(entry.shape)}, but {row.dtype} "
                    f"{list(row.shape)} was planned.",
                )
    planned_names = {row.name for shard in planned.shards for row in shard.rows}
    for name in found:
        if name not in planned_names:
            yield _defect(
                DefectKind.UnexpectedTensor, name, f"`{name}` is in the checkpoint unplanned."
            )
    present = {entry.path for entry in checkpoint.other_files}
    for path in planned.plan.output.carried if planned.plan.output else ():
        if path not in present:
            yield _defect(
                DefectKind.MissingTensor, path, f"'{path}' of the source is not in the checkpoint."
            )


def changed_files(document: CheckpointDocument, checkpoint: FileSource) -> list[Defect]:
    """A defect for every file that `document` does not state, or states with other bytes.

    A report carries the checkpoint's digest, so what was measured has to be what has that digest;
    and a server loads a shard that lies beside the others, whoever put it there.
    """
    present = {entry.path for entry in checkpoint.files()}
    differ: set[str] = set()

    def compare(file: WrittenFile) -> None:
        path = checkpoint.local_path(file.path)
        if path is None or not path.is_file() or file_sha256(path) != file.sha256:
            differ.add(file.path)

    for_all([file for file in document.files if file.path in present], compare)
    stated = {file.path for file in document.files}
    told = {
        path: f"'{path}' lies in the checkpoint, but `{CHECKPOINT_FILE}` does not state it; "
        "take it away."
        for path in sorted(present - stated)
    }
    told |= {
        path: f"'{path}' is not there, which `{CHECKPOINT_FILE}` states; bring it back, or remove "
        "the checkpoint and quantize again."
        for path in sorted(stated - present)
    }
    told |= {
        path: f"'{path}' is not the file whose SHA-256 `{CHECKPOINT_FILE}` states, but was changed "
        "since; remove the checkpoint and quantize again."
        for path in sorted(differ)
    }
    return [_defect(DefectKind.DigestDiffers, path, message) for path, message in told.items()]


# Kept bytes ---------------------------------------------------------------------------------------


class _Piece(NamedTuple):
    """Some bytes of a kept tensor: where they lie in the source and in the checkpoint."""

    tensor: LogicalTensor
    stored: TensorEntry
    begin: int
    nbytes: int


def changed_kept_tensors(
    planned: Planned, source: FileSource, checkpoint: Checkpoint
) -> list[Defect]:
    """A defect for every kept tensor whose bytes are not the source's, with the first such row.

    A tensor that the source has in FP8 is kept as BF16 and so has other bytes; `WeightError`
    compares its values.
    """
    pieces = list(_pieces(planned, checkpoint))
    first: dict[str, int] = {}
    guard, scratch = Lock(), Scratch()

    def compare(piece: _Piece) -> None:
        original = scratch.take("original", piece.nbytes)
        stored = scratch.take("stored", piece.nbytes)
        source.read_into(piece.tensor.file, piece.tensor.offset + piece.begin, original.data)
        checkpoint.source.read_into(
            piece.stored.file, piece.stored.offset + piece.begin, stored.data
        )
        if not (original == stored).all():
            where = piece.begin + int((original != stored).argmax())
            with guard:
                name = piece.tensor.name
                first[name] = min(where, first.get(name, where))

    for_all(pieces, compare)
    tensors = {piece.tensor.name: piece.tensor for piece in pieces}
    return [_changed(tensors[name], first[name]) for name in tensors if name in first]


def _pieces(planned: Planned, checkpoint: Checkpoint) -> Iterator[_Piece]:
    for tensor in planned.tensors:
        stored = checkpoint.tensors.get(tensor.name)
        if tensor.format is not None or tensor.scale is not None or stored is None:
            continue
        if stored.nbytes != tensor.source_bytes:
            continue  # another defect says so
        for begin in range(0, stored.nbytes, TILE_BYTES):
            yield _Piece(tensor, stored, begin, min(TILE_BYTES, stored.nbytes - begin))


def _changed(tensor: LogicalTensor, byte: int) -> Defect:
    row = byte // max(1, tensor.dtype.nbytes((prod(tensor.shape[1:]),)))
    return _defect(
        DefectKind.KeptTensorChanged,
        tensor.name,
        f"`{tensor.name}` ({tensor.role}) was to be kept as it is, but differs from the source "
        f"from row {row} on.",
    )


# Promises -----------------------------------------------------------------------------------------


def broken_towers(roles: Sequence[Role], config: Mapping[str, Any]) -> Iterator[Defect]:
    """A vision or audio tower that the configuration describes and no weight belongs to."""
    for block, role in _TOWERS.items():
        if config.get(block) and role not in roles:
            yield _defect(
                DefectKind.MissingTensor,
                f"{CONFIG_FILE}:{block}",
                f"`{block}` of `{CONFIG_FILE}` describes a tower, but the checkpoint has no "
                f"{role} weights; a server fails on the first input that needs it.",
            )


def tokenizer_defects(checkpoint: Checkpoint) -> Iterator[Defect]:
    """A vocabulary that does not fit the embedding, or that nobody can read."""
    rows = text_config(checkpoint.config).get("vocab_size")
    entry = next((e for e in checkpoint.other_files if e.path == _TOKENIZER), None)
    if entry is None or not isinstance(rows, int) or entry.size_bytes > _MAX_TOKENIZER_BYTES:
        return
    raw = checkpoint.source.read_range(_TOKENIZER, 0, entry.size_bytes)
    try:
        highest = _highest_token(parse_object(raw, _TOKENIZER))
    except RefusedInput as refused:
        yield _defect(DefectKind.TokenizerDiffers, _TOKENIZER, refused.message)
        return
    if highest >= rows:
        yield _defect(
            DefectKind.TokenizerDiffers,
            _TOKENIZER,
            f"'{_TOKENIZER}' gives ids up to {highest}, but `vocab_size` of `{CONFIG_FILE}` is "
            f"{rows}; such a token would read beyond the embedding.",
        )


def _highest_token(tokenizer: Mapping[str, Any]) -> int:
    """The highest id that the tokenizer can give; -1 for a form that is not known here."""
    model = tokenizer.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    ids: list[Any] = []
    if isinstance(words, dict):
        ids += words.values()
    elif isinstance(words, list):  # Unigram: the id is the place
        ids.append(len(words) - 1)
    added = tokenizer.get("added_tokens")
    ids += [t.get("id") for t in added if isinstance(t, dict)] if isinstance(added, list) else []
    return max((number for number in ids if isinstance(number, int)), default=-1)


def _defect(kind: DefectKind, tensor: str, message: str) -> Defect:
    return Defect(kind=kind, tensor=tensor, message=message)
