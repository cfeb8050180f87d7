"""A calibrated recipe through the compiled pipeline, with llm-compressor.

We test these aspects:
- the plan takes the branch that measures, and the artifact is the one of `halftone run`.
"""

import pytest

from halftone.spec.artifacts import Artifact
from halftone.spec.documents import CheckpointDocument
from tests.conftest import ROOT
from tests.environments import python_of
from tests.integration.pipelines.conftest import GATES, SHARD_BYTES, Place

DATA = ROOT / "examples" / "pocket-model" / "calibration.jsonl"


@pytest.mark.soak
@pytest.mark.quantize_env
def test_a_calibrated_plan_is_measured(place: Place) -> None:
    calibration = {"dataset": {"path": str(DATA)}, "samples": 8, "maxSequenceLength": 64}
    quantization = {
        "preset": "nvfp4-language",
        "calibration": calibration,
        "maxShardBytes": SHARD_BYTES,
    }
    place.environment["HALFTONE_QUANTIZE_PYTHON"] = str(python_of("quantize"))
    job = place.job(quantization=quantization, validation=GATES)
    place.run_alone(job)
    alone = CheckpointDocument.load(place.alone / "checkpoint.json")

    ended = place.run(job=job)

    assert ended.code == 0, ended.log
    assert (ended.tries("calibrate"), ended.tries("assemble")) == (1, 1)
    published = Artifact.model_validate_json(place.store.published["artifact.json"])
    assert published.checkpointDigest == alone.digest
