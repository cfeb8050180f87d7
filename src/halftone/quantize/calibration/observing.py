"""What enters the quantized modules, and keys and values as they enter the cache.

`measuring` and a sweep say what to watch, `running` takes what was seen. llm-compressor's observer
does the measuring, its hooks of the KV cache show keys and values after normalisation and rotary
embedding. Nothing is quantized here, as in `oneshot`'s sequential pipeline.
"""

import weakref
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import torch
from compressed_tensors.modeling.kvcache import (
    initialize_hooked_kv_cache,
    register_key_hook,
    register_value_hook,
)
from compressed_tensors.quantization import QuantizationArgs
from llmcompressor.modeling.moe.linear_experts import LinearExperts2D
from llmcompressor.observers import Observer

from halftone.quantize.calibration.measured import Measured, Seen

# So many tensors are known, alive or not, before those that are gone are forgotten.
_REMEMBERED: Final = 1024


class Watched(NamedTuple):
    """Names on disk, and where they are in the model.

    `experts` are the parents of routed experts, `caches` attention modules that have a cache.
    """

    inputs: Mapping[str, str]
    experts: Mapping[str, str]
    caches: Mapping[str, str]


class Watch:
    """Hooks on a model; what they find is taken layer by layer."""

    def __init__(self, module: Any, watched: Watched) -> None:
        self.watching = False
        self._largest = _Largest()
        self._inputs: dict[str, _Record] = {}
        self._caches: dict[str, list[Any]] = {}
        self._routed: dict[str, list[Any]] = {}
        for name, place in watched.inputs.items():
            module.get_submodule(place).register_forward_pre_hook(self._input_hook(name))
        for name, place in watched.experts.items():
            experts = module.get_submodule(place)
            experts.register_forward_pre_hook(
                self._routing_hook(name, experts.num_experts), with_kwargs=True
            )
        for name, place in watched.caches.items():
            attention = module.get_submodule(place)
            initialize_hooked_kv_cache(module, attention)
            register_key_hook(attention, self._cache_hook(name, 0, "k"))
            register_value_hook(attention, self._cache_hook(name, 1, "v"))

    def take(self) -> Measured:
        """What was seen since the last call."""
        inputs = {
            name: Seen(record.amax.item(), record.tokens, record.samples)
            for name, record in self._inputs.items()
        }
        caches = {
            name: (float(both[0].item()), float(both[1].item()))
            for name, both in self._caches.items()
        }
        routed = {
            name: tuple(zip(both[0].tolist(), both[1].tolist(), strict=True))
            for name, both in self._routed.items()
        }
        self._inputs, self._caches, self._routed = {}, {}, {}
        return Measured(inputs, caches, routed)

    def _input_hook(self, name: str) -> Any:
        def see(_: Any, arguments: tuple[Any, ...]) -> None:
            value = arguments[0]
            if not self.watching or value.numel() == 0:
                return
            amax = self._largest.of(value, "input")
            record = self._inputs.get(name)
            if record is None:
                record = self._inputs[name] = _Record(amax)
            record.amax = torch.maximum(record.amax, amax)
            record.tokens += value.numel() // value.shape[-1]
            record.samples += 1

        return see

    def _cache_hook(self, name: str, place: int, kind: str) -> Any:
        def see(_: Any, value: Any) -> None:
            if not self.watching:
                return
            amax = self._largest.of(value, kind)
            both = self._caches.setdefault(name, [amax.new_zeros(()), amax.new_zeros(())])
            both[place] = torch.maximum(both[place], amax)

        return see

    def _routing_hook(self, name: str, experts: int) -> Any:
        def see(_: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            if not self.watching:
                return
            chosen = keywords["top_k_index"] if "top_k_index" in keywords else arguments[1]
            tokens = torch.bincount(chosen.flatten(), minlength=experts)
            both = self._routed.setdefault(name, [tokens.new_zeros(experts)] * 2)
            self._routed[name] = [both[0] + tokens, both[1] + (tokens > 0).long()]

        return see


def expert_parent(module: Any, place: str) -> str | None:
    """The module that holds the expert in which `place` lies; None where it lies in none."""
    parent = place.rpartition(".")[0].rpartition(".")[0]
    return parent if isinstance(module.get_submodule(parent), LinearExperts2D) else None


class _Record:
    """What one module saw in a layer."""

    def __init__(self, amax: Any) -> None:
        self.amax = amax
        self.tokens = 0
        self.samples = 0


class _Largest:
    """The largest magnitude of a tensor by llm-compressor's observer, once for all that share it.

    Members of a merged matrix, and all experts of a layer, have one and the same input.
    """

    def __init__(self) -> None:
        args = QuantizationArgs(num_bits=8, type="float", strategy="tensor", symmetric=True)
        self._observers = {
            kind: Observer.load_from_registry("memoryless_minmax", base_name=kind, args=args)
            for kind in ("input", "k", "v")
        }
        self._by_id: dict[int, tuple[Any, int, Any]] = {}

    def of(self, value: Any, kind: str) -> Any:
        """A float32 scalar on `value`'s device; NaN where any element is."""
        known = self._by_id.get(id(value))
        if known is not None and known[0]() is value and known[1] == value._version:
            return known[2]
        found = self._observers[kind](value).get_statistics()
        amax = torch.maximum(found["max_vals"].abs(), found["min_vals"].abs()).max().float()
        if len(self._by_id) >= _REMEMBERED:
            self._by_id = {k: known for k, known in self._by_id.items() if known[0]() is not None}
        # No callback that forgets: an interrupt that comes in one is lost.
        self._by_id[id(value)] = (weakref.ref(value), value._version, amax)
        return amax
