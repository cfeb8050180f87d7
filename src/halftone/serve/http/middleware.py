"""The door of a replica: what may come in, how much of it, for how long, and how it ends.

`replica` puts it before vLLM's own application. vLLM guards only paths below `/v1`, generates below
others too, and passes over fields that it does not know; so what is served is a closed list here,
every path of it needs the key, and an unknown field is refused. It must not change an answer.
"""

import asyncio
import difflib
import hashlib
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from halftone.serve.http import errors
from halftone.serve.http.admission import Admission, answers_wanted
from halftone.serve.http.errors import ApiError
from halftone.serve.measuring.engine_document import ENGINE_PATH

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOG: Final = logging.getLogger(__name__)
# Those that make tokens are counted; the others cost nothing worth counting.
GENERATING: Final = ("/v1/chat/completions", "/v1/completions")
_READING: Final = ("/tokenize", "/detokenize")
_MODELS: Final = "/v1/models"
HEALTH: Final = "/health"
# Images and sound travel inside a request.
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
# The status of a client that left, as Ray Serve counts it too.
LEFT: Final = 499
# For vLLM to end its work once it is told that the client left; it takes milliseconds.
_LETTING_GO_S: Final = 10.0
# Parameters of OpenAI's that change no token: they say who asked, or what OpenAI keeps.
_WITHOUT_EFFECT: Final = frozenset(
    {"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"}
)


@dataclass(frozen=True)
class Rules:
    """What the middleware holds requests against.

    `fields` are the known top-level fields by path. Without `keys` anyone may ask. `count` is
    called with the path and the status of every answer to a request that makes tokens; `LEFT` is a
    client that left.
    """

    fields: Mapping[str, frozenset[str]]
    keys: tuple[str, ...]
    max_request_s: float
    count: Callable[[str, int], None]


class Door:
    """An ASGI middleware. Its admission is shared with whoever reads how full the replica is."""

    def __init__(self, app: Application, rules: Rules, admission: Admission) -> None:
        self._app = app
        self._rules = rules
        self._admission = admission
        self._keys = [hashlib.sha256(key.encode()).digest() for key in rules.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no WebSockets are served
            await send({"type": "websocket.close", "code": 1000})
            return
        path, method = str(scope["path"]), str(scope["method"])
        if (refusal := self._refusal(scope, method, path)) is not None:
            await _answer(refusal, send)
        elif method == "OPTIONS":
            # What a browser asks first: it takes no place, nor is it counted as an answer.
            await self._app(scope, receive, send)
        elif path in GENERATING:
            await self._generate(path, scope, receive, send)
        elif path in _READING:
            body = await _read(receive)
            if body is None:
                await _answer(errors.too_large(MAX_BODY_BYTES), send)
            else:
                await self._app(scope, _Again(body, receive), send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, method: str, path: str) -> ApiError | None:
        if method == "OPTIONS" or (path == HEALTH and method in ("GET", "HEAD")):
            return None
        if not self._is_known(scope):
            return errors.UNAUTHORISED
        if path in (*GENERATING, *_READING):
            served = method == "POST"
        else:
            told = path in (_MODELS, ENGINE_PATH) or path.startswith(f"{_MODELS}/")
            served = method == "GET" and told
        return None if served else errors.not_found(method, path)

    def _is_known(self, scope: Scope) -> bool:
        if not self._keys:
            return True
        given = next((v for name, v in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        # Each is compared, so that the time tells nothing.
        matches = [secrets.compare_digest(digest, known) for known in self._keys]
        return scheme.lower() == b"bearer" and any(matches)

    async def _generate(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self._admission.is_full:
            error = self._overloaded(self._admission.in_flight, answers=1)
            self._rules.count(path, error.status)
            await _answer(error, send)
            return
        watched = _Watched(send)
        with self._admission.admitted():
            try:
                async with asyncio.timeout(self._rules.max_request_s) as patience:
                    await self._pass_on(path, scope, receive, watched)
            except asyncio.CancelledError:
                watched.status = LEFT
                raise
            except Exception:
                if patience.expired():
                    await watched.end_with(errors.too_long(self._rules.max_request_s))
                else:
                    _LOG.exception("`%s` failed", path)
                    await watched.end_with(errors.BROKEN)
            finally:
                self._rules.count(path, watched.status)

    async def _pass_on(self, path: str, scope: Scope, receive: Receive, send: "_Watched") -> None:
        body = await _read(receive)
        if body is None:
            await send.end_with(errors.too_large(MAX_BODY_BYTES))
            return
        request = _fields(body)
        if (refusal := self._unknown_field(path, request)) is not None:
            await send.end_with(refusal)
            return
        answers = answers_wanted(request)
        if answers > self._admission.limit:
            await send.end_with(errors.too_many(self._admission.limit, answers))
            return
        if not self._admission.has_room(answers - 1):  # it has one place already
            await send.end_with(self._overloaded(self._admission.in_flight - 1, answers))
            return
        again = _Again(body, receive)
        with self._admission.widened(answers - 1):
            if request.get("stream") is True:
                await self._app(scope, again, send)
            else:
                await self._whole(scope, again, send)
        if not send.is_open:
            return
        if again.has_left():
            send.status = LEFT
        else:
            await send.end_with(errors.BROKEN)

    def _overloaded(self, others: int, answers: int) -> ApiError:
        """The refusal of a request that wants so many beside `others`."""
        admission = self._admission
        return errors.overloaded(others, admission.limit, answers, admission.retry_after_s)

    async def _whole(self, scope: Scope, receive: "_Again", send: "_Watched") -> None:
        """An answer that is no stream: when it is to end early, vLLM must hear it from `receive`.

        It writes such an answer in a task of its own, and ends that when its client has left. Were
        it cancelled itself, that task would go on to the last token, beside all that are admitted
        in its place.
        """
        work = asyncio.ensure_future(self._app(scope, receive, send))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            send.close()  # what it says now is for nobody
            receive.leave()
            await asyncio.wait((work,), timeout=_LETTING_GO_S)
            raise
        finally:
            work.cancel()

    def _unknown_field(self, path: str, request: Mapping[str, Any]) -> ApiError | None:
        known = self._rules.fields[path]
        for name in request:
            if name not in known and name not in _WITHOUT_EFFECT:
                near = difflib.get_close_matches(name, known, n=1)
                return errors.unknown_field(name[:64], path, near[0] if near else None)
        return None


class _Watched:
    """Sends an answer on, and knows how far it has come."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False
        self._streams = False
        self._ended = False
        self._closed = False
        self.status = 0

    @property
    def is_open(self) -> bool:
        """Whether the answer has not come to its end."""
        return not self._ended

    def close(self) -> None:
        """Pass on nothing more; `end_with` still ends it."""
        self._closed = True

    async def __call__(self, message: Message) -> None:
        if self._closed:
            return
        if message["type"] == "http.response.start":
            self._started = True
            self.status = int(message["status"])
            kinds = [value for name, value in message.get("headers", ()) if name == b"content-type"]
            self._streams = any(kind.startswith(b"text/event-stream") for kind in kinds)
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
        await self._send(message)

    async def end_with(self, error: ApiError) -> None:
        """The whole answer is `error`; of a stream that has begun, its last event.

        What is neither, half an answer with a length, is left broken: its client sees that.
        """
        if self._ended:
            return
        if not self._started:
            self.status = error.status
            await _answer(error, self._send)
        elif self._streams:
            self.status = error.status
            body = {"type": "http.response.body", "body": error.event(), "more_body": False}
            await self._send(body)
        self._ended = True


class _Again:
    """Gives a body that was read already, then whatever comes, such as that the client left.

    `leave` says that too, in the client's place.
    """

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive
        self._waiting: asyncio.Task[Any] | None = None
        self._left = False

    async def __call__(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if self.has_left():
            return {"type": "http.disconnect"}
        self._waiting = waiting = asyncio.current_task()
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if waiting is None or not self.has_left():
                raise
            waiting.uncancel()  # it was `leave`, and means this call alone
            return {"type": "http.disconnect"}
        finally:
            self._waiting = None
        self._left = message["type"] == "http.disconnect"
        return message

    def has_left(self) -> bool:
        """Whether anybody said so."""
        return self._left

    def leave(self) -> None:
        """Whoever waits for the client's next message is told that it left."""
        self._left = True
        if self._waiting is not None:
            self._waiting.cancel()


def _fields(body: bytes) -> Mapping[str, Any]:
    """Of the request in `body`; none where it is no JSON object, and vLLM says what is wrong."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return request if isinstance(request, dict) else {}


async def _read(receive: Receive) -> bytes | None:
    """The whole body, or None where it is too large. Raises CancelledError if the client left."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _answer(error: ApiError, send: Send) -> None:
    start = {"type": "http.response.start", "status": error.status, "headers": error.headers()}
    await send(start)
    await send({"type": "http.response.body", "body": error.body(), "more_body": False})
