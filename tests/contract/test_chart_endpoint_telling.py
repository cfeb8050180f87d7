"""What the endpoint's chart tells and asks: its notes, its README, and what `helm test` runs.

We test these aspects:
- the notes are three commands, which a shell takes as they are printed;
- they say whether replicas follow the load, and where what one of them can do comes from;
- they ask for the key where one is needed, and say what is open where it is;
- the script of `helm test` asks for a completion, and tells what it was answered;
- the README's commands render.
"""

import json
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.cluster.endpoint_chart import CHART, helm, of_kind, render
from tests.cluster.endpoint_variants import AUTOSCALED
from tests.conftest import ROOT
from tools.servers import program


def test_the_notes_are_three_commands() -> None:
    # Notes are not part of a template's output, so the file is rendered as one.
    notes = notes_of("--set", "apiKey.key=it.is")
    commands = [line.strip() for line in notes.splitlines() if line.startswith("     ")]
    assert [shlex.split(one)[0] for one in commands] == ["kubectl", "kubectl", "curl"]
    words = shlex.split(commands[2].replace("$(", "'").replace('")"', "'"))
    assert json.loads(words[words.index("-d") + 1])["model"] == "small"
    assert """-o go-template='{{index .data "it.is" | base64decode}}'""" in commands[2]
    assert "Authorization" not in notes_of("--set", "apiKey.authentication=NotRequired")


def test_the_notes_say_how_many_replicas_there_will_be() -> None:
    assert "The number of replicas stays at 1, whatever the load" in notes_of()
    assert "autoscaling" not in notes_of("--set", "autoscaling.enabled=false")
    assert "Replicas follow the load, from 1 to 8." in notes_of(*AUTOSCALED)
    observed = notes_of(*AUTOSCALED, "--set", "autoscaling.observeOnly=true")
    assert "with which nothing is changed" in observed


def test_the_notes_say_where_capacity_comes_from() -> None:
    assert "says the ConfigMap 'card'" in notes_of(*AUTOSCALED)
    nowhere = (*AUTOSCALED, "--set", "autoscaling.capacity.configMapName=")
    assert "says the capacity card that the artifact has for its device" in notes_of(*nowhere)
    inline = ("--set-json", 'autoscaling.capacity.card={"kvBlocks":1}')
    assert "says `autoscaling.capacity.card`" in notes_of(*nowhere, *inline)


def notes_of(*options: str) -> str:
    text = helm("install", "--dry-run=client", "--namespace", "team", *options)
    return text.partition("NOTES:\n")[2]


class Answers(BaseHTTPRequestHandler):
    """Completes what is asked for, if the key is the right one."""

    asked: Any = None

    def do_POST(self) -> None:
        type(self).asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        right = self.headers["Authorization"] == "Bearer secret"
        answer = {"model": self.asked["model"], "usage": {"completion_tokens": 8}}
        self.send_response(200 if right else 401)
        self.end_headers()
        self.wfile.write(json.dumps(answer if right else {"error": "no"}).encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize(("key", "status"), [("secret", 0), ("wrong", 1)])
def test_the_script_of_helm_test_asks_for_a_completion(key: str, status: int) -> None:
    (pod,) = of_kind(render("team"), "Pod")
    (script,) = pod["spec"]["containers"][0]["args"]
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = script.replace("small:8000", f"127.0.0.1:{server.server_port}")
        found = subprocess.run(
            [sys.executable, "-c", script.replace("+ 60", "+ 0")],
            env={"API_KEY": key},
            capture_output=True,
            text=True,
            check=False,
        )
        server.shutdown()
    assert found.returncode == status, found.stderr
    assert Answers.asked["model"] == "small"
    if status:
        assert 'does not answer: HTTP Error 401: Unauthorized {"error": "no"}' in found.stderr
    else:
        assert found.stdout == "The endpoint answered with 8 tokens of small.\n"


def test_the_command_of_the_readme_renders() -> None:
    text = (CHART / "README.md").read_text()
    command = text[text.index("helm install small") : text.index("```\n\n`artifact.uri`")]
    words = shlex.split(command.replace("\\\n", "").replace("DIGEST", "a" * 64))
    assert words[:4] == ["helm", "install", "small", "charts/halftone-endpoint"]
    found = subprocess.run(
        [str(program("helm")), "template", *words[2:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "kind: RayService" in found.stdout, found.stderr
