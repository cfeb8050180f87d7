"""What reads documents that others wrote, each as a function of bytes.

A target returns, or raises a HalftoneError: a sentence for whoever brought the document. Anything
else that it raises is a defect. Called by `python -m tests.fuzz` and by the test of seeds.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from halftone.checkpoint.headers import parse_header
from halftone.checkpoint.index import read_checkpoint
from halftone.doctor.expositions import UnreadableExposition, seen_on
from halftone.plan.planning import plan_checkpoint
from halftone.scaling.inputs.parsing import UnusableAnswer, vector
from halftone.spec.documents import Plan
from halftone.spec.errors import HalftoneError, RefusedInput
from halftone.spec.files import FileEntry, Traffic
from halftone.spec.names import CONFIG_FILE, INDEX_FILE, Reason
from halftone.spec.recipes import load_recipe, parse_job, read_yaml, resolve
from halftone.spec.reports import Report
from halftone.telemetry.contract import load_contract

Target = Callable[[bytes], None]
# Between the parts of an input that stands for several files.
BETWEEN: Final = b"\n\x1e\n"
# The one shard of an input that stands for a checkpoint.
SHARD: Final = "model-00001-of-00001.safetensors"
_NEEDS: Final = tuple(load_contract())


class _Memory:
    """Files in memory, as a store has them; `more` zeros follow what is there of the shard."""

    uri = "memory"
    revision = None

    def __init__(self, files: Mapping[str, bytes], more: int) -> None:
        self._files = dict(files)
        self._sizes = {name: len(data) for name, data in files.items()}
        self._sizes[SHARD] += more
        self.traffic = Traffic()

    def files(self) -> Sequence[FileEntry]:
        return [FileEntry(name, size) for name, size in sorted(self._sizes.items())]

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        if offset + length > self._sizes[path]:
            raise RefusedInput(Reason.MalformedCheckpoint, path, f"`{path}` is shorter.")
        return self._files[path][offset : offset + length].ljust(length, b"\0")

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.read_range(path, offset, len(buffer))

    def local_path(self, path: str) -> Path | None:
        return None

    def close(self) -> None:
        """Nothing is open."""


def _cut(data: bytes) -> tuple[bytes, int]:
    """The begin of a shard, and how much longer the file is, which its last four bytes say."""
    return data[:-4], int.from_bytes(data[-4:], "little")


def header(data: bytes) -> None:
    """The begin of a shard."""
    begin, more = _cut(data)
    parse_header("model.safetensors", len(begin) + more, begin)


def checkpoint(data: bytes) -> None:
    """Configuration, index and the begin of one shard; what can be read is planned, too."""
    config, index, shard = (*data.split(BETWEEN, 2), b"", b"")[:3]
    begin, more = _cut(shard)
    files = {CONFIG_FILE: config, SHARD: begin}
    if index:
        files[INDEX_FILE] = index
    found = read_checkpoint(_Memory(files, more))
    plan_checkpoint(found, load_recipe("nvfp4a16"))


def plan(data: bytes) -> None:
    """A plan as another stage finds it."""
    _from_file(data, lambda path: Plan.load(path))


def report(data: bytes) -> None:
    """A report as whoever publishes finds it."""
    _from_file(data, lambda path: Report.load(path))


def job(data: bytes) -> None:
    """A QuantizationJob in YAML, with its recipe."""

    def read(path: Path) -> None:
        resolve(parse_job(read_yaml(path), "job.yaml").spec.quantization, "job.yaml")

    _from_file(data, read)


def exposition(data: bytes) -> None:
    """A page of metrics."""
    try:
        seen_on([data.decode(errors="replace")], _NEEDS)
    except UnreadableExposition as error:
        _told(str(error))


def answer(data: bytes) -> None:
    """What a Prometheus answers, or whoever is there in its place."""
    try:
        vector(data)
    except UnusableAnswer as error:
        _told(str(error))


TARGETS: Final[Mapping[str, Target]] = {
    each.__name__: each for each in (header, checkpoint, plan, report, job, exposition, answer)
}


def run(target: Target, data: bytes) -> None:
    """Hand `data` to a target. Raises what is a defect: any error that is no sentence of ours."""
    try:
        target(data)
    except HalftoneError as error:
        _told(error.message)


def _told(sentence: str) -> None:
    if not sentence or len(sentence) > 5000 or not sentence.isprintable():
        raise AssertionError(f"no sentence for a terminal: {sentence[:200]!r}")


def _from_file(data: bytes, read: Callable[[Path], object]) -> None:
    with tempfile.NamedTemporaryFile(dir=_MEMORY) as file:
        file.write(data)
        file.flush()
        read(Path(file.name))


# Where there is one, for files that nobody keeps.
_MEMORY: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None
