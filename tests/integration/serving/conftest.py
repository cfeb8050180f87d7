"""One endpoint for all tests of a module that serve: Ray and vLLM take most of a minute to start.

Called by pytest. Modules that do not ask for it start nothing.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from halftone.spec.artifacts import Artifact
from halftone.validate.serving.loading import processor
from tests.artifacts import capacity_card
from tests.endpoints import KEY, TOOLS, Served, described, pocket_artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket model in NVFP4A16, published without a signature, verdict Emulated.

    It has a capacity card of this machine, measured with other arguments than tests serve it with.
    """
    published = pocket_artifact(tmp_path_factory.mktemp("pocket"))
    digest = Artifact.load(published / "artifact.json").checkpointDigest
    card = capacity_card(digest, processor())
    (published / card.path).parent.mkdir()
    card.save(published / card.path)
    return published


@pytest.fixture(scope="module")
def served(artifact: Path) -> Iterator[Served]:
    """The pocket model with tools, behind a key. Ready when a test gets it."""
    with Served(described(artifact, **TOOLS), key=KEY) as served:
        served.while_loading = httpx.post(f"{served.url}/v1/chat/completions", json={}, timeout=60)
        told = served.wait()
        assert told is None, told
        yield served
