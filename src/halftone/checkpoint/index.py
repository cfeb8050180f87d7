"""A whole checkpoint on paper: configuration, index and the headers of all shards.

Everything that plans or inspects begins here. Only `config.json`, the index and the headers are
read, never a tensor. What the index says is believed only as far as the shards confirm it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from halftone.checkpoint.headers import (
    MAX_HEADER_BYTES,
    ShardHeader,
    TensorEntry,
    guess_header_bytes,
    read_headers,
)
from halftone.checkpoint.json_objects import parse_object, quoted, refuse, refuse_deep
from halftone.spec.errors import RefusedInput
from halftone.spec.files import FileEntry, FileSource
from halftone.spec.names import CONFIG_FILE, INDEX_FILE, SINGLE_SHARD_FILE, Reason

# The largest configurations known, with enumerated ignore lists, have some 3 MB.
MAX_CONFIG_BYTES: Final = 16_000_000
_SAFETENSORS: Final = ".safetensors"
# What runs code when it is opened, and so is never opened nor handed on.
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a source holds, tensor by tensor.

    `index_only` are names that the index promises and no shard has where it says; `unindexed` are
    names that shards hold and the index does not know there. Both are empty unless the checkpoint
    was read with `whole=False`. `other_files` is everything but shards, index and `config.json`.
    """

    source: FileSource
    config: dict[str, Any]
    shards: tuple[ShardHeader, ...]
    tensors: dict[str, TensorEntry]
    index_only: tuple[str, ...]
    unindexed: tuple[str, ...]
    other_files: tuple[FileEntry, ...]


def read_checkpoint(source: FileSource, *, whole: bool = True) -> Checkpoint:
    """Read configuration, index and headers, and hold them against each other.

    With `whole` any difference between index and shards is refused; without it, as `inspect` wants
    it, differences are returned. Raises RefusedInput(MalformedCheckpoint, NoSafetensors or
    SourceNotFound) and whatever the store raises.
    """
    files = {entry.path: entry for entry in source.files()}
    config = _read_json(source, files, CONFIG_FILE, MAX_CONFIG_BYTES)
    refuse_deep(config, CONFIG_FILE)
    placed = _read_index(source, files)
    names, guesses = (
        _unindexed_shards(source, files) if placed is None else _indexed_shards(files, placed)
    )
    shards = read_headers(source, [files[name] for name in names], guesses)
    tensors = _merged(shards)
    index_only: tuple[str, ...] = ()
    unindexed: tuple[str, ...] = ()
    if placed is not None:
        index_only, unindexed = _differences(placed, tensors)
        if whole:
            _refuse_differences(placed, tensors, index_only, unindexed)
    known = {CONFIG_FILE, INDEX_FILE, *names}
    others = tuple(entry for entry in files.values() if entry.path not in known)
    return Checkpoint(source, config, shards, tensors, index_only, unindexed, others)


def _read_json(
    source: FileSource, files: Mapping[str, FileEntry], name: str, limit: int
) -> dict[str, Any]:
    entry = files.get(name)
    if entry is None:
        raise RefusedInput(
            Reason.SourceNotFound,
            name,
            f"`{source.uri}` has no `{name}`; give the directory, prefix or repository of a whole "
            "checkpoint.",
        )
    if entry.size_bytes > limit:
        refuse(
            name, f"`{name}` has {entry.size_bytes} bytes, and {limit} are allowed; fetch it again."
        )
    return parse_object(source.read_range(name, 0, entry.size_bytes), name)


def _read_index(source: FileSource, files: Mapping[str, FileEntry]) -> dict[str, str] | None:
    """The index's map from tensor to shard; None for a checkpoint without an index."""
    if INDEX_FILE not in files:
        return None
    placed = _read_json(source, files, INDEX_FILE, MAX_HEADER_BYTES).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        refuse(
            INDEX_FILE, f"`weight_map` of `{INDEX_FILE}` must be a map that is not empty; fix it."
        )
    for name, shard in placed.items():
        if not isinstance(shard, str):
            refuse(
                INDEX_FILE,
                f"`{INDEX_FILE}` gives {quoted(name)} the shard {quoted(shard)}, which is not a "
                "file name; fetch it again.",
            )
    return placed


def _indexed_shards(
    files: Mapping[str, FileEntry], placed: Mapping[str, str]
) -> tuple[list[str], dict[str, int]]:
    """Shards that the index names, sorted, and how long each one's header may be."""
    held = defaultdict(list)
    for name, shard in placed.items():
        held[shard].append(name)
    for shard, names in held.items():
        _refuse_shard_name(files, shard, names[0])
    return sorted(held), {shard: guess_header_bytes(names) for shard, names in held.items()}


def _refuse_shard_name(files: Mapping[str, FileEntry], shard: str, tensor: str) -> None:
    """Refuse a shard that is not in the listing. Only listed files are ever read."""
    if shard in files and shard.endswith(_SAFETENSORS):
        return
    where = f"`{INDEX_FILE}` puts {quoted(tensor)} into {quoted(shard)}"
    unsafe = not shard.isprintable() or "\\" in shard or shard.startswith("/")
    if unsafe or ".." in shard.split("/"):
        refuse(
            INDEX_FILE,
            f"{where}, and an index may name only files of its own directory; do not use this "
            "checkpoint unless you know who wrote it.",
        )
    if shard in files:
        refuse(INDEX_FILE, f"{where}, which is no safetensors file; convert it to safetensors.")
    refuse(INDEX_FILE, f"{where}, a shard that is missing; fetch it, or fetch the index again.")


def _unindexed_shards(
    source: FileSource, files: Mapping[str, FileEntry]
) -> tuple[list[str], dict[str, int]]:
    """`model.safetensors`, or every safetensors file at the top of a source without an index."""
    if SINGLE_SHARD_FILE in files:
        return [SINGLE_SHARD_FILE], {}
    shards = [name for name in files if name.endswith(_SAFETENSORS) and "/" not in name]
    if shards:
        return shards, {}
    pickle = next((name for name in files if name.endswith(PICKLES)), None)
    if pickle is not None:
        raise RefusedInput(
            Reason.NoSafetensors,
            pickle,
            f"`{source.uri}` holds pickled weights only (`{pickle}`), and a pickle can run any "
            "code when it is opened; convert it to safetensors, or use a revision that has them.",
        )
    raise RefusedInput(
        Reason.NoSafetensors,
        source.uri,
        f"`{source.uri}` holds no `*{_SAFETENSORS}` file; give the directory, prefix or repository "
        "of a checkpoint in safetensors.",
    )


def _merged(shards: Iterable[ShardHeader]) -> dict[str, TensorEntry]:
    tensors: dict[str, TensorEntry] = {}
    for shard in shards:
        twice = tensors.keys() & shard.tensors.keys()
        if twice:
            name = min(twice)
            refuse(
                name,
                f"Tensor `{name}` is both in `{tensors[name].file}` and in `{shard.file}`; take "
                "away the file that is not part of the checkpoint.",
            )
        tensors.update(shard.tensors)
    return tensors


def _differences(
    placed: Mapping[str, str], tensors: Mapping[str, TensorEntry]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that only the index has, and names that only shards have; a misplaced one is both."""
    index_only = tuple(
        name
        for name, shard in placed.items()
        if (entry := tensors.get(name)) is None or entry.file != shard
    )
    unindexed = tuple(name for name, entry in tensors.items() if placed.get(name) != entry.file)
    return index_only, unindexed


def _refuse_differences(
    placed: Mapping[str, str],
    tensors: Mapping[str, TensorEntry],
    index_only: tuple[str, ...],
    unindexed: tuple[str, ...],
) -> None:
    if index_only:
        name = index_only[0]
        found = f"it is in `{tensors[name].file}`" if name in tensors else "it is not there"
        refuse(
            name,
            f"`{INDEX_FILE}` puts {quoted(name)} into `{placed[name]}`, but {found} "
            f"({_counted(index_only)}); fetch the index and the shards of one revision.",
        )
    if unindexed:
        name = unindexed[0]
        refuse(
            name,
            f"Tensor `{name}` is in `{tensors[name].file}`, but `{INDEX_FILE}` does not name it "
            f"({_counted(unindexed)}); fetch the index and the shards of one revision.",
        )


def _counted(names: tuple[str, ...]) -> str:
    return "one such tensor" if len(names) == 1 else f"the first of {len(names)} such tensors"
