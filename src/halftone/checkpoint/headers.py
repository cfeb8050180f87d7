"""safetensors headers: what a shard says that it holds, checked before anything is believed.

A shard is 8 bytes with the length of a JSON header (little-endian), the header, then the tensors'
bytes without a gap. Format and limits: https://github.com/safetensors/safetensors#format. Read by
`halftone.checkpoint.index`, written by the plan. No tensor data is touched here.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import starmap
from math import prod
from typing import Any, Final, NoReturn

from halftone.checkpoint.json_objects import parse_object, quoted, refuse
from halftone.spec.dtypes import Dtype
from halftone.spec.files import FileEntry, FileSource

# The limit of the safetensors library itself.
MAX_HEADER_BYTES: Final = 100_000_000
# A trillion parameters in four bits (61 layers of 384 experts with three matrices of four tensors)
# are some 280 000 tensors in all shards together. More would only be a way to fill our memory.
MAX_TENSORS: Final = 400_000
MAX_NAME_CHARACTERS: Final = 512
MAX_RANK: Final = 32
# Covers the header of a shard with a thousand tensors in one request.
FIRST_GUESS_BYTES: Final = 256 * 1024
# Enough to hide the network's delay, few enough for any server.
_REMOTE_READERS: Final = 8
_TOO_LARGE: Final = 1 << 63
_LENGTH_BYTES: Final = 8
# A tensor's object, its two lists and what stands in them.
_VALUES_PER_TENSOR: Final = 10
_GIT_LFS_POINTER: Final = b"version https://git-lfs"
_DTYPES: Final = {str(dtype): (dtype, dtype.bits) for dtype in Dtype}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: `nbytes` bytes at `offset`, counted from the beginning of `file`."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class ShardHeader:
    """What one file holds. `header_bytes` and `sha256` cover the length and the JSON."""

    file: str
    size_bytes: int
    header_bytes: int
    sha256: str
    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]


def parse_header(file: str, size_bytes: int, raw: bytes) -> ShardHeader:
    """The header of a `file` of `size_bytes` bytes that begins with `raw`.

    `raw` holds at least the whole header. Raises RefusedInput(MalformedCheckpoint) unless every
    tensor has a known dtype, a span that its shape fills, and the spans fill the file exactly.
    """
    header_bytes = measure_header(file, size_bytes, raw)
    if len(raw) < header_bytes:
        refuse(
            file,
            f"`{file}` ends inside its header of {header_bytes} bytes; fetch the file again.",
        )
    raw = raw[:header_bytes]
    text = raw[_LENGTH_BYTES:]
    if text[:1] != b"{":
        refuse(file, f"The header of `{file}` does not begin with {{; fetch the file again.")
    document = parse_object(text, file, max_values=_VALUES_PER_TENSOR * MAX_TENSORS)
    metadata = _checked_metadata(file, document.pop("__metadata__", {}))
    data_bytes = size_bytes - header_bytes
    tensors = {
        name: _entry(file, header_bytes, data_bytes, name, described)
        for name, described in document.items()
    }
    _refuse_gaps(file, size_bytes, header_bytes, tensors.values())
    digest = hashlib.sha256(raw).hexdigest()
    return ShardHeader(file, size_bytes, header_bytes, digest, tensors, metadata)


def measure_header(file: str, size_bytes: int, raw: bytes) -> int:
    """Bytes of length and header, from a file's first 8 bytes; refuses impossible ones."""
    if raw.startswith(_GIT_LFS_POINTER):
        refuse(file, f"`{file}` is a Git LFS pointer and not the weights; run `git lfs pull`.")
    if size_bytes < _LENGTH_BYTES or len(raw) < _LENGTH_BYTES:
        refuse(file, f"`{file}` is too short for a safetensors file; fetch it again.")
    length = int.from_bytes(raw[:_LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        refuse(
            file,
            f"`{file}` claims a header of {length} bytes, and safetensors allows "
            f"{MAX_HEADER_BYTES}; it is no safetensors file, or damaged: fetch it again.",
        )
    if _LENGTH_BYTES + length > size_bytes:
        refuse(
            file,
            f"`{file}` claims a header of {length} bytes but has only {size_bytes} bytes in all; "
            "it is truncated: fetch it again.",
        )
    return _LENGTH_BYTES + length


def read_header(
    source: FileSource, entry: FileEntry, guess: int = FIRST_GUESS_BYTES
) -> ShardHeader:
    """The header of one shard: one request when it is no longer than `guess` bytes, else two."""
    raw = source.read_range(entry.path, 0, min(max(guess, _LENGTH_BYTES), entry.size_bytes))
    missing = measure_header(entry.path, entry.size_bytes, raw) - len(raw)
    if missing > 0:
        raw += source.read_range(entry.path, len(raw), missing)
    return parse_header(entry.path, entry.size_bytes, raw)


def read_headers(
    source: FileSource, entries: Sequence[FileEntry], guesses: Mapping[str, int]
) -> tuple[ShardHeader, ...]:
    """Headers of several shards in order, read side by side where the source is remote.

    Raises RefusedInput for the first that is malformed, and as `bounded`.
    """
    asked = [(source, entry, guesses.get(entry.path, FIRST_GUESS_BYTES)) for entry in entries]
    if not entries or source.local_path(entries[0].path) is not None:
        return bounded(starmap(read_header, asked))
    with ThreadPoolExecutor(min(_REMOTE_READERS, len(entries)), "headers") as pool:
        try:
            return bounded(pool.map(lambda arguments: read_header(*arguments), asked))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # the rest would be read in vain
            raise


def bounded(headers: Iterable[ShardHeader]) -> tuple[ShardHeader, ...]:
    """All `headers`, unless they hold more than `MAX_TENSORS` together; none is kept beyond it."""
    kept: list[ShardHeader] = []
    total = 0
    for header in headers:
        total += len(header.tensors)
        if total > MAX_TENSORS:
            refuse(
                header.file,
                f"With `{header.file}` the checkpoint holds {total} tensors, and {MAX_TENSORS} are "
                "allowed; name a source that holds one checkpoint.",
            )
        kept.append(header)
    return tuple(kept)


def guess_header_bytes(names: Iterable[str]) -> int:
    """About how long the header of a shard with these tensors is; seldom too short."""
    # Beside its name a tensor takes some 80 characters: dtype, two dimensions, two long offsets.
    return sum(len(name) + 96 for name in names) + 1024


def serialize_header(
    tensors: Iterable[tuple[str, Dtype, tuple[int, ...], int, int]],
    metadata: Mapping[str, str],
) -> bytes:
    """Length and JSON of a header; tensors are `(name, dtype, shape, begin, end)` in order.

    Offsets count from the end of the header. The bytes depend on the arguments alone; spaces pad
    them so that data begins at a multiple of 8 bytes.
    """
    document: dict[str, Any] = {}
    if metadata:
        document["__metadata__"] = dict(sorted(metadata.items()))
    for name, dtype, shape, begin, end in tensors:
        document[name] = {"dtype": dtype, "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _entry(file: str, data_start: int, data_bytes: int, name: str, described: Any) -> TensorEntry:
    """One checked entry. It runs a hundred thousand times, so the common case calls nothing."""
    try:
        dtype, bits = _DTYPES[described["dtype"]]
        shape = described["shape"]
        begin, end = described["data_offsets"]
    except (KeyError, TypeError, ValueError):
        _refuse_description(file, name, described)
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        refuse(file, f"`{file}` names a tensor {quoted(name)}; no tensor may be named so.")
    if type(shape) is not list or len(shape) > MAX_RANK:
        _refuse_shape(file, name, shape)
    for size in shape:
        if type(size) is not int or not 0 <= size < _TOO_LARGE:  # True and False are no sizes
            _refuse_shape(file, name, shape)
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
        refuse(
            name,
            f"Tensor `{name}` of `{file}` has impossible offsets {quoted([begin, end])}; fetch the "
            "file again.",
        )
    if end > data_bytes:
        refuse(
            name,
            f"Tensor `{name}` ends at byte {data_start + end} of `{file}`, which has "
            f"{data_start + data_bytes}; the file is truncated: fetch it again.",
        )
    if prod(shape) * bits != (end - begin) * 8:
        refuse(
            name,
            f"Tensor `{name}` of `{file}` spans {end - begin} bytes, but {dtype} of shape "
            f"{quoted(shape)} takes {quoted(dtype.nbytes(tuple(shape)))}; fetch the file again.",
        )
    return TensorEntry(name, dtype, tuple(shape), file, data_start + begin, end - begin)


def _refuse_shape(file: str, name: str, shape: Any) -> NoReturn:
    refuse(
        name,
        f"Tensor `{name}` of `{file}` has the impossible shape {quoted(shape)}; fetch the file "
        "again.",
    )


def _refuse_description(file: str, name: str, described: Any) -> NoReturn:
    """Say why a tensor's description could not be taken apart."""
    dtype = described.get("dtype") if isinstance(described, dict) else None
    if isinstance(dtype, str) and dtype not in _DTYPES:
        refuse(
            quoted(name),
            f"Tensor {quoted(name)} of `{file}` has the unknown dtype {quoted(dtype)}; known are "
            f"{', '.join(_DTYPES)}.",
        )
    refuse(
        quoted(name),
        f"Tensor {quoted(name)} of `{file}` is described by {quoted(described)}; `dtype`, `shape` "
        "and two `data_offsets` are needed: fetch the file again.",
    )


def _refuse_gaps(
    file: str, size_bytes: int, data_start: int, tensors: Iterable[TensorEntry]
) -> None:
    """Refuse overlapping tensors and bytes that belong to none."""
    end, before = data_start, "the header"
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset != end:
            what = "overlaps" if tensor.offset < end else "leaves a gap after"
            refuse(
                tensor.name,
                f"Tensor `{tensor.name}` of `{file}` begins at byte {tensor.offset} and {what} "
                f"{before}, which ends at {end}; fetch the file again.",
            )
        end, before = end + tensor.nbytes, f"`{tensor.name}`"
    if end != size_bytes:
        refuse(
            file,
            f"`{file}` has {size_bytes} bytes, but its tensors end at byte {end}; fetch it again.",
        )


def _checked_metadata(file: str, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        refuse(file, f"`__metadata__` of `{file}` must map strings to strings; fetch it again.")
    return metadata
