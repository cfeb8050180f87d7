"""The program of `make e2e` where its story cannot be told: how it ends, and what it keeps.

No cluster is started: the first act builds images, and stand-ins of buildah fail or wait there.
We test these aspects:
- what cannot begin ends with exit code 1, a sentence, and the act's error among the times
- somebody ends it with SIGTERM: it leaves in order, and times are kept
- a log that is refused, or that breaks off, is asked for again, and an error is no log
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.cluster.control_plane import ControlPlane
from tests.conftest import ROOT
from tests.e2e.logs import FollowedLogs

WAITING: Final = "#!/bin/sh\nexec /bin/sleep 5\n"


def begin(tmp_path: Path, buildah: str | None) -> "subprocess.Popen[str]":
    """The program, with nothing on its PATH but a stand-in of buildah."""
    programs = tmp_path / "programs"
    programs.mkdir()
    if buildah is not None:
        (programs / "buildah").write_text(buildah)
        (programs / "buildah").chmod(0o755)
    settings = {**os.environ, "PATH": str(programs), "HALFTONE_IMAGES_DIR": str(tmp_path / "store")}
    command = [sys.executable, "-m", "tests.e2e", "--output", str(tmp_path / "output")]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={name: value for name, value in settings.items() if name != "KUBECONFIG"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def only_act(tmp_path: Path) -> dict[str, Any]:
    """What is on record of the one act that began."""
    (act,) = json.loads((tmp_path / "output" / "timeline.json").read_text())["acts"]
    return dict(act)


def test_a_story_that_cannot_begin_fails_with_a_sentence(tmp_path: Path) -> None:
    process = begin(tmp_path, buildah=None)
    out, err = process.communicate()
    assert process.returncode == 1
    assert "buildah is missing" in err
    assert "FAILED" in out
    assert out.splitlines()[-1].endswith(f"failed; times and logs are in {tmp_path / 'output'}")
    assert "buildah is missing" in only_act(tmp_path)["error"]


def test_a_story_that_somebody_ends_leaves_in_order(tmp_path: Path) -> None:
    process = begin(tmp_path, WAITING)
    began = tmp_path / "output" / "events.log"
    deadline = time.monotonic() + 120
    while not (began.exists() and "begins" in began.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 1
    assert "somebody ended it" in err
    assert "times and logs are in" in out
    assert only_act(tmp_path)["error"].startswith("KeyboardInterrupt")


POD: Final = {
    "metadata": {"namespace": "jobs", "name": "operator", "uid": "0123456789"},
    "spec": {"containers": [{"name": "operator"}]},
    "status": {
        "containerStatuses": [
            {"name": "operator", "restartCount": 0, "state": {"running": {}}},
        ]
    },
}
CONTAINER: Final = "jobs.operator.01234567.operator.0"


class Elsewhere(ControlPlane):
    """Only its connection is used, which leads to a server of the test."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self.url = url

    def connection(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False)


@contextmanager
def serving(*answers: tuple[int, int, bytes]) -> Iterator[tuple[str, threading.Event]]:
    """An API server of one pod whose log is answered so, one after the other: status, stated
    length, bytes. The event is set once the last was given.
    """
    left, over = list(answers), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/api/v1/pods"):
                body = json.dumps({"items": [POD]}).encode()
                return self.say(200, len(body), body)
            self.say(*left.pop(0))
            if not left:
                over.set()
            return None

        def say(self, status: int, length: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", over
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("first", "kept"),
    [((400, 14, b"is starting up"), "ready\n"), ((200, 99, b"begins\n"), "begins\nready\n")],
    ids=["refused", "broken off"],
)
def test_a_log_that_was_not_read_is_asked_for_again(
    first: tuple[int, int, bytes], kept: str, tmp_path: Path
) -> None:
    with serving(first, (200, 6, b"ready\n")) as (url, over):
        logs = FollowedLogs(Elsewhere(tmp_path / "cluster", url), tmp_path / "logs")
        with logs:
            assert over.wait(60)
            deadline = time.monotonic() + 60
            while list(logs.texts().values()) != [kept] and time.monotonic() < deadline:
                time.sleep(0.05)
            assert logs.missing(("jobs",)) == []
            (tmp_path / "logs" / f"{CONTAINER}.log").rename(tmp_path / "taken away")
            assert logs.missing(("jobs",), 0) == [CONTAINER]
            assert logs.missing(("others",), 0) == []
            (tmp_path / "taken away").rename(tmp_path / "logs" / f"{CONTAINER}.log")
    assert logs.texts() == {f"{CONTAINER}.log": kept}
    assert logs.errors == []
    assert logs.missing(("jobs",)) == ["whatever has begun since looking broke off"]
