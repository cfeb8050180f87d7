"""A verb of `halftone` that goes on and exports metrics, as a process of its own.

    with Lasting("doctor", "--prometheus", prometheus.url) as doctor:
        prometheus.scrape("doctor", [doctor.address])

Called by tests that have a Prometheus scrape what `halftone doctor` and `halftone autoscale` find.
Leaving the block ends it with SIGTERM, after which it must end by itself.
"""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Final, Self

import pytest

_ENDS_WITHIN: Final = 60.0  # seconds; a look that is under way comes to its end


class Lasting:
    """One process; `said` has the lines of its log so far."""

    def __init__(self, verb: str, *options: str) -> None:
        self._command = [sys.executable, "-m", "halftone", verb, *options, "--metrics-port", "0"]
        self.said: list[str] = []
        self.address = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        lines = iter(self._process.stderr)
        for line in lines:
            self.said.append(line)
            if found := re.search(r"metrics on port (\d+)", line):
                self.address = f"127.0.0.1:{found[1]}"
                break
        else:
            pytest.fail(f"`halftone {self._command[3]}` ended:\n{''.join(self.said)}")
        # What nobody reads would stop it.
        self._reader = threading.Thread(target=self._read, args=(lines,), daemon=True)
        self._reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        assert self._process.stderr is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(_ENDS_WITHIN)
        self._reader.join()
        self._process.stderr.close()
        assert kind is not None or code == 0, "".join(self.said)

    def _read(self, lines: Iterator[str]) -> None:
        self.said.extend(lines)
