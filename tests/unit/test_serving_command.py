"""We test these aspects of `halftone serve` before Ray starts, as its second half is started:

- the line of curl is one that a shell takes as it is printed, with the key out of its file;
- a variable that is meant to hold a key, and holds none, opens nothing to everybody;
- a port that is taken is told at once, however long the weights would take.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from halftone.cli.serving import curl
from halftone.serve.http.keys import client_keys
from halftone.serve.local.cluster import Address
from halftone.spec.errors import RefusedInput
from halftone.spec.serving import Endpoint

KEY = "a-key-of-clients"


def endpoint(tmp_path: Path, **artifact: Any) -> Endpoint:
    return Endpoint.model_validate(
        {
            "servedModelName": "org/a-model",
            "artifact": {"uri": "s3://bucket/model", **artifact},
            "trust": {"signature": "NotRequired"},
            "cache": {"directory": str(tmp_path / "cache")},
            "accelerator": "CPU",
        }
    )


def start(served: Endpoint, port: int, **environment: str) -> subprocess.CompletedProcess[str]:
    arguments = ["--port", str(port), "--endpoint", served.model_dump_json()]
    return subprocess.run(
        [sys.executable, "-m", "halftone.cli.serving", "--host", "127.0.0.1", *arguments],
        env={**os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_shell_takes_the_line_of_curl_as_it_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "a key"
    file.write_text(f"{KEY}\n")
    key = f"$(cat {shlex.quote(str(file))})"
    line = curl(endpoint(tmp_path), Address("0.0.0.0", 8000), key)
    # What curl would be called with.
    script = f'curl() {{ printf "%s\\0" "$@"; }}; {line}'
    words = subprocess.check_output(["sh", "-c", script], text=True).split("\0")
    assert words[0] == "http://127.0.0.1:8000/v1/chat/completions"
    assert f"Authorization: Bearer {KEY}" in words
    assert json.loads(words[words.index("-d") + 1])["model"] == "org/a-model"


def test_a_key_is_one_word_or_there_is_none() -> None:
    assert client_keys({}) == ()
    assert client_keys({"VLLM_API_KEY": KEY}) == (KEY,)
    for nothing in ("", " ", f"{KEY}\n", "two words", "clé"):
        with pytest.raises(RefusedInput, match="set it to one key") as refused:
            client_keys({"VLLM_API_KEY": nothing})
        assert KEY not in refused.value.message


@pytest.mark.timeout(120)
def test_a_variable_without_a_key_is_refused_before_anything_starts(tmp_path: Path) -> None:
    ended = start(endpoint(tmp_path), 8000, VLLM_API_KEY="")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "`VLLM_API_KEY` is set and holds no key" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(120)
def test_a_port_that_is_taken_is_told_while_the_weights_are_still_asked_for(tmp_path: Path) -> None:
    """The store takes connections and says nothing, for much longer than this test may take."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        socket.create_server(("127.0.0.1", 0), backlog=16) as silent,
    ):
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        ended = start(endpoint(tmp_path, endpointUrl=url), taken.getsockname()[1])
        assert ended.returncode == 2, ended.stderr
        assert "give another `--port`" in ended.stderr
