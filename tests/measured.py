"""What an engine of known speed says of itself and would be measured at.

Called by the tests of capacity cards and of the `Speed` gate.
"""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from halftone.validate.capacity import Step
from halftone.validate.serving.session import EngineFacts

BASE, PER_KV, PER_SEQUENCE, PREFILL = 0.006, 2.5e-8, 4e-5, 12_000.0
FULL_ATTENTION = {
    "kind": "FullAttentionSpec",
    "layers": 32,
    "blockTokens": 16,
    "blocksPerRequest": 0,
}
STATE = {"kind": "MambaSpec", "layers": 48, "blockTokens": 784, "blocksPerRequest": 3}


def steps(noise: float, seed: int = 1, per_kv: float = PER_KV) -> list[Step]:
    """Timed steps of a replica with the costs above, each off by a relative error."""
    rng = np.random.default_rng(seed)
    loads = [(n * k, n, 0) for n, k in product((1, 4, 16, 32), (128, 1024, 4096))]
    loads += [(0, 0, tokens) for tokens in (256, 512, 1024, 2048)]
    found = []
    for kv, sequences, prompt in loads * 3:
        exact = BASE + per_kv * kv + PER_SEQUENCE * sequences + prompt / PREFILL
        found.append(Step(kv, sequences, prompt, exact * (1 + noise * rng.standard_normal())))
    return found


def facts(**changes: Any) -> EngineFacts:
    return replace(
        EngineFacts(
            loadSeconds=41.5,
            kvBlocks=1000,
            cacheGroups=(FULL_ATTENTION,),
            device="NVIDIA B200 (180 GB)",
            driver="595.10",
            capability="10.0",
            emulated=False,
            engine="vllm 0.32.0",
            kernels=(),
            maxModelLen=4096,
            maxSequences=64,
            tokenBudget=2048,
            vocabulary=1000,
            sees=False,
            engineArguments={"tensorParallel": "2", "dtype": "bfloat16"},
        ),
        **changes,
    )
