"""What must hold before an artifact is served in some modes on a device: sentences, in order.

`engine_arguments` asks `first_obstacle`; each predicate looks at one thing and the list is the
documentation. Pure. What an argument's own type would refuse is left to vLLM.
"""

import re
from collections.abc import Callable
from typing import Final

from halftone.checkpoint.serving_limits import WEIGHT_ONLY_BLOCKS
from halftone.plan.devices import Kernel, devices_like
from halftone.plan.splitting import Splitting
from halftone.serve.arguments.case import Case, Obstacle, asks_for_fp8_cache
from halftone.serve.arguments.device import DeviceFacts
from halftone.serve.arguments.mode_needs import unknown_mode, unmet_need
from halftone.spec.formats import CheckpointFormat, Format
from halftone.spec.names import Reason
from halftone.spec.serving import ServingMode, WeightOnlyFallback
from halftone.validate.gates.kernels import too_old

# BF16 tensor cores: every checkpoint of ours keeps parts in BF16 (`check_if_supports_dtype`).
_OLDEST_GPU: Final = (8, 0)
# Formats whose activations have few bits, how many, and the first generation with units for them.
_FEW_BITS: Final = {
    Format.NVFP4: (4, "10.0"),
    Format.FP8: (8, "8.9"),
    Format.FP8_DYNAMIC: (8, "8.9"),
    Format.FP8_BLOCK: (8, "8.9"),
}
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64)


Predicate = Callable[[Case], Obstacle | None]


def first_obstacle(case: Case) -> Obstacle | None:
    """The first requirement that does not hold."""
    return next(filter(None, (holds(case) for holds in REQUIREMENTS)), None)


def _engine_is_new_enough(case: Case) -> Obstacle | None:
    told = too_old(case.device.engine)
    return None if told is None else Obstacle(Reason.EngineNotSupported, "vllm", told)


def _gpu_computes_bf16(case: Case) -> Obstacle | None:
    capability = case.device.capability
    if capability is None or _pair(capability) >= _OLDEST_GPU:
        return None
    return Obstacle(
        Reason.NotSupported,
        "accelerator",
        f"{case.device.name} has compute capability {capability} and no BF16 units, which every "
        "checkpoint needs for the parts that are not quantized; take a GPU of 8.0 or later.",
    )


def _formats_are_served(case: Case) -> Obstacle | None:
    """Formats that today's vLLM stops on, whatever the GPU."""
    blocks = Format.FP8_BLOCK_A16
    for model in case.models:
        stored = blocks in model.formats and model.layout is CheckpointFormat.CompressedTensors
        if stored and not case.on_cpu and _version(case.device) < (0, 33):
            return Obstacle(
                Reason.NotSupported,
                str(blocks),
                f"`{model.name}` has weights in {blocks}, and {WEIGHT_ONLY_BLOCKS}; serve "
                f"{Format.FP8_BLOCK}, whose weights are the same.",
            )
    return None


def _activations_have_units(case: Case) -> Obstacle | None:
    """W4A4 on Hopper, W8A8 on Ampere: served with weights alone, and only if that is wanted."""
    capability = case.device.capability
    if case.endpoint.weightOnlyFallback is WeightOnlyFallback.Allow or capability is None:
        return None
    alike = devices_like(capability)
    for model in case.models:
        for fmt in sorted(model.formats & _FEW_BITS.keys()):
            if not alike or any(row.kernels[fmt] is not Kernel.Marlin for row in alike):
                continue
            bits, first = _FEW_BITS[fmt]
            other = f"serve {Format.NVFP4A16}, " if fmt is Format.NVFP4 else ""
            return Obstacle(
                Reason.NotSupported,
                "weightOnlyFallback",
                f"`{model.name}` has {fmt} layers, which multiply activations of {bits} bits, and "
                f"{case.device.name} has no units for that: vLLM would leave them at 16 bits, "
                f"which is not what was measured; {other}take a GPU of compute capability {first} "
                "or later, or set `weightOnlyFallback: Allow`.",
            )
    return None


def _names_no_other_model(case: Case) -> Obstacle | None:
    """vLLM takes a model in the layout of `speculators` for a draft, and loads what it names."""
    if case.model.config.get("speculators_config") is None:
        return None
    return Obstacle(
        Reason.NotSupported,
        "speculators_config",
        f"`config.json` of `{case.model.name}` has `speculators_config`, so vLLM would serve the "
        "model that this names, which nobody verified; name a model of its own in `artifact`.",
    )


def _cache_has_its_scales(case: Case) -> Obstacle | None:
    """Scales that were measured are there, wherever the cache will be FP8."""
    model = case.model
    is_fp8 = asks_for_fp8_cache(case.endpoint, model)
    if not (is_fp8 and model.measured_cache) or model.missing_cache_scale is None:
        return None
    return Obstacle(
        Reason.MalformedCheckpoint,
        model.missing_cache_scale,
        f"The FP8 KV cache of `{model.name}` has measured scales, and "
        f"`{model.missing_cache_scale}` is missing: vLLM would take 1.0 for it without a word; "
        "publish the artifact again, or set `engineArguments.kv_cache_dtype: bfloat16`.",
    )


def _model_can_be_split(case: Case) -> Obstacle | None:
    size = case.endpoint.tensorParallel
    towers = ServingMode.Multimodal in case.endpoint.modes
    for model in case.models:
        splitting = Splitting(model.config, model.matrices, towers)
        why = next(splitting.obstacles(size), None)
        if why is not None:
            legal = [n for n in _SIZES if not any(splitting.obstacles(n))]
            return Obstacle(
                Reason.NotSupported,
                "tensorParallel",
                f"`tensorParallel` {size} cannot serve `{model.name}`: {why} Take one of "
                f"{', '.join(str(n) for n in legal)}.",
            )
    layers, stages = case.model.layers, case.endpoint.pipelineParallel
    if layers is not None and stages > layers:
        return Obstacle(
            Reason.NotSupported,
            "pipelineParallel",
            f"`pipelineParallel` {stages} cannot serve `{case.model.name}`, which has {layers} "
            "layers; each stage needs one.",
        )
    return None


REQUIREMENTS: Final[tuple[Predicate, ...]] = (
    _engine_is_new_enough,
    _gpu_computes_bf16,
    _formats_are_served,
    _activations_have_units,
    _names_no_other_model,
    unknown_mode,
    unmet_need,
    _cache_has_its_scales,
    _model_can_be_split,
)


def _pair(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _version(device: DeviceFacts) -> tuple[int, ...]:
    return _pair(device.engine.rpartition(" ")[2])
