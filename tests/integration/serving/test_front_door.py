"""We test these aspects of `halftone-haproxy`, with the HAProxy and the template that Ray brings:

- every edit finds its line in what Ray writes, and HAProxy takes the result, with a router too;
- what another Ray wrote is not taken: HAProxy does not start, and a sentence says why;
- what no replica answered with a byte is asked once more, of another one, and no third time;
- an answer that has begun is not asked again, nor a body that HAProxy's buffer does not hold;
- replicas go on while Ray builds a changed application;
- where a router chooses, the one that it names answers, and any where that or the router cannot.
"""

import http.client
import json
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from halftone.serve.application import read_endpoint
from halftone.serve.http.front_door import EDITS, mended, unknown
from halftone.serve.ray_environment import environment
from tests.doubles.loopback import LoopbackHandler, LoopbackServer
from tests.environments import ask, python_of
from tests.servers.ports import free_port

pytestmark = [pytest.mark.serve_env, pytest.mark.timeout(60)]

ENDPOINT = read_endpoint(
    {
        "servedModelName": "model",
        "artifact": {"uri": "/model"},
        "trust": {"signature": "NotRequired"},
        "cache": {"directory": "/cache"},
    }
)
# A connection that is closed with unsaid words, as the kernel does for a process that was killed.
_AT_ONCE = struct.pack("ii", 1, 0)


class Replica:
    """Answers health checks, and everything else with `said` before it breaks off, or whole."""

    def __init__(self) -> None:
        self.asked = 0
        self.said: bytes | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as reader:
            while line := reader.readline():
                headers = http.client.parse_headers(reader)
                if line.startswith(b"POST"):
                    self.asked += 1
                    if self.said is not None:
                        connection.sendall(self.said)
                        option = (socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                        connection.setsockopt(*option)
                        return
                    reader.read(int(headers.get("content-length", "0")))
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole")


class Routes(LoopbackHandler):
    server: "Router"

    def do_POST(self) -> None:  # noqa: N802  # http.server's name
        self.rfile.read(int(self.headers["Content-Length"]))
        said = json.dumps({"replica_id": self.server.replica}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


class Router(LoopbackServer):
    """Names the replica that is to answer, as Ray's does."""

    def __init__(self) -> None:
        super().__init__(Routes)
        self.status, self.replica = 200, "0"


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    server = Router()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[Replica]]:
    found = [Replica() for _ in range(3)]
    yield found
    for replica in found:
        replica.close()


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {name: free_port() for name in ("clients", "statistics", "metrics")}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Ray's configuration has its sockets, its script and its error files."""
    return tmp_path_factory.mktemp("h")


@pytest.fixture(scope="module")
def written(
    replicas: list[Replica],
    ports: dict[str, int],
    directory: Path,
    router: Router,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    request = {
        "environment": environment(ENDPOINT),
        "directory": str(directory),
        "ports": ports,
        "replicas": {str(n): replica.port for n, replica in enumerate(replicas)},
        "router": router.server_address[1],
        "fallback": free_port(),
    }
    work = tmp_path_factory.mktemp("work")
    answer: dict[str, str] = ask(
        "serve", "haproxy_configuration.py", request, work=work, timeout_s=120
    )
    return answer


def script() -> list[str]:
    return [str(python_of("serve")), "-m", "halftone.serve.http.front_door"]


@contextmanager
def haproxy(text: str, directory: Path, port: int) -> Iterator[None]:
    """Our script with that configuration, once it listens."""
    (directory / "haproxy.cfg").write_text(text)
    process = subprocess.Popen([*script(), "-db", "-f", str(directory / "haproxy.cfg")])
    try:
        while process.poll() is None:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.02)
        assert process.poll() is None
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def served(written: dict[str, str], ports: dict[str, int], directory: Path) -> Iterator[int]:
    with haproxy(written["served"], directory, ports["clients"]):
        yield ports["clients"]


@pytest.fixture(autouse=True)
def _whole(replicas: list[Replica]) -> None:
    for replica in replicas:
        replica.said, replica.asked = None, 0


def post(port: int, body: bytes = b"{}") -> tuple[int, bytes]:
    """Head and body apart, as OpenAI's clients send them."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("content-length", str(len(body)))
    connection.endheaders()
    with suppress(OSError):  # the answer may come before the last of a long body
        connection.send(body)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read()
    finally:
        connection.close()


def test_every_edit_finds_its_line_in_what_ray_writes(written: dict[str, str]) -> None:
    assert [p.pattern for p, _ in EDITS if not p.search(written["routed"])] == []
    assert [pattern for text in written.values() for pattern in unknown(text)] == []


@pytest.mark.parametrize("name", ["served", "routed", "building"])
def test_haproxy_takes_it(name: str, written: dict[str, str], directory: Path) -> None:
    text = mended(written[name])
    assert mended(text) == text
    (directory / "haproxy.cfg").write_text(written[name])
    checked = subprocess.run(
        [*script(), "-c", "-f", str(directory / "haproxy.cfg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_what_another_ray_wrote_is_not_taken(written: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text(written["served"].replace("  stats enable\n", "  stats uri /\n"))
    checked = subprocess.run(
        [*script(), "-c", "-f", str(path)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 1
    assert "stats enable" in checked.stderr
    assert {one.name for one in tmp_path.iterdir()} == {path.name}


def test_what_got_no_byte_is_asked_of_another_replica(served: int, replicas: list[Replica]) -> None:
    replicas[0].said = b""
    answers = [post(served) for _ in range(6)]
    assert answers == [(200, b"whole")] * 6
    assert replicas[0].asked > 0


def test_a_request_that_ends_its_replica_ends_two(served: int, replicas: list[Replica]) -> None:
    for replica in replicas:
        replica.said = b""
    status, body = post(served)
    assert (status, json.loads(body)["error"]["code"]) == (502, "replica_lost")
    assert sorted(replica.asked for replica in replicas) == [0, 1, 1]


def test_an_answer_that_has_begun_is_not_asked_again(served: int, replicas: list[Replica]) -> None:
    for replica in replicas:
        replica.said = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        post(served)
    assert sum(replica.asked for replica in replicas) == 1


def test_what_the_buffer_does_not_hold_is_not_asked_again(
    served: int, replicas: list[Replica]
) -> None:
    for replica in replicas:
        replica.said = b""
    assert post(served, b" " * 200_000)[0] == 502
    assert sum(replica.asked for replica in replicas) == 1
    assert post(served, b" " * 50_000)[0] == 502
    assert sum(replica.asked for replica in replicas) == 3


def test_replicas_go_on_while_ray_builds_an_application(
    written: dict[str, str], ports: dict[str, int], directory: Path, replicas: list[Replica]
) -> None:
    for name in ("served", "building"):
        text, port = elsewhere(written[name], ports)
        with haproxy(text, directory, port):
            assert post(port) == (200, b"whole")


def test_a_router_chooses_and_any_replica_answers_where_it_does_not(
    written: dict[str, str],
    ports: dict[str, int],
    directory: Path,
    replicas: list[Replica],
    router: Router,
) -> None:
    router.replica = "1"
    text, port = elsewhere(written["routed"], ports)
    with haproxy(text, directory, port):
        assert [post(port) for _ in range(3)] == [(200, b"whole")] * 3
        assert [replica.asked for replica in replicas] == [0, 3, 0]
        replicas[1].said = b""
        assert post(port) == (200, b"whole")
        assert [replica.asked for replica in replicas][1] == 4
        replicas[1].said = None
        for router.status, router.replica in ((503, "1"), (200, "nobody")):
            assert [post(port) for _ in range(3)] == [(200, b"whole")] * 3


def elsewhere(text: str, ports: dict[str, int]) -> tuple[str, int]:
    """The same configuration with ports of its own, and the clients' port."""
    here = {name: free_port() for name in ports}
    for name, old in ports.items():
        text = text.replace(f":{old}\n", f":{here[name]}\n")
    return text, here["clients"]
