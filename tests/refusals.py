"""What every refusal has in common: one sentence, exit code 2, and nothing written.

Called by the integration tests of bad input. `source` is always below `tmp_path`, so whatever a
command leaves behind is seen.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.commands import Outcome, files_of, halftone

INDEX = "model.safetensors.index.json"


def refused(
    source: Path | str, tmp_path: Path, recipe: str | Path = "nvfp4a16", *options: str
) -> str:
    """The sentence with which `plan` and `quantize` refuse; both must, and nothing is written."""
    before = files_of(tmp_path)
    planned = halftone("plan", source, "--recipe", recipe, "--json")
    sentence = refused_by_quantize(source, tmp_path, recipe, *options)

    assert (planned.code, planned.err) == (2, f"halftone: {sentence}\n")
    document = json.loads(planned.out)
    assert document["refusal"]["message"] == sentence
    assert document["output"] is None
    assert files_of(tmp_path) == before
    return sentence


def refused_by_quantize(
    source: Path | str, tmp_path: Path, recipe: str | Path = "nvfp4a16", *options: str
) -> str:
    """The sentence with which `quantize` refuses, alone where only the weights can show it."""
    before = files_of(tmp_path)
    ended = halftone("quantize", source, tmp_path / "output", "--recipe", recipe, *options)
    assert ended.out == ""
    assert files_of(tmp_path) == before
    assert not list(tmp_path.glob(".*"))
    return sentence_of(ended)


def sentence_of(ended: Outcome) -> str:
    """The one sentence that a refused command says."""
    assert ended.code == 2
    assert ended.failure.startswith("halftone: ")
    assert ended.failure.endswith((".\n", ")\n"))
    assert ended.failure.count("\n") == 1
    return ended.failure.removeprefix("halftone: ").removesuffix("\n")


def change_index(source: Path, change: Callable[[dict[str, str]], None]) -> None:
    document = json.loads((source / INDEX).read_text())
    change(document["weight_map"])
    (source / INDEX).write_text(json.dumps(document))


def change_config(source: Path, **changes: Any) -> None:
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | changes))
