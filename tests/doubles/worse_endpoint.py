"""An endpoint that stands between a client and a real one, and is worse in ways that tests name.

    with worse_endpoint("http://127.0.0.1:8000", Worse(first_token_s=0.2)) as url:

It passes requests on as they are and answers as they come, so tokens, log probabilities and errors
are the real endpoint's; only what `Worse` says is its own.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from tests.doubles.loopback import LoopbackHandler, LoopbackServer


@dataclass(frozen=True)
class Worse:
    """`first_token_s` and `token_s` are waited before an answer and before each of its lines with
    data. Every `cut_every`th stream ends after its second line, or before the one that finishes the
    answer where a busy server sends that earlier; every `error_every`th with an error event
    instead, as a server that dies or is told to says it. Without `scores` nobody is told the
    log probabilities of a prompt."""

    first_token_s: float = 0.0
    token_s: float = 0.0
    cut_every: int = 0
    error_every: int = 0
    scores: bool = True


@contextmanager
def worse_endpoint(target: str, worse: Worse) -> Iterator[str]:
    """Its URL while the block runs."""
    with httpx.Client(base_url=target, timeout=300) as client:
        server = _Server(client, worse)
        server.start()
        try:
            yield server.origin
        finally:
            server.stop()


class _Server(LoopbackServer):
    def __init__(self, client: httpx.Client, worse: Worse) -> None:
        super().__init__(_Handler)
        self.client = client
        self.worse = worse
        self.never = threading.Event()  # waited for where time is to pass
        self._lock = threading.Lock()
        self._streams = 0

    def next_stream(self) -> int:
        with self._lock:
            self._streams += 1
            return self._streams


class _Handler(LoopbackHandler):
    server: _Server

    def do_GET(self) -> None:  # noqa: N802
        self._plain(self.server.client.get(self.path, headers=self._headers()))

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(body)
        if asked.get("stream"):
            self._stream(body)
        elif "prompt_logprobs" in asked and not self.server.worse.scores:
            self._send(400, b'{"error": {"message": "no such parameter"}}')
        else:
            client = self.server.client
            self._plain(client.post(self.path, content=body, headers=self._headers()))

    def _headers(self) -> dict[str, str]:
        return {k: v for k, v in self.headers.items() if k in {"Authorization", "Content-Type"}}

    def _plain(self, answer: httpx.Response) -> None:
        self._send(answer.status_code, answer.content)

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, body: bytes) -> None:
        worse, number = self.server.worse, self.server.next_stream()
        client, headers = self.server.client, self._headers()
        with client.stream("POST", self.path, content=body, headers=headers) as answer:
            self.server.never.wait(worse.first_token_s)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Connection", "close")
            self.end_headers()
            for count, line in enumerate(filter(None, answer.iter_lines())):
                late = count == 2 or _finishes(line)
                if late and worse.error_every and number % worse.error_every == 0:
                    self.wfile.write(b'data: {"error": {"message": "the engine died"}}\n\n')
                    break
                if late and worse.cut_every and number % worse.cut_every == 0:
                    break
                self.server.never.wait(worse.token_s)
                self.wfile.write(line.encode() + b"\n\n")
                self.wfile.flush()
        self.close_connection = True


def _finishes(line: str) -> bool:
    """Whether an answer is whole with this line of its stream."""
    data = line.removeprefix("data: ")
    if data == "[DONE]":
        return True
    choices = json.loads(data).get("choices") or [{}]
    return choices[0].get("finish_reason") is not None
