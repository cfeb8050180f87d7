"""A way to an API server that can be cut and mended: TCP, so that the TLS is the server's own.

Called by tests of the API tier.
"""

import socket
import threading
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

_CHUNK = 1 << 16


class Tunnel:
    """Forwards connections to `url`. `accepted` counts them, those that were refused too."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        assert where.hostname
        assert where.port
        self._server = where.hostname, where.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._is_cut = False
        self._changed = threading.Condition()
        self.accepted = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End every connection, and refuse new ones."""
        with self._changed:
            self._is_cut = True
            open_, self._open = self._open, []
        for one in open_:
            _end(one)

    def mend(self) -> None:
        """Let connections through again."""
        with self._changed:
            self._is_cut = False

    def wait_for(self, accepted: int, seconds: float = 60) -> None:
        """Return once so many connections have been tried."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.accepted >= accepted, seconds):
                raise TimeoutError(f"{self.accepted} connections, not {accepted}")

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                self.accepted += 1
                self._changed.notify_all()
                if self._is_cut:
                    _end(client)
                    continue
                server = socket.create_connection(self._server)
                self._open += [client, server]
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    _end(source)
    _end(target)


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
