"""An S3 server on loopback: moto's, over real HTTP, with faults on demand and a log.

moto stands for Amazon S3. It checks no signatures and forgets everything when it stops; faults are
put between it and the socket, so moto itself is unchanged.

    with S3Double() as s3:
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
        s3.put("models", "base/config.json", b"{}")
        s3.fail(Fault.Unavailable, times=2)
        open_source("s3://models/base")
"""

import threading
import urllib.request
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from mypy_boto3_s3 import S3Client


class Fault(Enum):
    """What can go wrong with one answer."""

    Unavailable = "503 SlowDown"
    Denied = "403 AccessDenied"
    Cut = "half of the body, then the connection is closed"


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    method: str
    path: str
    range: str | None
    if_match: str | None


class S3Double:
    """An empty S3 with as many buckets as are put into."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._faults: deque[Fault] = deque()
        self._lock = threading.Lock()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._application, threaded=True, request_handler=_SilentHandler
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._faults.clear()
        self.client.close()
        reset = urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset).close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """The value of AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @cached_property
    def client(self) -> "S3Client":
        """A boto3 client of this server, for preparing and looking."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def put(self, bucket: str, key: str, body: bytes) -> None:
        """Store an object, making its bucket."""
        self.client.create_bucket(Bucket=bucket)
        self.client.put_object(Bucket=bucket, Key=key, Body=body)

    def fail(self, fault: Fault, times: int = 1) -> None:
        """Let the next `times` answers go wrong."""
        self._faults.extend([fault] * times)

    def gets(self) -> list[Request]:
        """Requests for ranges, in order."""
        return [request for request in self.requests if request.range is not None]

    def _application(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        with self._lock:
            self.requests.append(
                Request(
                    environ["REQUEST_METHOD"],
                    environ["PATH_INFO"],
                    environ.get("HTTP_RANGE"),
                    environ.get("HTTP_IF_MATCH"),
                )
            )
            fault = self._faults.popleft() if self._faults else None
        if fault is Fault.Unavailable:
            return _error(start_response, "503 Slow Down", "SlowDown")
        if fault is Fault.Denied:
            return _error(start_response, "403 Forbidden", "AccessDenied")
        answer: Iterable[bytes] = self._moto(environ, start_response)
        return _cut(answer) if fault is Fault.Cut else answer


class _SilentHandler(WSGIRequestHandler):
    def log(self, *args: Any) -> None:
        """Nothing on stderr: the double has its own log."""


def _error(start_response: "StartResponse", status: str, code: str) -> list[bytes]:
    body = f"<Error><Code>{code}</Code><Message>on demand</Message></Error>".encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    start_response(status, headers)
    return [body]


def _cut(answer: Iterable[bytes]) -> Iterator[bytes]:
    whole = b"".join(answer)
    yield whole[: len(whole) // 2]
