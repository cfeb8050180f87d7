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
# For the tasks of Kubeflow pipelines, which few tests need.
TASK = "halftone-task"
# For gates that need a server, and for endpoints; gigabytes, so few tests load it.
ENDPOINT_CPU = "halftone-endpoint-cpu"
# The same without Python's packages; `endpoint_environment` has them.
ENDPOINT_BARE = "halftone-endpoint-bare"
# No node can pull anything from there: what is not loaded is not found.
REGISTRY = "localhost"


def archives(*more: str) -> list[Path]:
    """Docker archives of the operator, the worker and `more`, tagged as the chart asks for them."""
    return saved(*_OURS, *more)


def saved(*names: str) -> list[Path]:
    """Docker archives of `names` alone."""
    _tool("build", *names)
    paths = {name: images.store().with_name("image-archives") / f"{name}.tar" for name in names}
    for name, path in paths.items():
        _tool("save", name, str(path))
    return list(paths.values())


def reference(name: str) -> str:
    """What pods call an image of ours."""
    return f"{REGISTRY}/{name}:{images.version()}"


_OURS = (OPERATOR, WORKER)


def _tool(*words: str) -> None:
    # The store is the user's, whatever a test's environment says.
    command = [sys.executable, "-m", "tools.images", *words]
    found = subprocess.run(
        command, cwd=images.ROOT, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise RuntimeError(f"{' '.join(words)}: {found.stdout[-2000:]}{found.stderr[-2000:]}")
