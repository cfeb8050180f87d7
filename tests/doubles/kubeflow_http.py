"""The HTTP side of the double of Kubeflow: requests in, JSON or a fault out.

Called by `tests.doubles.kubeflow`, which says what is answered when nothing goes wrong.
"""

import json
import socket
import ssl
import sys
import urllib.parse
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from tests.doubles.kubeflow_answers import NOT_COMPILED, Asked, Fault, RefusedError
from tests.doubles.loopback import LoopbackHandler, LoopbackServer

# google.rpc.Code by what the gateway makes of it.
_CODES: Final = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 503: 14}
_FAULTS: Final = {
    Fault.Broken: (500, "Internal error: the database is gone"),
    Fault.Unavailable: (503, "no healthy upstream"),
    Fault.TooMany: (429, "Too many requests"),
    Fault.Unauthorized: (401, "Request header error: there is no user identity header."),
    Fault.Forbidden: (403, "User 'somebody' is not authorized with reason: none"),
    Fault.NotCompiled: (500, NOT_COMPILED),
    Fault.BadRequest: (400, "Invalid input error: this is not a pipeline"),
}
_PAGE: Final = b"<!doctype html><html><title>Kubeflow</title></html>"


class Content(Protocol):
    """What answers, and which faults are due."""

    down: bool
    released: Any

    def note(self, asked: Asked) -> Fault | None: ...
    def answer(self, asked: Asked) -> Any: ...


class Server(LoopbackServer):
    """A server for one double."""

    def __init__(self, content: Content, tls: tuple[Path, Path] | None = None) -> None:
        super().__init__(Handler)
        self.content = content
        self._scheme = "https" if tls else "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            # Hands are shaken by the thread of the connection, not by the one that accepts.
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    @property
    def origin(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that does not trust our certificate goes without a word."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(LoopbackHandler):
    """One connection."""

    server: Server

    def do_GET(self) -> None:  # noqa: N802  # http.server's name
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        content = self.server.content
        if content.down:
            return self._cut()
        address = urllib.parse.urlsplit(self.path)
        asked = Asked(
            self.command,
            address.path,
            dict(urllib.parse.parse_qsl(address.query)),
            json.loads(body) if body else None,
            self.headers.get("Authorization"),
        )
        fault = content.note(asked)
        if fault is Fault.Cut:
            return self._cut()
        try:
            if fault in _FAULTS:
                raise RefusedError(*_FAULTS[fault])
            answer = None if fault in _INSTEAD else content.answer(asked)
        except RefusedError as error:
            return self._refuse(error)
        if fault is Fault.Lost:
            return self._cut()
        if fault is Fault.Held:
            content.released.wait()
        if fault in _INSTEAD:
            return _INSTEAD[fault](self)
        self._reply(200, json.dumps(answer).encode())
        return None

    do_POST = do_DELETE = do_GET

    def login(self) -> None:
        self._reply(302, b"", {"Location": "/dex/auth"})

    def page(self) -> None:
        self._reply(200, _PAGE, {"Content-Type": "text/html"})

    def garbage(self) -> None:
        self._reply(200, b'{"runs": 7, "run_id": [], "experiments": {}}')

    def endless(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        with suppress(OSError):  # until the client has enough
            self.wfile.write(b'{"runs": [')
            while True:
                self.wfile.write(b" " * 65536)
        self.close_connection = True

    def _refuse(self, error: RefusedError) -> None:
        code = error.code or _CODES[error.status]
        told: dict[str, Any] = {"code": code, "message": error.message}
        if not error.message.startswith("proto:"):  # said by the gateway, not by the server
            said = error.message.rpartition("rror: ")[2]
            kind = "type.googleapis.com/google.rpc.Status"
            told["details"] = [{"@type": kind, "code": code, "message": said}]
        self._reply(error.status, json.dumps(told).encode())

    def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        told = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in (told | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


_INSTEAD: Final = {
    Fault.Login: Handler.login,
    Fault.Page: Handler.page,
    Fault.Garbage: Handler.garbage,
    Fault.Endless: Handler.endless,
}
