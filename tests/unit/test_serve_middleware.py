"""We test these aspects of a replica's door, with ASGI applications of our own behind it:

- a closed list of paths; the key guards all of them but the health;
- an unknown field is refused and the nearest is named; parameters without effect pass;
- what makes no token takes no place, and a browser may ask first whether it may;
- beyond its limit the replica answers 429 with Retry-After before it reads a body;
- a request takes as many places as it wants answers;
- what takes too long or breaks ends with an error, a stream with an error event;
- the body arrives unchanged, and a client that leaves cancels the work;
- work that goes on in a task of its own, as vLLM's does for whole answers, ends with its request;
- every answer is counted once, with its status.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from halftone.serve.http.admission import Admission
from halftone.serve.http.middleware import (
    MAX_BODY_BYTES,
    Application,
    Door,
    Message,
    Receive,
    Rules,
    Scope,
    Send,
)

CHAT = "/v1/chat/completions"
FIELDS = {
    CHAT: frozenset({"model", "messages", "n", "stream"}),
    "/v1/completions": frozenset({"model"}),
}
HELLO = b'{"model": "m", "messages": []}'
STREAM = b'{"model": "m", "messages": [], "stream": true}'


class Client:
    """Sends one request to `door` and keeps what came back."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.messages: list[Message] = []
        self.leaves = asyncio.Event()

    async def send(
        self, method: str, path: str, body: bytes = b"", key: str | None = None, times: int = 1
    ) -> "Client":
        """The request's body is `body` that many times, in as many parts, and an empty one."""
        parts = [{"type": "http.request", "body": body, "more_body": True} for _ in range(times)]
        parts.append({"type": "http.request", "body": b"", "more_body": False})
        headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
        scope = {"type": "http", "method": method, "path": path, "headers": headers}

        async def receive() -> Message:
            if parts:
                return parts.pop(0)
            await self.leaves.wait()
            return {"type": "http.disconnect"}

        async def keep(message: Message) -> None:
            self.messages.append(message)

        await self.door(scope, receive, keep)
        return self

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


class Counted(list[tuple[str, int]]):
    def __call__(self, path: str, status: int) -> None:
        self.append((path, status))


def door(
    app: Application, *, keys: tuple[str, ...] = (), limit: int = 2, seconds: float = 30
) -> tuple[Door, Admission, Counted]:
    counted, admission = Counted(), Admission(limit, 0)
    return Door(app, Rules(FIELDS, keys, seconds, counted), admission), admission, counted


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive()).get("body", b"")
    await start(send, b"application/json")
    await send({"type": "http.response.body", "body": body})


async def start(send: Send, kind: bytes) -> None:
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def streaming(then: Callable[[], Awaitable[None]]) -> Application:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, b"text/event-stream; charset=utf-8")
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await then()

    return app


def run(client: Client, *arguments: Any, **options: Any) -> Client:
    return asyncio.run(client.send(*arguments, **options))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/metrics"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("POST", "/invocations"),
        ("POST", "/v1//chat/completions"),
        ("GET", CHAT),
        ("POST", "/v1/load_lora_adapter"),
    ],
)
def test_other_paths_are_closed(method: str, path: str) -> None:
    client = run(Client(door(echo)[0]), method, path)
    assert (client.status, client.error["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/metrics", "/tokenize", "/nowhere"])
def test_without_the_key_nothing_is_told(path: str) -> None:
    guarded = door(echo, keys=("right",))[0]
    for key in (None, "wrong", ""):
        client = run(Client(guarded), "POST", path, HELLO, key=key)
        assert (client.status, client.error["code"]) == (401, "invalid_api_key")


def test_the_key_opens_and_health_needs_none() -> None:
    guarded = door(echo, keys=("right", "older"))[0]
    assert run(Client(guarded), "POST", CHAT, HELLO, key="older").status == 200
    assert run(Client(guarded), "GET", "/health").status == 200


def test_a_body_arrives_unchanged() -> None:
    open_door, admission, counted = door(echo)
    assert run(Client(open_door), "POST", CHAT, HELLO).body == HELLO
    assert (admission.in_flight, counted) == (0, [(CHAT, 200)])


def test_what_makes_no_token_takes_no_place_and_is_not_counted() -> None:
    guarded, admission, counted = door(echo, keys=("right",), limit=1)
    with admission.admitted():
        assert run(Client(guarded), "POST", "/tokenize", HELLO, key="right").body == HELLO
        assert run(Client(guarded), "OPTIONS", CHAT).status == 200  # a browser, before it asks
    assert counted == []


def test_an_unknown_field_is_refused_and_the_nearest_named() -> None:
    client = run(Client(door(echo)[0]), "POST", CHAT, b'{"model": "m", "mesages": []}')
    assert (client.status, client.error["param"]) == (400, "mesages")
    assert "did you mean `messages`?" in client.error["message"]


@pytest.mark.parametrize("body", [b'{"model": "m", "user": "u"}', b"{not json", b"[1]"])
def test_what_is_not_ours_to_judge_passes(body: bytes) -> None:
    assert run(Client(door(echo)[0]), "POST", CHAT, body).body == body


@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
def test_too_large_a_body_is_refused(path: str) -> None:
    client = run(Client(door(echo)[0]), "POST", path, b" " * 2**20, times=65)
    assert MAX_BODY_BYTES < 65 * 2**20
    assert client.status == 413


def test_beyond_the_limit_a_request_is_refused_before_it_is_read() -> None:
    async def scenario() -> tuple[Client, Client, Admission]:
        begun, ends = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            begun.set()
            await ends.wait()

        open_door, admission, counted = door(streaming(wait), limit=1)
        first = Client(open_door)
        task = asyncio.create_task(first.send("POST", CHAT, HELLO))
        await begun.wait()
        second = await Client(open_door).send("POST", CHAT, b"{")
        ends.set()
        await task
        # The first broke, for its application never ended its answer.
        assert counted == [(CHAT, 429), (CHAT, 500)]
        return first, second, admission

    _, second, admission = asyncio.run(scenario())
    assert (second.status, second.error["code"]) == (429, "rate_limit_exceeded")
    assert int(second.headers["retry-after"]) >= 1
    assert admission.in_flight == 0


def test_a_request_takes_as_many_places_as_it_wants_answers() -> None:
    async def scenario() -> None:
        begun, ends = asyncio.Event(), asyncio.Event()

        async def wait(scope: Scope, receive: Receive, send: Send) -> None:
            begun.set()
            await ends.wait()
            await echo(scope, receive, send)

        app, admission, counted = door(wait, limit=4)
        first = asyncio.create_task(Client(app).send("POST", CHAT, wants(3)))
        await begun.wait()
        assert admission.in_flight == 3
        second = await Client(app).send("POST", CHAT, wants(2))
        assert (second.status, second.error["code"]) == (429, "rate_limit_exceeded")
        assert second.error["message"].startswith("3 of at most 4 ")
        assert int(second.headers["retry-after"]) >= 1
        assert admission.in_flight == 3
        ends.set()
        third = await Client(app).send("POST", CHAT, wants(1))
        assert (third.status, (await first).status) == (200, 200)
        assert (admission.in_flight, sorted(counted)) == (
            0,
            [(CHAT, 200), (CHAT, 200), (CHAT, 429)],
        )

    asyncio.run(scenario())


def wants(answers: int) -> bytes:
    return json.dumps({"model": "m", "messages": [], "n": answers}).encode()


def test_more_answers_than_there_are_places_for_are_no_matter_of_waiting() -> None:
    app, admission, _ = door(echo, limit=4)
    client = run(Client(app), "POST", CHAT, wants(5))
    assert (client.status, client.error["param"]) == (400, "n")
    assert "at most 4" in client.error["message"]
    assert run(Client(app), "POST", CHAT, wants(4)).status == 200
    assert admission.in_flight == 0


def test_a_stream_that_breaks_ends_with_an_error_event() -> None:
    async def fail() -> None:
        raise RuntimeError("a secret")

    client = run(Client(door(streaming(fail))[0]), "POST", CHAT, HELLO)
    events = client.body.decode().split("\n\n")
    assert events[0] == "data: 1"
    assert json.loads(events[1].removeprefix("data: "))["error"]["code"] == "stream_broken"
    assert events[2] == "data: [DONE]"
    assert client.messages[-1]["more_body"] is False
    assert "secret" not in client.body.decode()


def test_what_fails_before_it_answers_is_an_error() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a secret")

    client = run(Client(door(app)[0]), "POST", CHAT, HELLO)
    assert (client.status, client.error["type"]) == (500, "server_error")


def test_a_stream_that_takes_too_long_is_ended() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    stream = run(Client(door(streaming(never), seconds=0.01)[0]), "POST", CHAT, STREAM)
    assert b"request_timeout" in stream.body


def test_a_wait_of_the_server_s_own_that_is_over_is_not_the_request_s() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError

    client = run(Client(door(app)[0]), "POST", CHAT, STREAM)
    assert (client.status, client.error["code"]) == (500, "stream_broken")


def test_a_client_that_leaves_cancels_the_work() -> None:
    async def scenario() -> list[tuple[str, int]]:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        open_door, admission, counted = door(streaming(wait))
        task = asyncio.create_task(Client(open_door).send("POST", CHAT, STREAM))
        await begun.wait()
        task.cancel()  # what Ray Serve does when the connection is gone
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cancelled.is_set()
        assert admission.in_flight == 0
        return counted

    assert asyncio.run(scenario()) == [(CHAT, 499)]


class Apart:
    """Answers whole, in a task of its own until it hears that the client left, as vLLM does."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.answering: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        self.answering = asyncio.create_task(self.answer())
        hears = asyncio.ensure_future(receive())
        await asyncio.wait((self.answering, hears), return_when=asyncio.FIRST_COMPLETED)
        self.answering.cancel()
        hears.cancel()
        await start(send, b"application/json")
        await send({"type": "http.response.body", "body": b"null"})

    async def answer(self) -> None:
        self.begun.set()
        await asyncio.Event().wait()


def test_the_work_on_a_whole_answer_ends_when_its_time_is_over() -> None:
    async def scenario() -> None:
        app = Apart()
        open_door, admission, counted = door(app, seconds=0.01)
        client = await Client(open_door).send("POST", CHAT, HELLO)
        assert (client.status, client.error["code"]) == (504, "request_timeout")
        assert client.headers["x-should-retry"] == "false"
        assert app.answering is not None
        with pytest.raises(asyncio.CancelledError):
            await app.answering
        assert (admission.in_flight, counted) == (0, [(CHAT, 504)])

    asyncio.run(scenario())


def test_the_work_on_a_whole_answer_ends_when_its_client_leaves() -> None:
    async def scenario() -> None:
        app = Apart()
        open_door, admission, counted = door(app)
        client = Client(open_door)
        task = asyncio.create_task(client.send("POST", CHAT, HELLO))
        await app.begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert app.answering is not None
        with pytest.raises(asyncio.CancelledError):
            await app.answering
        assert (client.messages, admission.in_flight, counted) == ([], 0, [(CHAT, 499)])

    asyncio.run(scenario())


def test_who_leaves_with_the_whole_answer_was_answered() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"

    open_door, _, counted = door(app)
    client = Client(open_door)
    client.leaves.set()
    assert run(client, "POST", CHAT, STREAM).status == 200
    assert counted == [(CHAT, 200)]


def test_a_client_that_left_is_no_error_of_the_server() -> None:
    async def scenario() -> list[tuple[str, int]]:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send, b"text/event-stream")
            while (await receive())["type"] != "http.disconnect":
                pass

        open_door, _, counted = door(app)
        client = Client(open_door)
        client.leaves.set()
        await client.send("POST", CHAT, STREAM)
        assert client.body == b""
        return counted

    assert asyncio.run(scenario()) == [(CHAT, 499)]
