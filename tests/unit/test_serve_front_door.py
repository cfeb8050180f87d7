"""We test these aspects of what HAProxy answers of its own:

- a configuration as Ray writes it: each edit finds its line, and no text/plain refusal is left;
- of another one, in which a line is missing or another, HAProxy is not started;
- the body is there before a replica is chosen, which any does where a router fails;
- replicas that Ray forgets while it builds an application stay, until that has gone;
- statistics and the admin socket are for this machine; metrics go where clients come from;
- mending twice is mending once;
- error files are whole HTTP answers with OpenAI's error and Retry-After.
"""

import json
from pathlib import Path

import pytest

from halftone.serve.http.front_door import (
    EDITS,
    mended,
    unknown,
    with_replicas,
    write_error_files,
)

# The lines of Ray 2.60's template that matter, as it renders them.
CONFIGURATION = """global
    lua-load-per-thread /tmp/h/ingress_request_router.lua
    stats socket /tmp/h/admin.sock mode 666 level admin expose-fd listeners
defaults
    errorfile 502 /tmp/h/500.http
    errorfile 503 /tmp/h/500.http
    errorfile 504 /tmp/h/500.http
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind HOST:8000
    # Routes endpoint
    http-request lua.route_via_ingress_request_router if METH_POST has_ingress_request_router_app
    http-request return status 503 content-type text/plain lf-string "Ingress request router failed: %[var(txn.ingress_request_router_failed)]" hdr X-Serve-Reason %[var(txn.ingress_request_router_failed)] if { var(txn.ingress_request_router_failed) -m found }
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \\'%[path]\\' not found. Ping http://.../-/routes for available routes."
listen stats
  bind *:8404
  stats enable
"""  # noqa: E501


def test_every_edit_finds_its_line() -> None:
    assert [p.pattern for p, _ in EDITS if not p.search(CONFIGURATION)] == []


@pytest.mark.parametrize(
    ("line", "another"),
    [
        ("  bind *:8404\n", "  bind :8404\n"),
        ("mode 666 level admin", "mode 0666 level admin"),
        ("# Routes endpoint", "# Routes"),
        ("    bind :9101\n", "    bind *:9101\n"),
        ("Ingress request router failed", "No router"),
    ],
)
def test_a_configuration_that_we_do_not_know_is_not_taken(line: str, another: str) -> None:
    assert unknown(CONFIGURATION) == []
    assert unknown(mended(CONFIGURATION)) == []
    assert len(unknown(CONFIGURATION.replace(line, another))) == 1


def test_without_a_router_nothing_is_said_of_one_that_failed() -> None:
    lines = [line for line in CONFIGURATION.splitlines(keepends=True) if "router" not in line]
    assert unknown("".join(lines)) == []


def test_clients_get_errors_of_openai() -> None:
    text = mended(CONFIGURATION.replace("HOST", "*"))
    assert "text/plain" not in text
    assert text.count("hdr Retry-After 5") == 1
    assert "errorfile 503 /tmp/h/503.http" in text
    quoted = text.split('string "')[1].split('" hdr')[0].replace('\\"', '"')
    assert json.loads(quoted)["error"]["code"] == "model_not_ready"


def test_the_body_is_there_before_a_replica_is_chosen() -> None:
    text = mended(CONFIGURATION)
    assert text.index("wait-for-body time 60s if METH_POST") < text.index("http-request lua.")
    assert "errorfile 408 /tmp/h/408.http" in text
    assert "router failed" not in text


def test_replicas_are_remembered_while_ray_builds_an_application(tmp_path: Path) -> None:
    former = tmp_path / "replicas"
    one = "    server SERVE_REPLICA_halftone-one 127.0.0.1:30000 check observe layer4\n"
    building = (
        f"{CONFIGURATION}backend http-halftone\n    # Servers in this backend\n"
        "    # Fallback to head node's Serve proxy when no ingress replicas are available\n"
        "    server SERVE_PROXY_ACTOR-fallback 127.0.0.1:8500 check backup\n"
    )
    built = building.replace("in this backend\n", f"in this backend\n{one}")
    assert with_replicas(building, former) == building  # there was none yet
    assert with_replicas(built, former) == built
    assert with_replicas(building, former) == built
    # For a moment Ray may not know its fallback either.
    lost = building[: building.index("    # Fallback")]
    assert with_replicas(lost, former) == f"{lost}{one}"
    assert with_replicas(building, former) == built
    assert with_replicas(CONFIGURATION, former) == CONFIGURATION  # the application has gone
    assert with_replicas(building, former) == building


def test_statistics_stay_on_this_machine() -> None:
    open_to_all = mended(CONFIGURATION.replace("HOST", "*"))
    assert "bind 127.0.0.1:8404" in open_to_all
    assert "bind :9101" in open_to_all
    assert "mode 600 level admin" in open_to_all
    assert "bind *:8000" in open_to_all
    assert "bind 127.0.0.1:9101" in mended(CONFIGURATION.replace("HOST", "127.0.0.1"))


def test_mending_twice_is_mending_once() -> None:
    once = mended(CONFIGURATION.replace("HOST", "127.0.0.1"))
    assert mended(once) == once


def test_error_files_are_whole_answers(tmp_path: Path) -> None:
    write_error_files(tmp_path)
    head, _, body = (tmp_path / "503.http").read_bytes().partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 503 Service Unavailable"
    assert f"content-length: {len(body)}" in lines
    assert "retry-after: 5" in lines
    assert json.loads(body)["error"]["type"] == "server_error"
    assert {p.name for p in tmp_path.iterdir()} == {f"{n}.http" for n in (408, 502, 503, 504)}
