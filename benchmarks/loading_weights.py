"""How long a replica's weights take to prove and to load, in the environment that has vLLM.

    python loading_weights.py DIRECTORY DIGEST

Called by `serve_weights`. Prints JSON: `prove` are the seconds of `obtain`, `load` those of vLLM's
engine until it could answer, in a process of its own as a replica has it; neither has those of
imports here. Both read a warm page cache.
"""

import json
import os
import sys
import time
from typing import Any

from halftone.serve.weights import obtain
from halftone.spec.reports import Verdict
from halftone.spec.serving import ArtifactReference, Signatures, Trust, WeightsCache

_ANYBODY = Trust(signature=Signatures.NotRequired, verdicts=(Verdict.Unmeasured,))
# As a replica on a CPU: nothing is compiled, and the one worker is the engine's process.
_SETTINGS = {
    "TORCH_COMPILE_DISABLE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def main(directory: str, digest: str) -> dict[str, Any]:
    """Prove and load once."""
    os.environ.update(_SETTINGS)
    from vllm import LLM

    begin = time.perf_counter()
    reference = ArtifactReference(uri=directory, digest=digest)
    with obtain(reference, _ANYBODY, WeightsCache(directory=directory)) as lease:
        proven = time.perf_counter()
        LLM(
            model=str(lease.model.path),
            enforce_eager=True,
            distributed_executor_backend="uni",
            max_model_len=256,
            max_num_seqs=2,
            kv_cache_memory_bytes=2**28,
            limit_mm_per_prompt={"image": 0, "video": 0},
            skip_tokenizer_init=True,
        )
        loaded = time.perf_counter()
        lease.require_unchanged()
    return {"prove": proven - begin, "load": loaded - proven}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
