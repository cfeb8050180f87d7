"""Metrics of our own Ray, for a Prometheus that is elsewhere: Ray tells them on loopback alone.

    with metrics_door("0.0.0.0", 8080, ray.metrics_port):
        ...

Called by `cli.serving` in the pods of a standalone endpoint. It hands on `GET /metrics` and nothing
else, so that whatever Ray may listen for beside stays where it is.
"""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason

PATH: Final = "/metrics"
_TIMEOUT_S: Final = 10.0


@contextmanager
def metrics_door(host: str, port: int, behind: int) -> Iterator[int]:
    """Answer on `host` and `port` (0 takes a free one, which is yielded) what `behind` answers.

    Raises EnvironmentFault(EndpointUnavailable) where nobody may listen there.
    """

    class Door(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S

        def do_GET(self) -> None:  # http.server's name
            status, kind, body = (404, "text/plain", b"") if self.path != PATH else _ask(behind)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A scrape is nothing to tell of."""

    try:
        server = ThreadingHTTPServer((host, port), Door)
    except OSError as error:
        raise EnvironmentFault(
            Reason.EndpointUnavailable,
            "--metrics-port",
            f"`--metrics-port {port}` cannot be listened at ({error.strerror}); choose another.",
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _ask(port: int) -> tuple[int, str, bytes]:
    """What Ray answers; 503 while it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", PATH)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type", "text/plain"), answer.read()
    except (OSError, http.client.HTTPException):
        return 503, "text/plain", b""
    finally:
        connection.close()
