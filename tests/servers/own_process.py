"""A server of a test's own: its process, its log, and what it answers over HTTP.

Called by `prometheus` and `alertmanager`, which know its command and its API.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import pytest


class OwnProcess:
    """One process of the server that people call `name`, at `url`, with its log in `folder`."""

    def __init__(self, name: str, folder: Path, url: str) -> None:
        self._name = name
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = url

    def stop(self) -> None:
        """End the process; its data stays."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def _begin(self, command: Sequence[str | Path]) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def _get(self, path: str) -> bytes | None:
        """What it answers; None while it does not."""
        try:
            with urlopen(f"{self.url}{path}", timeout=10) as answer:
                said: bytes = answer.read()
                return said
        except (OSError, HTTPException):  # not there yet, or just ending
            return None

    def _wait(self, what: str, seconds: float, is_so: Callable[[], object]) -> None:
        """Return once it is so; fails the test, with the log, after `seconds` or at its end."""
        deadline = time.monotonic() + seconds
        while not is_so():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                pytest.fail(f"waited in vain {what} in {self._name}:\n{self._log()}")
            time.sleep(0.05)

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-2000:]
