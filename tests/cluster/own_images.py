"""Our own images for a real node: built by `tools.images` where something has changed, and saved.

Called by the node tier. Archives lie beside the store that they come from, so a second run finds
them; a missing program fails the test with the tool's own sentence.
"""

import os
import subprocess
import sys
from pathlib import Path

from tools import images

OPERATOR = "halftone-operator"
WORKER = "halftone-worker"
# No node can pull anything from there: what is not loaded is not found.
REGISTRY = "localhost"


def archives() -> list[Path]:
    """Docker archives of the operator and the worker, tagged as the chart asks for them."""
    _tool("build", OPERATOR, WORKER)
    saved = {name: images.store().with_name("image-archives") / f"{name}.tar" for name in _OURS}
    for name, path in saved.items():
        _tool("save", name, str(path))
    return list(saved.values())


_OURS = (OPERATOR, WORKER)


def _tool(*words: str) -> None:
    # The store is the user's, whatever a test's environment says.
    command = [sys.executable, "-m", "tools.images", *words]
    found = subprocess.run(
        command, cwd=images.ROOT, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise RuntimeError(f"{' '.join(words)}: {found.stdout[-2000:]}{found.stderr[-2000:]}")
