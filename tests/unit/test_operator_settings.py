"""The operator's beginning: what ends it at once, and with which sentence.

We test these aspects:
- a mistake in the settings is told with the file and the field, a file that is none with its name
- an address with a password is refused, for every reader of a job sees the page of its run
- a port that is taken is told with the option that chooses another
"""

import socket
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from halftone.spec.running import StageName
from operators.quantizationjob.__main__ import main, read_settings
from tests.doubles.loopback import LoopbackHandler, LoopbackServer
from tests.kubeconfigs import write_kubeconfig

_STAGES = {name.value: {"image": "i"} for name in StageName}


def _begun(settings: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["--settings", str(settings), *options])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"stages: {Plan: {imag: x}}", "`stages.Plan.image`: Field required."),
        (b"", "`the settings`: Input should be a valid dictionary"),
        (b"stages: [", "cannot be read: "),
        (b"\xff\xfe\x00", "cannot be read: "),
        (None, "cannot be read: "),
    ],
)
def test_a_mistake_is_told_with_file_and_field(
    content: bytes | None, sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    if content is not None:
        file.write_bytes(content)
    found = _begun(file)
    assert found.exit_code == 1
    assert f"Error: '{file}'" in found.output
    assert sentence in found.output


@pytest.mark.parametrize("field", ["endpoint", "uiUrl"])
def test_an_address_has_no_password(field: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    server = {"endpoint": "http://ml-pipeline:8888"}
    file.write_text(yaml.safe_dump({"stages": _STAGES, "kubeflowPipelines": server}))
    assert read_settings(file).kubeflowPipelines is not None
    server[field] = "http://me:secret@ml-pipeline:8888"
    file.write_text(yaml.safe_dump({"stages": _STAGES, "kubeflowPipelines": server}))
    found = _begun(file)
    assert found.exit_code == 1
    assert f"`kubeflowPipelines.{field}`: String should match pattern" in found.output
    assert "secret" not in found.output


class _Version(LoopbackHandler):
    """All that a client asks of an API server before it begins."""

    def do_GET(self) -> None:  # noqa: N802  # http.server's name
        self.send_response(200)
        text = b'{"gitVersion": "v1.34.4"}'
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Connection", "close")  # by a client that is then thrown away
        self.end_headers()
        self.wfile.write(text)


def test_a_port_that_is_taken_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({"stages": _STAGES}))
    server = LoopbackServer(_Version)
    server.start()
    try:
        way = write_kubeconfig(tmp_path / "kubeconfig", server.origin)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            options = ("--kubeconfig", str(way), "--host", "127.0.0.1", "--port", str(port))
            found = _begun(file, *options)
    finally:
        server.stop()
    assert found.exit_code == 1
    assert f"cannot be told at `--host 127.0.0.1` and `--port {port}` (" in found.output
