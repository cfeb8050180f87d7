"""What the two origins of the writing double share: a server, one log, and faults on demand.

Called by `tests.doubles.hub_writing`, which says what is answered when nothing goes wrong.
"""

import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tests.doubles.hub_repositories import RefusedError
from tests.doubles.loopback import LoopbackHandler, LoopbackServer


class Place(Enum):
    """Where a request arrives."""

    Account = "account"
    Description = "description"
    Refs = "refs"
    Create = "create"
    Preupload = "preupload"
    Batch = "batch"
    Storage = "storage"
    Complete = "complete"
    Verify = "verify"
    Card = "card"
    Commit = "commit"
    Tag = "tag"
    Resolve = "resolve"
    Xet = "xet"


class Fault(Enum):
    """What can go wrong with one answer."""

    Unavailable = "503 with Retry-After: 0"
    Broken = "500"
    Slow = "the body is read in small pieces, with pauses"
    Reset = "half of the body is read, then the connection is reset"
    Lost = "all is done as asked, then the connection is reset without an answer"
    Unauthorized = "401: the token is not valid"
    Forbidden = "403: the token may not"
    Quota = "403: no storage left"
    TooLarge = "413"
    Moved = "412: another commit came first"
    Expired = "403 in XML: the signature of the address has expired"
    OtherBytes = "one byte arrives as another"
    Garbage = "200 and something that is not what the API sends"


ERRORS = {
    Fault.Unavailable: (503, "Service Unavailable"),
    Fault.Broken: (500, "Internal Error"),
    Fault.Unauthorized: (401, "Invalid credentials in Authorization header"),
    Fault.Forbidden: (403, "You don't have the required permissions"),
    Fault.Quota: (403, "Private repository storage limit reached, please upgrade your plan"),
    Fault.TooLarge: (413, "Payload Too Large"),
    Fault.Moved: (412, "A commit has happened since. Please refresh and try again."),
    Fault.Expired: (403, "Request has expired"),
}


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    place: Place
    method: str
    path: str
    authorization: str | None


class Journal:
    """What arrived, and what is to go wrong next.

    `arrived` is called for every request, `received` for every piece of a body with its length;
    both by the thread that answers, before it does.
    """

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.arrived: Callable[[Seen], None] = lambda _: None
        self.received: Callable[[int], None] = lambda _: None
        self.lock = threading.RLock()
        self._faults: dict[Place, deque[Fault]] = {place: deque() for place in Place}

    def fail(self, place: Place, fault: Fault, times: int = 1) -> None:
        """Let the next `times` answers at `place` go wrong."""
        self._faults[place].extend([fault] * times)

    def next_fault(self, place: Place) -> Fault | None:
        """The fault for the answer that is about to be given."""
        with self.lock:
            return self._faults[place].popleft() if self._faults[place] else None

    def seen(self, place: Place) -> list[Seen]:
        """The requests that arrived at `place`, in order."""
        return [request for request in self.requests if request.place is place]

    def note(self, request: Seen) -> None:
        """Log a request that has just arrived."""
        with self.lock:
            self.requests.append(request)
        self.arrived(request)


class Server(LoopbackServer):
    """A server of one of the double's origins."""

    def __init__(self, journal: Journal, handler: type["Handler"]) -> None:
        super().__init__(handler)
        self.journal = journal


class Handler(LoopbackHandler):
    """One log, bodies, and whatever may go wrong with an answer."""

    server: Server

    def answer(self, place: Place, body: bytes) -> tuple[Any, dict[str, str]]:
        """What to answer with 200: JSON or bytes, and headers."""
        raise NotImplementedError

    def place(self) -> Place:
        raise NotImplementedError

    def do_GET(self) -> None:  # noqa: N802  # http.server's name
        place = self.place()
        authorization = self.headers.get("Authorization")
        self.server.journal.note(Seen(place, self.command, self.path, authorization))
        fault = self.server.journal.next_fault(place)
        try:
            body = self.body(fault)
            if fault in ERRORS:
                status, message = ERRORS[fault]
                raise RefusedError(status, message)
            with self.server.journal.lock:
                content, headers = self.answer(place, body)
            if fault is Fault.Lost:
                raise ConnectionResetError
            status = 302 if "Location" in headers else 200
            self.reply(status, b"<html>hello" if fault is Fault.Garbage else content, headers)
        except RefusedError as error:
            headers = {"X-Error-Message": error.message, "Retry-After": "0"}
            headers |= {"X-Error-Code": error.code} if error.code else {}
            self.reply(error.status, {"error": error.message}, headers)
        except OSError:  # the client is gone, or is to think that we are
            linger = struct.pack("ii", 1, 0)  # closed without lingering is reset
            with suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def body(self, fault: Fault | None) -> bytes:
        """The whole body; raises ConnectionResetError when not all of it comes."""
        length = int(self.headers.get("Content-Length") or 0)
        stop = length // 2 if fault is Fault.Reset else length
        received = bytearray()
        while len(received) < stop:
            if fault is Fault.Slow:
                time.sleep(0.005)
            piece = self.rfile.read1(min(16_384, stop - len(received)))
            if not piece:
                raise ConnectionResetError
            received += piece
            self.server.journal.received(len(piece))
        if fault is Fault.Reset:
            raise ConnectionResetError
        if fault is Fault.OtherBytes:
            received[len(received) // 2] ^= 1
        return bytes(received)

    def reply(self, status: int, content: Any, headers: dict[str, str]) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
