"""The load of live tests, at a double on loopback.

We test these aspects:
- open loop sends at its times, also while nothing is answered;
- a flood keeps so many in flight, and no more;
- leaving the block lets go of what is not answered; whatever nobody answers counts as 0.
"""

import json
import threading
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.asking_load import Load
from tests.doubles.loopback import LoopbackHandler, LoopbackServer
from tests.servers.ports import free_port


class Handler(LoopbackHandler):
    server: "Endpoint"

    def do_POST(self) -> None:  # noqa: N802  # http.server's name
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body["number"])
        self.server.may_answer.wait(10)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


class Endpoint(LoopbackServer):
    """Answers as soon as it may."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(Handler)
        self.bodies: list[int] = []
        self.may_answer = threading.Event()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    server.start()
    yield server
    server.may_answer.set()
    server.stop()


def numbered() -> Iterator[dict[str, Any]]:
    return ({"number": number} for number in count())


def until(holds: Any) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_open_loop_goes_on_while_nothing_is_answered(endpoint: Endpoint) -> None:
    with Load(endpoint.origin, numbered(), every_s=0.005) as load:
        until(lambda: len(endpoint.bodies) > 5)
    assert load.statuses == {}


def test_a_flood_keeps_so_many_in_flight(endpoint: Endpoint) -> None:
    with Load(endpoint.origin, numbered(), at_once=3) as load:
        until(lambda: len(endpoint.bodies) == 3)
        time.sleep(0.05)
        assert sorted(endpoint.bodies) == [0, 1, 2]
        endpoint.may_answer.set()
        until(lambda: load.statuses[200] > 5)


def test_what_nobody_answers_counts_as_nothing() -> None:
    with Load(f"http://127.0.0.1:{free_port()}", numbered(), every_s=0.005) as load:
        until(lambda: load.statuses[0] > 2)
    assert set(load.statuses) == {0}
