"""The endpoints of `tests/gpu` become arguments of vLLM on a Hopper GPU; nothing is started.

So that what those tests serve is known to be servable where there is no GPU to run them on.
We test these aspects: no endpoint is refused on an H100, each has our questions to its workers and
what its mode asks for, and none has what only a CPU needs.
"""

from pathlib import Path
from typing import Any

import pytest

from halftone.serve.arguments.engine_arguments import engine_arguments
from halftone.serve.kernel_check import EXTENSION
from halftone.serve.weights import obtain
from halftone.spec.serving import Endpoint
from tests.endpoints import pocket_artifact
from tests.gpu.asking import FORMATS, FP8_CACHE, SPECULATIVE, on_gpu, source_on_gpu
from tests.served_models import DEVICES


def arguments(described: dict[str, Any]) -> dict[str, Any]:
    endpoint = Endpoint.model_validate(described)
    assert endpoint.artifact is not None
    lease = obtain(endpoint.artifact, endpoint.trust, endpoint.cache)
    try:
        return engine_arguments(endpoint, lease.model, None, DEVICES["H100"])
    finally:
        lease.release()


@pytest.mark.parametrize("preset", FORMATS.values())
def test_every_endpoint_can_be_served_on_hopper(preset: str, tmp_path: Path) -> None:
    artifact = pocket_artifact(tmp_path, recipe=preset)
    plain, speculative, cache = (
        arguments(on_gpu(artifact, **changes)) for changes in ({}, SPECULATIVE, FP8_CACHE)
    )
    for found in (plain, speculative, cache):
        assert found["worker_extension_cls"] == EXTENSION
        assert found["gpu_memory_utilization"] == 0.25
        assert not {"enforce_eager", "kv_cache_memory_bytes", "dtype"} & found.keys()
    assert speculative["speculative_config"] == {"method": "mtp", "num_speculative_tokens": 3}
    assert cache["kv_cache_dtype"] == "fp8"


def test_the_source_can_be_served_beside_them(tmp_path: Path) -> None:
    assert arguments(source_on_gpu(tmp_path))["max_num_seqs"] == 32
