"""The processes of a cluster: started with a log each, ended by their number and start time.

Called by `control_plane` and `node`. A number alone may belong to somebody else by the time that it
is used; so nothing is ever ended by its name.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

_POLL: Final = 0.05
# Seconds that a process has to end by itself.
_GRACE: Final = 10.0


class Processes:
    """What runs for the cluster in `folder`, inside the network namespace at the path `network`."""

    def __init__(self, folder: Path, network: str | None = None) -> None:
        self._folder = folder
        self._network = network
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def start(
        self, name: str, *command: str | Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start `command`, its output into `logs/NAME.log`."""
        with (self._folder / "logs" / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                self.inside(*map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._write()

    def inside(self, *command: str) -> list[str]:
        """`command` as it runs where the cluster is."""
        return [*(("nsenter", f"--net={self._network}") if self._network else ()), *command]

    def require_running(self) -> None:
        """Raise with the end of its log if one has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                log = (self._folder / "logs" / f"{name}.log").read_text(errors="replace")
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{log[-2000:]}")

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Return once `condition` holds; raise after `seconds`, or when a process ends."""
        deadline = time.monotonic() + seconds
        error: Exception | None = None
        while time.monotonic() < deadline:
            self.require_running()
            try:
                if condition():
                    return
            except (OSError, ValueError, LookupError, subprocess.SubprocessError) as found:
                error = found
            time.sleep(_POLL)
        raise TimeoutError(f"{what} did not happen in {seconds:.0f} s ({error})")

    def stop(self) -> None:
        """End all of them, the last one first."""
        stop(self._folder)
        for process in self._running.values():
            process.wait(timeout=_GRACE)
        self._running.clear()

    def _write(self) -> None:
        rows = {
            name: [process.pid, started(process.pid)] for name, process in self._running.items()
        }
        (self._folder / "processes.json").write_text(json.dumps(rows))


def stop(folder: Path) -> None:
    """End what `folder` says is running, the last one first."""
    path = folder / "processes.json"
    if not path.exists():
        return
    rows = json.loads(path.read_text())
    for _, (number, since) in reversed(rows.items()):
        _end(number, since)
    path.unlink()


def _end(number: int, since: str | None) -> None:
    for sign, seconds in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
        if since is None or started(number) != since:
            return
        os.kill(number, sign)
        deadline = time.monotonic() + seconds
        while started(number) == since and time.monotonic() < deadline:
            time.sleep(_POLL)


def started(number: int) -> str | None:
    """When a process was started, in the kernel's own words; None for one that has ended."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
