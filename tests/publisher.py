"""A publisher in a process of its own, which can be killed at an exact point.

    python -m tests.publisher directory TREE PATH [EVENT]
    python -m tests.publisher without-exchange TREE PATH
    python -m tests.publisher hub TREE ORG/NAME

`TREE.json` holds the draft. With EVENT the process kills itself right before the operating system
is asked for the EVENTth time to open, make, rename or remove something beside PATH; without, it
says on its last line how often that happened. `without-exchange` is a directory on a kernel that
cannot exchange two; it says the refusal. A publisher to the Hub is killed by the Hub double.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from halftone.spec.artifacts import Artifact
from halftone.spec.errors import RefusedInput
from halftone.spec.publishing import ArtifactTarget
from halftone.spec.targets import Existing, Transfer, Visibility
from tests.sandbox import take_away_renameat2


def start_publisher(kind: str, tree: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start this module; the caller waits for it."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.publisher", kind, str(tree), *map(str, arguments)],
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class _Counter:
    """Counts what is asked of the file system beside `path`; kills at the `last` time."""

    def __init__(self, path: Path, last: int) -> None:
        self.count = 0
        self._beside = str(path.parent)
        self._last = last

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("ctypes.dlopen", "fcntl.flock") and not (
            event.partition(".")[0] in ("open", "os", "shutil")
            and arguments
            and str(arguments[0]).startswith(self._beside)
        ):
            return
        self.count += 1
        if self.count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


def main(kind: str, tree: Path, where: str, last: int = 0) -> None:
    """Publish `tree`, replacing what is there."""
    artifact = Artifact.model_validate_json(tree.with_suffix(".json").read_bytes())
    target: ArtifactTarget
    counter = None
    if kind == "without-exchange":
        take_away_renameat2()
    if kind != "hub":
        from halftone.stores.directory_target import DirectoryArtifactTarget

        target = DirectoryArtifactTarget(Path(where))
        counter = _Counter(Path(where), last)
        sys.addaudithook(counter)
    else:
        from halftone.stores.hub_target import HubArtifactTarget

        target = HubArtifactTarget(where, Visibility.Private, Transfer.Lfs)
    try:
        target.publish(tree, artifact, Existing.Replace, lambda _: None)
    except RefusedInput as error:
        print(error.reason, error.message)
        return
    if counter is not None:
        print(counter.count)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
