"""Records what servers export: `make record-metrics` writes `tests/golden/metrics`.

    python -m tests.recording [native] [through-ray] [operating]

With names it records these anew and leaves the pages of the others as they are. Takes ten minutes
and what `make .venvs/serve/ready tools` builds.
"""

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Final

from halftone.telemetry.contract import load_contract
from tests.environments import python_of
from tests.recording.files import FOLDER, INDEX, Recording, load, save
from tests.recording.moments import INTERVAL_S
from tests.recording.normal import foreign, normalise
from tests.servers.prometheus import built

PARTS: Final = ("native", "through_ray", "operating")
_VERSIONS: Final = """
import json
from importlib.metadata import version
print(json.dumps({name: version(name) for name in ("halftone", "ray", "vllm")}))
"""


def versions() -> dict[str, str]:
    """Of what is recorded, and of who scrapes it meanwhile."""
    command = [str(python_of("serve")), "-c", _VERSIONS]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = json.loads(said)
    said = subprocess.run([built("promtool"), "--version"], capture_output=True, text=True).stdout
    return {**found, "prometheus": said.split()[2].rstrip(",")}


def recorded(part: str, needed: set[str]) -> Recording:
    """One part, as it is kept. Raises RuntimeError where the machine is still in it."""
    module = import_module(f"tests.recording.{part}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        (Path(folder) / "cluster").mkdir()
        pages: Mapping[str, list[str]] = module.record(Path(folder))
    kept = normalise(pages, needed)
    words = (socket.gethostname(), str(Path.home()), tempfile.gettempdir())
    for name, moments in kept.items():
        if found := [line for page in moments for line in foreign(page, words)]:
            raise RuntimeError(f"{name} says where it was recorded:\n" + "\n".join(found[:10]))
    return Recording(versions(), module.ABOUT, kept, INTERVAL_S)


def main(words: list[str]) -> int:
    """Record `words`, or everything."""
    parts = [word.replace("-", "_") for word in words] or list(PARTS)
    if strange := set(parts) - set(PARTS):
        print(f"{', '.join(sorted(strange))}: no part of the recording; there are {PARTS}.")
        return 2
    needed = {need.name for need in load_contract()}
    whole = load() if len(parts) < len(PARTS) and (FOLDER / INDEX).is_file() else None
    for part in parts:
        new = recorded(part, needed)
        if whole is not None:
            about, pages = {**whole.about, **new.about}, {**whole.pages, **new.pages}
            new = Recording(new.versions, about, pages, new.interval_s)
        whole = new
        print(f"{part}: {', '.join(new.about)}", flush=True)
    assert whole is not None
    save(whole, needed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
