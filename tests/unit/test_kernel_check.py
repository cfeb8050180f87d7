"""What a started engine may compute with, judged from what its workers said.

We test these aspects: the kernels that the table expects of a format on a device pass and others do
not; a CPU must have ours; a measured FP8 cache must not run on scales of 1.0, nor be kept wider.
What real workers say is in `tests/integration/serving/test_engine_arguments.py`.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from halftone.serve.arguments.checkpoint_facts import CheckpointFacts, read_facts
from halftone.serve.kernel_check import EXTENSION, LoadedFacts, require_expected
from halftone.spec.errors import CheckFailed
from halftone.spec.formats import Format
from halftone.spec.names import Reason
from halftone.validate.serving.inside import Inside
from tests.builders import write_checkpoint
from tests.served_models import opened

B200 = LoadedFacts("vllm 0.32.0", "NVIDIA B200", "10.0", False, (), ())
SCALES = (("layers.3.attn", 0.25, 0.5), ("layers.7.attn", 0.25, 0.5))


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> CheckpointFacts:
    directory: Path = write_checkpoint(tmp_path_factory.mktemp("plain") / "plain", "qwen3_5")
    return read_facts(opened(directory))


def complaint(loaded: LoadedFacts, facts: CheckpointFacts, *, fp8_cache: bool = False) -> str:
    with pytest.raises(CheckFailed) as caught:
        require_expected(loaded, facts, fp8_cache=fp8_cache)
    assert caught.value.reason is Reason.EngineFailed
    return caught.value.message


@pytest.mark.parametrize(
    ("fmt", "capability", "right", "wrong"),
    [
        (Format.NVFP4, "10.0", "FlashInferCutlassNvFp4LinearKernel", "MarlinNvFp4LinearKernel"),
        (Format.NVFP4, "12.0", "FlashInferCutlassNvFp4LinearKernel", "MarlinNvFp4LinearKernel"),
        (Format.NVFP4A16, "9.0", "MarlinNvFp4LinearKernel", "EmulationNvFp4LinearKernel"),
        (
            Format.FP8_DYNAMIC,
            "9.0",
            "CutlassFP8ScaledMMLinearKernel",
            "MarlinFP8ScaledMMLinearKernel",
        ),
        (Format.FP8_BLOCK, "8.9", "CutlassFp8BlockScaledMMKernel", "MarlinFP8ScaledMMLinearKernel"),
    ],
)
def test_a_format_is_served_by_the_kernels_of_its_device(
    facts: CheckpointFacts, fmt: Format, capability: str, right: str, wrong: str
) -> None:
    model = replace(facts, formats=frozenset({fmt}))
    there = replace(B200, capability=capability)
    require_expected(replace(there, kernels=(right,)), model, fp8_cache=False)
    told = complaint(replace(there, kernels=(wrong,)), model)
    assert wrong in told
    assert str(fmt) in told
    assert "found none" in complaint(there, model)


def test_a_checkpoint_that_is_not_quantized_needs_no_kernel(facts: CheckpointFacts) -> None:
    require_expected(B200, facts, fp8_cache=False)


def test_an_old_engine_is_told(facts: CheckpointFacts) -> None:
    assert "update vLLM" in complaint(replace(B200, engine="vllm 0.31.0"), facts)


def test_a_cpu_computes_with_our_kernels(facts: CheckpointFacts) -> None:
    model = replace(facts, formats=frozenset({Format.NVFP4}))
    cpu = replace(B200, device="CPU", capability=None, emulated=True)
    require_expected(replace(cpu, kernels=("Nvfp4Linear",)), model, fp8_cache=False)
    require_expected(cpu, facts, fp8_cache=False)
    assert "without Halftone's kernels" in complaint(cpu, model)


def test_a_measured_cache_runs_on_its_scales(facts: CheckpointFacts) -> None:
    model = replace(facts, fp8_cache=True, measured_cache=True)
    require_expected(replace(B200, cache_scales=SCALES), model, fp8_cache=True)
    lost = replace(B200, cache_scales=(SCALES[0], ("layers.7.attn", 1.0, 1.0)))
    told = complaint(lost, model, fp8_cache=True)
    assert "1.0 for 1 of 2 layers, first `layers.7.attn`" in told


def test_a_cache_without_measured_scales_runs_on_ones(facts: CheckpointFacts) -> None:
    ones = replace(B200, cache_scales=(("layers.3.attn", 1.0, 1.0),))
    require_expected(ones, replace(facts, fp8_cache=True), fp8_cache=True)


def test_a_cache_that_should_be_fp8_is(facts: CheckpointFacts) -> None:
    model = replace(facts, fp8_cache=True, measured_cache=True)
    assert "keeps no layer's cache so" in complaint(B200, model, fp8_cache=True)
    require_expected(B200, model, fp8_cache=False)  # the endpoint asked for 16 bits


def test_the_workers_are_asked_through_a_class_that_there_is() -> None:
    assert f"{Inside.__module__}.{Inside.__qualname__}" == EXTENSION
