"""A way to a real S3 server on which things go wrong when a test says so.

The server behind it is unchanged and keeps its promises; what is bad is the way, or a server that
this one is made to look like. Requests are counted as they arrive.

    with FaultyProxy(s3) as proxy:
        proxy.fail(Fault.Reset, times=2, match="PUT .*partNumber=")
        proxy.at_bytes(20_000_000, child.kill)
        S3ArtifactTarget("s3://models/base", proxy.endpoint)
"""

import http.client
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep
from typing import Any, Self

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.servers.versitygw import REGION, VersityGateway

_CHUNK = 1 << 16
_HOP_BY_HOP = {"connection", "expect", "keep-alive", "transfer-encoding"}


class Fault(Enum):
    """What can go wrong with one request; the first word is the status of the answer."""

    Unavailable = "503 SlowDown"
    Broken = "500 InternalError"
    Expired = "403 ExpiredToken"
    Denied = "403 AccessDenied"
    Quota = "507 QuotaExceeded"
    Precondition = "412 PreconditionFailed"
    Nonsense = "200 an answer that is not XML"
    Reset = "the connection is reset in the middle of the request's body"
    Lost = "the server acts, and the connection is reset before its answer"
    WrongEtag = "the answer, with another ETag"
    Garbled = "one byte of the body is changed on its way"
    Slow = "the body trickles"


@dataclass
class _Planned:
    fault: Fault
    times: int
    match: re.Pattern[str]


@dataclass
class _Gathering:
    barrier: threading.Barrier
    awaited: int
    match: re.Pattern[str]


class FaultyProxy:
    """Forwards to `server`; with `strip`, headers of that name do not arrive."""

    def __init__(self, server: VersityGateway, strip: str | None = None) -> None:
        self.server = server
        self.strip = strip
        self.requests: list[str] = []
        self.uploaded = 0
        self._planned: list[_Planned] = []
        self._gatherings: list[_Gathering] = []
        self._actions: list[tuple[int, Callable[[], Any]]] = []
        self._watched: list[tuple[re.Pattern[str], Callable[[], Any]]] = []
        self._lock = threading.Lock()
        self._http = _Server(self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def endpoint(self) -> str:
        """The value of AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def fail(self, fault: Fault, times: int = 1, match: str = "") -> None:
        """Let the next `times` requests whose `METHOD PATH` matches go wrong."""
        with self._lock:
            self._planned.append(_Planned(fault, times, re.compile(match)))

    def gather(self, count: int, match: str) -> None:
        """Hold back the next `count` requests that match until all of them have come."""
        with self._lock:
            held = _Gathering(threading.Barrier(count), count, re.compile(match))
            self._gatherings.append(held)

    def at_bytes(self, count: int, action: Callable[[], Any]) -> None:
        """Call `action` once, as soon as `count` bytes of bodies have come."""
        with self._lock:
            self._actions.append((count, action))

    def on_request(self, match: str, action: Callable[[], Any]) -> None:
        """Call `action` once, when a request that matches has come whole and goes on."""
        with self._lock:
            self._watched.append((re.compile(match), action))

    @property
    def pending(self) -> int:
        """How many of the faults that were asked for did not happen yet."""
        return sum(planned.times for planned in self._planned)

    def recover(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._planned.clear()

    def arrived(self, line: str) -> None:
        """Note that a request has come whole."""
        with self._lock:
            due = [(match, action) for match, action in self._watched if match.search(line)]
            self._watched = [one for one in self._watched if one not in due]
        for _, action in due:
            action()

    def begin(self, line: str) -> Fault | None:
        """Note a request, hold it back where it is gathered; what is to go wrong with it."""
        with self._lock:
            self.requests.append(line)
            fault = next((p for p in self._planned if p.times and p.match.search(line)), None)
            if fault is not None:
                fault.times -= 1
            held = [g for g in self._gatherings if g.awaited and g.match.search(line)]
            for gathering in held:
                gathering.awaited -= 1
        for gathering in held:
            gathering.barrier.wait(240)
        return fault.fault if fault else None

    def count(self, nbytes: int) -> None:
        """Note bytes of a body."""
        with self._lock:
            self.uploaded += nbytes
            due = [action for at, action in self._actions if self.uploaded >= at]
            self._actions = [(at, a) for at, a in self._actions if self.uploaded < at]
        for action in due:
            action()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: FaultyProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, address: Any) -> None:
        """A client that hangs up is what tests are about; nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args: Any) -> None:
        """Nothing on stderr: the proxy has its own log."""

    def _handle(self) -> None:
        fault = self.server.proxy.begin(f"{self.command} {self.path}")
        body = self._body(fault)
        self.server.proxy.arrived(f"{self.command} {self.path}")
        if body is None:
            self._reset()
        elif fault is Fault.Nonsense or (fault is not None and fault.value[0] in "45"):
            self._answer_fault(fault)
        else:
            self._forward(body, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

    def _body(self, fault: Fault | None) -> bytes | None:
        """The request's body; None when the connection is to be reset in its middle."""
        left = int(self.headers.get("Content-Length", 0))
        stop = left // 2 if fault is Fault.Reset else 0
        body = bytearray()
        while left > stop:
            chunk = self.rfile.read(min(_CHUNK, left - stop))
            if not chunk:
                break
            body += chunk
            left -= len(chunk)
            self.server.proxy.count(len(chunk))
            if fault is Fault.Slow:
                sleep(0.002)
        if fault is Fault.Reset:
            return None
        if fault is Fault.Garbled:
            body[len(body) // 2] ^= 1
        return bytes(body)

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.proxy.server.port)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self._headers(body):
                upstream.putheader(name, value)
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            content = answer.read()
        except OSError:  # the server is just being restarted
            self._reset()
            return
        finally:
            upstream.close()
        if fault is Fault.Lost:
            self._reset()
            return
        headers = [(n, v) for n, v in answer.getheaders() if n.lower() not in _HOP_BY_HOP]
        if fault is Fault.WrongEtag:
            headers = [(n, '"' + "0" * 32 + '"' if n.lower() == "etag" else v) for n, v in headers]
        self._answer(answer.status, headers, content)

    def _headers(self, body: bytes) -> list[tuple[str, str]]:
        """As they came; signed anew when one of them is taken away."""
        headers = [(n, v) for n, v in self.headers.items() if n.lower() not in _HOP_BY_HOP]
        strip = self.server.proxy.strip
        if strip is None or strip not in self.headers:
            return headers
        server = self.server.proxy.server
        gone = {strip.lower(), "authorization", "x-amz-date"}
        kept = {n: v for n, v in headers if n.lower() not in gone}
        request = AWSRequest(self.command, f"{server.endpoint}{self.path}", kept, body)
        request.context["payload_signing_enabled"] = True
        S3SigV4Auth(Credentials(server.access_key, server.secret_key), "s3", REGION).add_auth(
            request
        )
        return list(request.headers.items())

    def _answer_fault(self, fault: Fault) -> None:
        status, _, code = fault.value.partition(" ")
        body = f"<Error><Code>{code}</Code><Message>on demand</Message></Error>".encode()
        if fault is Fault.Nonsense:
            body = b"<html><p>Welcome to the captive portal"
        self._answer(int(status), [("Content-Type", "application/xml")], body)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        """End the connection so that the client sees a reset, not an end."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
