"""What `halftone compare` and `bench` say where there is nothing to measure; no server is needed.

We test these aspects:
- an endpoint that nobody serves, one that is no endpoint, and a URL that is none: a sentence each
- a key file that holds no key, and options that belong to a baseline that is not named
- an environment without vLLM is named with the way out, before anything is sent
- an `--output` that cannot be written is told before anything is measured and leaves nothing
- nothing but an ordinary file is replaced by a result
- what an endpoint says of its drafts may be missing, late or something else: nothing is lost for it
- keys come from their file before the variable, and go to the endpoint alone
- events of another shape than OpenAI's are a failure of that answer
- a log probability that is no number is a failure by name, and not a divergence of nothing
- `--once` says how an endpoint that breaks off did so
"""

import asyncio
import json
import math
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from halftone.cli.output_files import require_writable, write_whole
from halftone.serve.comparing.answering import NO_NUMBER, Answer, answer, are_numbers
from halftone.serve.comparing.prompts import Prompt
from halftone.serve.comparing.scoring import ScoringFailed, score
from halftone.serve.http.keys import API_KEY
from halftone.serve.local.asking import ask
from halftone.serve.measuring.connection import Place, connected
from halftone.serve.measuring.load_process import drafts_of
from halftone.spec.errors import CheckFailed, EnvironmentFault, RefusedInput
from tests.commands import halftone
from tests.doubles.loopback import LoopbackHandler, LoopbackServer
from tests.servers.ports import free_port


class _NoEndpoint(LoopbackHandler):
    """Answers everything with the same page."""

    def do_GET(self: BaseHTTPRequestHandler) -> None:  # noqa: N802
        page = b"<html>It works</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


class _NoNumbers(LoopbackHandler):
    """A model whose logits are NaN, behind a server that writes them down."""

    def do_POST(self: BaseHTTPRequestHandler) -> None:  # noqa: N802
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        nothing = math.nan
        if asked.get("stream"):
            logprobs = {"tokens": ["a"], "top_logprobs": [{"a": nothing}]}
            event = json.dumps({"choices": [{"text": "a", "logprobs": logprobs}]})
            said = f"data: {event}\n\ndata: [DONE]\n\n"
        else:
            said = json.dumps(
                {"choices": [{"prompt_logprobs": [None, {"5": {"logprob": nothing}}]}]}
            )
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())


class _OtherScores(LoopbackHandler):
    """A server whose `prompt_logprobs` are of another shape."""

    def do_POST(self: BaseHTTPRequestHandler) -> None:  # noqa: N802
        said = b'{"choices": [{"prompt_logprobs": [null, {"5": -0.5}]}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


class _OtherEvents(LoopbackHandler):
    """Streams what the path says, in the place of what OpenAI does."""

    def do_POST(self: BaseHTTPRequestHandler) -> None:  # noqa: N802
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = f"data: {asked['prompt']}\n\ndata: [DONE]\n\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


class _BreaksOff(LoopbackHandler):
    """Promises more than it says."""

    def do_POST(self: BaseHTTPRequestHandler) -> None:  # noqa: N802
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"data: ")
        self.close_connection = True


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "Once"}))
    return path


def test_nobody_answers(prompts: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    found = halftone("compare", url, url, "--prompts", prompts)
    assert found.code == 3
    assert found.err.startswith(f"halftone: '{url}' cannot be reached (")
    assert found.err.endswith("and run the same command again.\n")


def test_something_else_answers(prompts: Path) -> None:
    server = _server()
    try:
        found = halftone("compare", server.origin, server.origin, "--prompts", prompts)
    finally:
        server.stop()
    assert found.code == 3
    assert "answered `/v1/models` with something that is not JSON" in found.err


def _server(handler: type[LoopbackHandler] = _NoEndpoint) -> LoopbackServer:
    server = LoopbackServer(handler)
    server.start()
    return server


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host:port"])
def test_no_url(prompts: Path, url: str) -> None:
    found = halftone("compare", url, "http://127.0.0.1:1", "--prompts", prompts)
    assert found.code == 2
    assert "is not the URL of an endpoint; write it as http://HOST:PORT." in found.err


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff"])
def test_no_key(prompts: Path, tmp_path: Path, content: bytes) -> None:
    key = tmp_path / "key"
    key.write_bytes(content)
    url = "http://127.0.0.1:1"
    found = halftone("compare", url, url, "--prompts", prompts, "--old-api-key-file", key)
    assert found.code == 2
    assert f"`--old-api-key-file` '{key}' holds no API key" in found.err


@pytest.mark.parametrize("verb", ["compare", "bench"])
def test_a_url_with_a_password_is_refused_and_not_repeated(verb: str, prompts: Path) -> None:
    url = "http://me:s3cret@127.0.0.1:1"
    more = (url, "--prompts", prompts) if verb == "compare" else ()
    found = halftone(verb, url, *more)
    assert found.code == 2
    assert "must hold no user name and no password" in found.err
    assert "s3cret" not in found.err


@pytest.mark.parametrize("key", ["two\nlines", "kęy", "two words"])
def test_a_variable_that_holds_no_key(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY, key)
    with pytest.raises(RefusedInput, match=f"^`{API_KEY}` holds no API key") as refused:
        Place("http://host").headers()
    assert key not in refused.value.message


def test_where_keys_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Place("http://host").headers() == {}
    monkeypatch.setenv(API_KEY, "of-the-variable")
    assert Place("http://host").headers() == {"Authorization": "Bearer of-the-variable"}
    (tmp_path / "key").write_text("of-the-file\n")
    found = Place("http://host/v1/", tmp_path / "key")
    assert found.headers() == {"Authorization": "Bearer of-the-file"}
    assert found.root == "http://host"


@pytest.mark.parametrize("option", ["--baseline-model", "--baseline-api-key-file"])
def test_a_baseline_that_is_not_named(prompts: Path, option: str) -> None:
    found = halftone("bench", "http://127.0.0.1:1", option, prompts)
    assert found.code == 2
    assert "need the URL in `--baseline`" in found.err


@pytest.mark.parametrize("value", ["0", "1,x", "", "5000"])
def test_no_concurrency(value: str) -> None:
    found = halftone("bench", "http://127.0.0.1:1", "--concurrency", value)
    assert found.code == 2
    assert "is not a list of whole numbers from 1 to 4096" in found.err


def test_an_environment_without_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALFTONE_SERVE_PYTHON", str(tmp_path / "python"))
    found = halftone("bench", "http://127.0.0.1:1")
    assert found.code == 3
    assert found.err.startswith("halftone: Load from vLLM's benchmark needs the environment with")


@pytest.mark.parametrize("work", [require_writable, lambda path: write_whole(path, "text")])
def test_an_output_that_cannot_be_written(tmp_path: Path, work: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    below = [tmp_path / name / "below.json" for name in ("file", "link")]
    others = [tmp_path / "folder", tmp_path / (300 * "a"), Path("/proc/new/result.json")]
    for path in (*below, *others):
        with pytest.raises(EnvironmentFault, match="cannot be written"):
            work(path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder", "link"]


def test_a_device_is_not_replaced_by_a_result() -> None:
    with pytest.raises(EnvironmentFault, match="is no ordinary file"):
        require_writable(Path("/dev/null"))


def test_drafts_of_an_endpoint_that_does_not_tell_them() -> None:
    server = _server()
    try:
        told = asyncio.run(drafts_of({"url": server.origin, "headers": {}}))
    finally:
        server.stop()
    assert told is None
    url = f"http://127.0.0.1:{free_port()}"  # nobody is there any more
    assert asyncio.run(drafts_of({"url": url, "headers": {}})) is None


def test_a_place_that_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    for path in (tmp_path / "old.json", tmp_path / "new" / "folder" / "new.json"):
        require_writable(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "old"


@pytest.mark.parametrize("taken", ["bench.json/x", "capacity"])
def test_nothing_is_measured_that_could_not_be_written(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_text("")
    # Nobody serves there, which would be told had anything been sent.
    url = f"http://127.0.0.1:{free_port()}"
    found = halftone("bench", url, "--output", tmp_path)
    assert found.code == 3
    assert found.err.startswith(f"halftone: `--output` '{tmp_path}")
    assert found.err.endswith("name another place.\n")


def test_nothing_is_compared_that_could_not_be_written(prompts: Path, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    found = halftone("compare", url, url, "--prompts", prompts, "--output", prompts / "below")
    assert found.code == 3
    assert "`--output`" in found.err


def test_a_log_probability_that_is_no_number_is_a_failure() -> None:
    server = _server(_NoNumbers)

    async def both() -> Answer:
        async with connected(Place(server.origin)) as endpoint:
            with pytest.raises(ScoringFailed, match=NO_NUMBER):
                await score(endpoint, [1], [5], 1)
            return await answer(endpoint, Prompt(1, "Once", None, 4), {"logprobs": 1}, 30)

    try:
        assert asyncio.run(both()).failure == NO_NUMBER
    finally:
        server.stop()


def test_scores_of_another_shape_are_told() -> None:
    server = _server(_OtherScores)

    async def asked() -> None:
        async with connected(Place(server.origin)) as endpoint:
            await score(endpoint, [1], [5], 1)

    try:
        with pytest.raises(ScoringFailed, match="of another shape"):
            asyncio.run(asked())
    finally:
        server.stop()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, -(10**400), 2.5, "x"])
def test_what_no_log_probability_is(value: Any) -> None:
    assert are_numbers({"a": -9999.0, "b": 0.0})
    assert not are_numbers({"a": -0.5, "b": value})


@pytest.mark.parametrize(
    "event",
    [
        '{"choices": [1]}',
        '{"choices": [{"text": 5}]}',
        '{"choices": [{"delta": "a"}]}',
        '{"choices": [{"text": "a", "logprobs": {"content": [{"token": "a"}]}}]}',
    ],
)
def test_events_of_another_shape_are_a_failure(event: str) -> None:
    server = _server(_OtherEvents)

    async def asked() -> Answer:
        async with connected(Place(server.origin)) as endpoint:
            return await answer(endpoint, Prompt(1, event, None, 4), {}, 30)

    try:
        found = asyncio.run(asked()).failure
    finally:
        server.stop()
    assert (found or "").startswith("sent an event that no client knows after ")


def test_an_endpoint_that_breaks_off_is_a_sentence() -> None:
    server = _server(_BreaksOff)
    try:
        with pytest.raises(CheckFailed, match="The endpoint did not answer: RemoteProtocolError"):
            ask(server.origin, "model", "Hello", None)
    finally:
        server.stop()
