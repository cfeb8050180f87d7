"""Two conversions into one place: the second is told, and what the first made is left alone.

The first is a process of its own that stands still at a known point, so no test depends on speed.
We test these aspects:
- the second process is refused, and the first then ends with all that it had made
- whoever comes after the first has ended, or was killed, is served
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import write_checkpoint
from tests.commands import Outcome, files_of, halftone, quantize_directory

_FIRST = """
import sys
from pathlib import Path
from halftone.quantize.conversion.staging import staged_output
with staged_output(Path(sys.argv[1])) as staged:
    (staged / "model.safetensors").write_bytes(b"of the first")
    print("in", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    source = write_checkpoint(root / "source", "llama")
    return quantize_directory(source, root / "made", "nvfp4a16-mlp").directory


def first(output: Path) -> subprocess.Popen[str]:
    """A process in the middle of converting into `output`."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", _FIRST, str(output)], stdin=pipe, stdout=pipe, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    return process


def convert(made: Path, output: Path) -> Outcome:
    return halftone("convert", made, output, "--to", "ModelOpt")


def test_the_second_of_two_conversions_is_told_and_spoils_nothing(
    made: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    with first(output) as process:
        second = convert(made, output)
        assert not output.exists()
        process.communicate("\n")

    told = f"Another process is making '{output}'; wait for it, or choose another output."
    assert (second.code, second.failure) == (3, f"halftone: {told}\n")
    assert process.returncode == 0
    assert files_of(output) == {"model.safetensors": b"of the first"}
    assert [path.name for path in tmp_path.iterdir()] == ["output"]


def test_a_killed_conversion_is_in_nobodys_way(made: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with first(output) as process:
        process.kill()

    ended = convert(made, output)

    assert ended.code == 0, ended.err
    assert "config.json" in files_of(output)
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
