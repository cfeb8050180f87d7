"""What a started engine really computes with, against what its format and device should give.

    await check(server.collective_rpc, endpoint, model, device)

Called by a replica between the engine's start and its first answer: a kernel that leaves
activations at 16 bits, or a cache scale of 1.0 in place of a measured one, answers otherwise
without a word. `ask` asks, `require_expected` judges and is pure.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from halftone.serve.arguments.case import asks_for_fp8_cache
from halftone.serve.arguments.checkpoint_facts import CheckpointFacts, read_facts
from halftone.serve.arguments.device import DeviceFacts
from halftone.serve.served_model import ServedModel
from halftone.spec.errors import CheckFailed
from halftone.spec.names import Reason
from halftone.spec.serving import Accelerator, Endpoint
from halftone.validate.gates.kernels import unexpected_kernel

# vLLM mixes this class into its workers, where it answers the questions below.
EXTENSION: Final = "halftone.validate.serving.inside.Inside"
# Asks all workers for a method by its name: `collective_rpc` of vLLM's `AsyncLLM`, or of Ray's
# server around it.
AskWorkers = Callable[[str], Awaitable[list[Any]]]


@dataclass(frozen=True)
class LoadedFacts:
    """What all workers answered; `halftone.validate.gates.kernels.LoadedEngine` describes most.

    `cache_scales` are (layer, scale of keys, scale of values) of each layer with an FP8 cache.
    """

    engine: str
    device: str
    capability: str | None
    emulated: bool
    kernels: tuple[str, ...]
    cache_scales: tuple[tuple[str, float, float], ...]


async def check(
    workers: AskWorkers, endpoint: Endpoint, model: ServedModel, device: DeviceFacts
) -> LoadedFacts:
    """Ask and judge; what the engine said. Raises CheckFailed(EngineFailed) with a sentence."""
    loaded = await ask(workers, device)
    facts = await asyncio.to_thread(read_facts, model)
    require_expected(loaded, facts, fp8_cache=asks_for_fp8_cache(endpoint, facts))
    return loaded


async def ask(workers: AskWorkers, device: DeviceFacts) -> LoadedFacts:
    """Ask every worker of the loaded engine; `worker_extension_cls` must have been EXTENSION."""
    kernels = await workers("halftone_kernels")
    scales = await workers("halftone_cache_scales")
    rows = [(row["layer"], row["key"], row["value"]) for rank in scales for row in rank]
    return LoadedFacts(
        engine=device.engine,
        device=device.name,
        capability=device.capability,
        emulated=device.accelerator is Accelerator.CPU,
        kernels=tuple(sorted({name for rank in kernels for name in rank})),
        cache_scales=tuple(dict.fromkeys(rows)),
    )


def require_expected(loaded: LoadedFacts, model: CheckpointFacts, *, fp8_cache: bool) -> None:
    """Raise CheckFailed(EngineFailed) for the first thing that is not as it should be.

    `fp8_cache`: the endpoint or the checkpoint asks for a cache in FP8.
    """
    found = _strange_kernel(loaded, model) or _strange_cache(loaded, model, fp8_cache)
    if found is not None:
        raise CheckFailed(Reason.EngineFailed, found.culprit or model.name, found.message)


class _Complaint(NamedTuple):
    message: str
    culprit: str | None = None


def _strange_kernel(loaded: LoadedFacts, model: CheckpointFacts) -> _Complaint | None:
    formats = sorted(str(fmt) for fmt in model.formats)
    if not loaded.emulated:
        wrong = unexpected_kernel(loaded, formats)
        return None if wrong is None else _Complaint(wrong.message, wrong.kernel)
    if loaded.kernels or not formats:
        return None
    return _Complaint(
        f"{loaded.engine} serves {', '.join(formats)} on a CPU without Halftone's kernels, so it "
        "does not compute as a GPU would; install Halftone where vLLM is, so that its plugin is "
        "found."
    )


def _strange_cache(
    loaded: LoadedFacts, model: CheckpointFacts, fp8_cache: bool
) -> _Complaint | None:
    if not fp8_cache:
        return None
    if not loaded.cache_scales:
        return _Complaint(
            f"The KV cache of `{model.name}` should be FP8, but vLLM keeps no layer's cache so; "
            "look in its log for the cache that it chose."
        )
    unscaled = [layer for layer, key, value in loaded.cache_scales if key == value == 1]
    if not (model.measured_cache and unscaled):
        return None
    return _Complaint(
        f"The KV cache of `{model.name}` has measured scales, but vLLM uses 1.0 for "
        f"{len(unscaled)} of {len(loaded.cache_scales)} layers, first `{unscaled[0]}`; see which "
        "tensors the log says were not loaded.",
        unscaled[0],
    )
