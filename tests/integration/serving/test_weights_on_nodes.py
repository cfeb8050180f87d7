"""Weights of a replica whose workers are on two nodes, with Ray's own processes for both.

We test these aspects:
- both nodes prove the checkpoint, and a file that is written to afterwards is noticed;
- what another node finds wrong reaches the replica as the error that it is, with its reason: those
  are counted;
- the same checkpoint at two places is refused, for vLLM's workers read at one.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.builders import write_checkpoint
from tests.endpoints import described, digest_of_files
from tests.environments import ask


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What came of each endpoint, by its name."""
    work = tmp_path_factory.mktemp("nodes")
    shared = write_checkpoint(work / "shared", "llama")
    for place, seed in (("here", 0), ("there", 1)):
        write_checkpoint(work / place / "apart", "llama")
        write_checkpoint(work / place / "other", "llama", seed=seed)
    places = {"shared": shared, "apart": Path("apart"), "other": Path("other")}
    request = {
        "endpoints": {name: _endpoint(path, work / "here" / path) for name, path in places.items()},
        "here": str(work / "here"),
        "there": str(work / "there"),
        "touched": str(shared / "config.json"),
    }
    return ask("serve", "weights_on_nodes.py", request, work=work, timeout_s=300)


def _endpoint(uri: Path, lies: Path) -> dict[str, Any]:
    trust = {"signature": "NotRequired", "verdicts": ["Unmeasured"]}
    found = described(uri, trust=trust)
    found["artifact"]["digest"] = digest_of_files(lies)
    return found


def test_a_checkpoint_is_proven_on_both_nodes_and_watched(answers: Any) -> None:
    digest, unchanged, (reason, told) = answers["shared"]
    assert (len(digest), unchanged, reason) == (64, "unchanged", "SourceChanged")
    assert "was changed after it was proven" in told


def test_an_error_of_another_node_is_the_replicas_own(answers: Any) -> None:
    ((reason, told),) = answers["other"]
    assert reason == "DigestDiffers"
    assert told.startswith("`artifact.digest` is ")


def test_one_checkpoint_at_two_places_is_refused(answers: Any) -> None:
    ((reason, told),) = answers["apart"]
    assert reason == "SourceChanged"
    assert "One node of the replica has the checkpoint" in told
