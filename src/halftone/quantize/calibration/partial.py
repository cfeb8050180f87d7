"""Where calibration keeps its place, so that a kill loses at most one layer.

Called by `calibrating`, `measuring`, `running` and a sweep. Activations lie in
`.statistics.partial/values` inside the output directory, one file a value. `journal.json` names
those that count and holds what was measured so far; it is replaced whole after each layer, and
files that it does not name are nothing. Work of another plan is refused; work on other data, or by
other versions, is begun anew. Nothing is written or removed through a symbolic link.
"""

import json
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, NamedTuple

from halftone.quantize import storage
from halftone.quantize.calibration.measured import Measured
from halftone.quantize.locks import lock
from halftone.spec.documents import canonical_json, write_atomically
from halftone.spec.errors import EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import Reason

PARTIAL_DIRECTORY: Final = ".statistics.partial"
_JOURNAL: Final = "journal.json"
_LOCK: Final = "lock"
_VALUES: Final = "values"
_SCRATCH: Final = "data"
# After these, what was measured is of weights that are gone, or of no use without another input.
# Anything else (credentials that expired, a store that is down) may be mended, and work goes on.
_SPOILING: Final = frozenset(
    {
        Reason.ModuleUnmeasured,
        Reason.NonFiniteActivation,
        Reason.NonFiniteWeight,
        Reason.SourceChanged,
    }
)
# What work depends on beside the plan, as a user would call it.
_ORIGINS: Final = {
    "data": "on other data",
    "source": "on other weights",
    "device": "on another device",
    "versions": "by other versions of the libraries",
    "halftoneVersion": "by another version of Halftone",
}


class SampleState(NamedTuple):
    """One sample between two layers: the names of its inputs, and files by the name of a value."""

    keys: tuple[str, ...]
    values: dict[str, str]


class Journal(NamedTuple):
    """What is done: `done` steps, in which `measured` was found, and where each sample is now.

    `longest` is how many tokens the longest sample has.
    """

    done: int
    longest: int
    samples: tuple[SampleState, ...]
    measured: Measured


def storage_errors(output: Path) -> AbstractContextManager[None]:
    """Translate what the operating system says of `output`; measured layers outlive it."""
    return storage.storage_errors(
        output, cannot="cannot hold the statistics", kept="measured layers"
    )


class Partial:
    """The partial directory of one output; hold it with `with`, one process at a time.

    with Partial(output, planned.plan.digest) as partial:
        dropped = partial.take_up({"data": ...})  # from here on `journal` says what is done
    """

    def __init__(self, output: Path, plan_digest: str) -> None:
        """Work of another plan than that of `plan_digest` is refused when this is entered."""
        self.output = output
        self.root = output / PARTIAL_DIRECTORY
        # For copies of data; emptied when this is entered and left.
        self.scratch = self.root / _SCRATCH
        self.journal: Journal | None = None
        self._identity: dict[str, Any] = {"planDigest": plan_digest}
        self._lock: IO[bytes] | None = None
        self._is_ours = False

    def __enter__(self) -> "Partial":
        with storage_errors(self.output):
            self._is_ours = not self.output.exists()
            self._refuse_links()
            self.values.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            try:
                self._read()
                if self.scratch.exists():
                    shutil.rmtree(self.scratch)
            except BaseException:
                self._release_lock()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        spoilt = isinstance(error, HalftoneError) and error.reason in _SPOILING
        if error is None or spoilt or not self._path.exists():
            shutil.rmtree(self.root, ignore_errors=True)
        else:
            shutil.rmtree(self.scratch, ignore_errors=True)
            if self.journal is not None:
                with suppress(OSError):  # useless files, which take space that may be missing
                    self._drop_unnamed()
        if error is not None and self._is_ours:
            with suppress(OSError):  # it holds something
                self.output.rmdir()
        self._release_lock()

    def take_up(self, origin: Mapping[str, Any]) -> str | None:
        """Go on where an earlier run stopped, if it was of the same `origin`; else begin anew.

        `origin` is what work depends on beside the plan. Returns, in a sentence, what lay here and
        was of no use.
        """
        self._identity["origin"] = json.loads(canonical_json(origin))
        with storage_errors(self.output):
            found, flaw = self._read(), None
            if found is not None:
                self.journal, flaw = self._usable(found)
            if self.journal is None:
                self._path.unlink(missing_ok=True)
            self._drop_unnamed()
        if flaw is None:
            return None
        return f"Unfinished work in '{self.root}' {flaw}, so it cannot be used: measuring anew."

    def require_space(self, needed: int) -> None:
        """Raise EnvironmentFault(OutOfSpace) unless `needed` more bytes fit."""
        with storage_errors(self.output):
            free = shutil.disk_usage(self.root).free
        if free < needed:
            raise EnvironmentFault(
                Reason.OutOfSpace,
                str(self.output),
                f"'{self.output}' needs {needed:,} more bytes for activations between two layers, "
                f"but its disk has {free:,} free; free some space, choose another directory, or "
                "ask for fewer `samples` or a smaller `maxSequenceLength`.",
            )

    @property
    def values(self) -> Path:
        """The folder of values."""
        return self.root / _VALUES

    def value_path(self, file: str) -> Path:
        """Where the value that the journal calls `file` lies."""
        return self.values / file

    def commit(self, journal: Journal) -> None:
        """Make `journal` what a later run begins with, and give back what it does not name."""
        with storage_errors(self.output):
            rows = [[list(sample.keys), sample.values] for sample in journal.samples]
            body = {
                "done": journal.done,
                "longest": journal.longest,
                "samples": rows,
                "measured": journal.measured.to_json(),
            }
            write_atomically(self._path, canonical_json({**self._identity, **body}))
            self.journal = journal
            self._drop_unnamed()

    @property
    def _path(self) -> Path:
        return self.root / _JOURNAL

    def _refuse_links(self) -> None:
        """A link may lead to whatever somebody wants to keep."""
        for path in (self.root, self.values, self.scratch, self._path, self.root / _LOCK):
            if path.is_symlink():
                raise RefusedInput(
                    Reason.OutputNotEmpty,
                    str(path),
                    f"'{path}' is a symbolic link, and whatever lies where it leads would be "
                    "overwritten or removed; remove the link, or choose another directory.",
                )

    def _take_lock(self) -> None:
        self._lock = lock(self.root / _LOCK)
        if self._lock is None:
            raise EnvironmentFault(
                Reason.OutputBusy,
                str(self.output),
                f"Another process is calibrating into '{self.output}'; wait for it, or stop it.",
            )

    def _release_lock(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _read(self) -> dict[str, Any] | None:
        """The journal that an earlier run left, of this plan and otherwise unchecked."""
        if not self._path.is_file():
            return None
        try:
            found: dict[str, Any] = json.loads(self._path.read_bytes())
            mine = str(self._identity["planDigest"])
            storage.refuse_another_plan(self.root, str(found["planDigest"]), mine)
        except (ValueError, KeyError, TypeError):
            return {}
        return found

    def _usable(self, found: dict[str, Any]) -> tuple[Journal | None, str | None]:
        """What an earlier run did; or None, and why that is of no use."""
        try:
            before, now = found["origin"], self._identity["origin"]
            changed = [key for key in {**_ORIGINS, **now} if before.get(key) != now.get(key)]
            if changed:
                return None, f"was measured {_ORIGINS.get(changed[0], 'otherwise')}"
            journal = _journal(found)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None, "is damaged"
        files = {file for sample in journal.samples for file in sample.values.values()}
        if not all(_is_whole(self.value_path(file)) for file in files):
            return None, "is damaged"
        return journal, None

    def _drop_unnamed(self) -> None:
        samples = self.journal.samples if self.journal is not None else ()
        named = {file for sample in samples for file in sample.values.values()}
        for path in self.values.iterdir():
            if path.name not in named:
                path.unlink()


def _journal(found: dict[str, Any]) -> Journal:
    """Raises KeyError, TypeError, ValueError or AttributeError for what is none."""
    samples = tuple(
        SampleState(tuple(map(str, keys)), {str(k): _name(v) for k, v in values.items()})
        for keys, values in found["samples"]
    )
    measured = Measured.from_json(found["measured"])
    return Journal(int(found["done"]), int(found["longest"]), samples, measured)


def _name(file: Any) -> str:
    """`file`, which may not lead out of its folder."""
    if Path(file).name != file:
        raise ValueError(file)
    return str(file)


def _is_whole(path: Path) -> bool:
    """Whether a value is as it was written.

    Values are not flushed to the disk one by one, which would cost more than measuring: after a
    power cut the journal may name files that are short or hold zeros. A value is an archive with a
    CRC-32 of each part, which torch writes and does not look at.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # what zipfile makes of torn archives is of many kinds
        return False
