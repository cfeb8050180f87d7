"""Where calibration keeps its place, so that a kill loses at most one layer.

Called by `calibrating` and `running`. Activations lie in `.statistics.partial/values` inside the
output directory, one file a value. `journal.json` names those that count and holds what was
measured so far; it is replaced whole after each layer, and files that it does not name are nothing.
Work of another plan is refused; work on other data, or by other versions, is begun anew.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, NamedTuple

from halftone.quantize.calibration.measured import Measured
from halftone.spec.documents import canonical_json, write_atomically
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason

PARTIAL_DIRECTORY: Final = ".statistics.partial"
_JOURNAL: Final = "journal.json"
_LOCK: Final = "lock"
_VALUES: Final = "values"


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


@contextmanager
def storage_errors(output: Path) -> Iterator[None]:
    """Translate what the operating system says about our own files, cause chained."""
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        told = (
            f"The disk under '{output}' is full; free some space and run the same command again: "
            "measured layers are kept."
            if full
            else f"'{output}' cannot hold the statistics ({error.strerror or error}); mend this "
            "and run the same command again, or choose another directory."
        )
        reason = Reason.OutOfSpace if full else Reason.StorageFailed
        raise EnvironmentFault(reason, str(output), told) from error


def discard_leftovers(output: Path) -> None:
    """Remove what a kill left between the last document and the end of cleaning up."""
    shutil.rmtree(output / PARTIAL_DIRECTORY, ignore_errors=True)


class Partial:
    """The partial directory of one output; hold it with `with`, one process at a time."""

    def __init__(self, output: Path, plan_digest: str, origin: Mapping[str, Any]) -> None:
        """`origin`: what the work depends on beside the plan; kept while it is the same."""
        self.output = output
        self.root = output / PARTIAL_DIRECTORY
        self.journal: Journal | None = None
        self._identity = {"planDigest": plan_digest, "origin": json.loads(canonical_json(origin))}
        self._lock: IO[bytes] | None = None
        self._is_ours = False

    def __enter__(self) -> "Partial":
        with storage_errors(self.output):
            self._is_ours = not self.output.exists()
            self._values.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            try:
                self.journal = self._read_journal()
                self._drop_unnamed()
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
        # A refusal needs other input, to which nothing of this is of use.
        if error is None or isinstance(error, RefusedInput) or self.journal is None:
            shutil.rmtree(self.root, ignore_errors=True)
        if error is not None and self._is_ours:
            with suppress(OSError):  # it holds something
                self.output.rmdir()
        self._release_lock()

    def value_path(self, file: str) -> Path:
        """Where the value that the journal calls `file` lies."""
        return self._values / file

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
            write_atomically(self.root / _JOURNAL, canonical_json({**self._identity, **body}))
            self.journal = journal
            self._drop_unnamed()

    @property
    def _values(self) -> Path:
        return self.root / _VALUES

    def _take_lock(self) -> None:
        path = self.root / _LOCK
        self._lock = path.open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever finished in between took the directory away, and our lock with it.
            taken = not path.exists() or not os.path.samestat(
                path.stat(), os.fstat(self._lock.fileno())
            )
        except BlockingIOError:
            taken = True
        if taken:
            self._release_lock()
            raise EnvironmentFault(
                Reason.OutputBusy,
                str(self.output),
                f"Another process is calibrating into '{self.output}'; wait for it, or stop it.",
            )

    def _release_lock(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _read_journal(self) -> Journal | None:
        """What an earlier run left; None when there is nothing, or nothing that can be used."""
        path = self.root / _JOURNAL
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_bytes())
            self._refuse_another(str(found["planDigest"]))
            if found["origin"] != self._identity["origin"]:
                return None
            samples = tuple(
                SampleState(tuple(map(str, keys)), {str(k): str(v) for k, v in values.items()})
                for keys, values in found["samples"]
            )
            measured = Measured.from_json(found["measured"])
            journal = Journal(int(found["done"]), int(found["longest"]), samples, measured)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None  # a damaged journal proves nothing
        whole = all(self.value_path(f).is_file() for s in samples for f in s.values.values())
        return journal if whole else None

    def _refuse_another(self, digest: str) -> None:
        mine = str(self._identity["planDigest"])
        if digest != mine:
            raise RefusedInput(
                Reason.OutputNotEmpty,
                str(self.root),
                f"'{self.root}' holds unfinished work of another plan ({digest[:12]}, this one is "
                f"{mine[:12]}); finish that one or remove the directory.",
            )

    def _drop_unnamed(self) -> None:
        samples = self.journal.samples if self.journal is not None else ()
        named = {file for sample in samples for file in sample.values.values()}
        for path in self._values.iterdir():
            if path.name not in named:
                path.unlink()
