"""The endpoint on a GPU: Ray Serve, our replica and our arguments of vLLM, on its real kernels.

`make test-gpu` runs it on a machine with one NVIDIA GPU of 24 GB or more (written for H100 and
H200: FP8 is native there, NVFP4A16 goes through Marlin); anywhere else nothing of it is run, and
`make` says so. The GPU's vLLM is in `.venvs/serve-gpu`, the twins' in `.venvs/serve`. It has not
been run on a GPU yet. Of what it asks (`asking`), the engine's document and accepted drafts were
seen on an endpoint on a CPU, divergence between two of vLLM's servers there; that each endpoint has
arguments on an H100 is tested everywhere (`test_gpu_endpoints`).

We test these aspects of the pocket model in NVFP4A16 and in FP8, each served by the endpoint:
- the kernels of every layer are those of `kernels.yaml` for this GPU, and Marlin's on Hopper;
- answers have the distributions that the CPU twin's have, and in NVFP4A16 nearer than the source's;
- tokens a second of quantized and BF16 side by side, and a capacity card of this GPU;
- its prediction head is taken up: more than one token a step;
- an FP8 cache is one, in every layer that has a cache of keys and values, and answers are the
  twin's.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from halftone.validate.gates.kernels import unexpected_kernel
from tests.endpoints import Served, described, pocket_artifact
from tests.environments import Environment, python_of
from tests.gpu.asking import (
    FORMATS,
    FP8_CACHE,
    SPECULATIVE,
    accept_length,
    divergence,
    engine,
    on_gpu,
    side_by_side,
    source_on_gpu,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.serve_env,
    pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="NOT RUN: there is no GPU here"),
]

# What kernels are called where nothing is emulated.
KERNELS = {"NVFP4A16": r"NvFp4", "FP8_DYNAMIC": r"^(Cutlass|FlashInfer)FP8ScaledMM"}
HOPPER = "9."
# Nats a token: as near as the source is to itself (`test_engine_gates`). Weights that are decoded
# wrongly come to more than 0.05 (`test_compare_and_bench`).
NEAR = 1e-3


@contextmanager
def serving(endpoint: dict[str, Any]) -> Iterator[Served]:
    """The endpoint, ready, in the environment that its accelerator needs."""
    environment: Environment = "serve-gpu" if endpoint["accelerator"] == "GPU" else "serve"
    with Served(endpoint, environment=environment) as served:
        told = served.wait()
        assert told is None, told
        yield served


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Published artifacts by format."""
    return {
        name: pocket_artifact(tmp_path_factory.mktemp(name), recipe=preset)
        for name, preset in FORMATS.items()
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The source in BF16, on the GPU."""
    with serving(source_on_gpu(tmp_path_factory.mktemp("cache"))) as served:
        yield served


@dataclass(frozen=True)
class Pair:
    """One format on the GPU, and its twin on the CPU."""

    format: str
    gpu: Served
    twin: Served


@pytest.fixture(scope="module", params=FORMATS)
def pair(request: pytest.FixtureRequest, artifacts: dict[str, Path]) -> Iterator[Pair]:
    with ExitStack() as both:
        gpu = both.enter_context(serving(on_gpu(artifacts[request.param])))
        twin = both.enter_context(serving(described(artifacts[request.param])))
        yield Pair(request.param, gpu, twin)


def test_its_kernels_are_those_of_the_table(pair: Pair) -> None:
    facts = engine(pair.gpu)
    assert not facts.emulated
    assert facts.capability is not None
    assert unexpected_kernel(facts, [pair.format]) is None
    # Of a GPU that the table does not know it says nothing.
    names = [name for name in facts.kernels if re.search(KERNELS[pair.format], name)]
    assert names, facts.kernels
    if facts.capability.startswith(HOPPER):
        marlin = ["Marlin" in name for name in names]
        assert all(marlin) if pair.format == "NVFP4A16" else not any(marlin)


def test_it_computes_what_its_twin_computes(pair: Pair, source: Served, tmp_path: Path) -> None:
    assert engine(pair.twin).emulated
    apart = divergence(pair.twin, pair.gpu, tmp_path)
    from_source = divergence(source, pair.gpu, tmp_path)
    print(f"\n{pair.format}: {apart:.2g} nats from its twin, {from_source:.2g} from the source")
    assert 0 < apart < NEAR
    if pair.format == "NVFP4A16":  # FP8 alone changes about as little as another GPU's rounding
        assert apart < from_source


@pytest.mark.usefixtures("serve_python")
def test_tokens_a_second_beside_the_source(pair: Pair, source: Served, tmp_path: Path) -> None:
    found, table = side_by_side(pair.gpu, source, tmp_path)
    print(f"\n{pair.format} beside BF16\n{table}")
    assert [load.concurrency for load in found.loads] == [1, 32]
    for load in found.loads:
        assert load.baseline is not None
        assert load.ratios is not None
        for side in (load.endpoint, load.baseline):
            assert (side.failed, side.requests) == (0, 6 * load.concurrency)
            assert side.tokensPerSecond > 0
        assert load.ratios.tokensPerSecond.lower is not None
    card = found.capacity.card
    assert card is not None, found.capacity.noCardBecause
    assert not card.emulated
    assert card.device == engine(pair.gpu).device


@pytest.fixture
def serve_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """`halftone bench` takes vLLM's benchmark from here."""
    monkeypatch.setenv("HALFTONE_SERVE_PYTHON", str(python_of("serve-gpu")))


def test_the_prediction_head_is_taken_up(artifacts: dict[str, Path]) -> None:
    with serving(on_gpu(artifacts["NVFP4A16"], **SPECULATIVE)) as served:
        facts = engine(served)
        assert facts.engineArguments["speculative"] == "mtp"
        assert not facts.emulated
        length = accept_length(served)
    print(f"\n{length:.2f} tokens a step")
    assert length > 1.05


def test_an_fp8_cache_is_one(artifacts: dict[str, Path], tmp_path: Path) -> None:
    artifact = artifacts["NVFP4A16"]
    with (
        serving(on_gpu(artifact, **FP8_CACHE)) as gpu,
        serving(described(artifact, **FP8_CACHE)) as twin,
    ):
        for facts in (engine(gpu), engine(twin)):
            assert facts.engineArguments["kvCacheDtype"].startswith("fp8")
            assert len(facts.cacheScales) == 1  # of four layers, three are linear
        apart = divergence(twin, gpu, tmp_path)
    print(f"\nFP8 cache: {apart:.2g} nats from its twin")
    assert 0 < apart < NEAR
