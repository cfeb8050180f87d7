"""The FP8 KV cache on a CPU: keys, values and queries hold what a GPU would have made of them.

vLLM's attention for CPUs has an FP8 cache only where the processor has AVX-512 or AMX, and leaves
queries as they are. Attention on data-centre Hopper and Blackwell GPUs (FlashAttention 3,
FlashInfer's TRT-LLM kernels) multiplies FP8 queries by FP8 keys. So here the cache keeps the
model's dtype, the same on every host, and what goes in is quantized with the scales of the
checkpoint first. Softmax stays in floating point, and a cache takes twice the bytes that it will
take on the GPU; blocks are counted accordingly.

vLLM still believes in `fp8` and loads the scales. It warns of "scaling factor 1.0" for ModelOpt's
checkpoints only and takes 1.0 silently for those of compressed-tensors, so the same warning comes
from here for any. Caches of other kinds (`fp8_e5m2`, `nvfp4`, scales of tokens) are left to vLLM.
"""

from typing import Any, Final

import torch
import vllm.utils.torch_utils as dtypes
import vllm.v1.attention.backends.cpu_attn as attention
from vllm.logger import init_logger

from halftone.engine.activations import fp8_per_tensor, fp8_stored
from halftone.engine.kernels import note_kernel
from halftone.engine.rebinding import Function, rebind

_OURS: Final = ("fp8", "fp8_e4m3")
_PLAIN: Final = "auto"

_log = init_logger("vllm.halftone.kv_cache")  # below `vllm`, where its log is configured


class HalftoneCpuFp8KvCache(attention.CPUAttentionBackendImpl):  # type: ignore[misc]
    """vLLM's attention for CPUs, with a cache that holds FP8 values where the layer's is FP8."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        alibi_slopes: list[float] | None,
        sliding_window: int | None,
        kv_cache_dtype: str,
        *rest: Any,
        **named: Any,
    ) -> None:
        self.stores_fp8 = kv_cache_dtype in _OURS
        self.has_warned = False
        shown = _PLAIN if self.stores_fp8 else kv_cache_dtype
        window = sliding_window
        super().__init__(
            num_heads, head_size, scale, num_kv_heads, alibi_slopes, window, shown, *rest, **named
        )
        if self.stores_fp8:
            note_kernel(type(self).__name__)

    def forward(self, layer: Any, query: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        """As vLLM's, with queries in FP8 under the layer's query scale."""
        if self.stores_fp8:
            query = fp8_per_tensor(query, _for_heads(layer._q_scale, self.num_heads))
        answer: torch.Tensor = super().forward(layer, query, *rest, **named)
        return answer

    def do_kv_cache_update(
        self, layer: Any, key: torch.Tensor, value: torch.Tensor, *rest: Any, **named: Any
    ) -> None:
        """As vLLM's, with keys and values in FP8 under the layer's scales."""
        if self.stores_fp8:
            self._warn_of_one(layer)
            key = fp8_stored(key, _for_heads(layer._k_scale, self.num_kv_heads))
            value = fp8_stored(value, _for_heads(layer._v_scale, self.num_kv_heads))
        super().do_kv_cache_update(layer, key, value, *rest, **named)

    def _warn_of_one(self, layer: Any) -> None:
        if self.has_warned or not layer._k_scale_float == layer._v_scale_float == 1:
            return
        self.has_warned = True
        _log.warning(
            "Using KV cache scaling factor 1.0 for fp8_e4m3 in %s. If this is unintended, verify "
            "that k/v_scale scaling factors are properly set in the checkpoint.",
            getattr(layer, "layer_name", "an attention layer"),
        )


class _MetadataBuilder(attention.CPUAttentionMetadataBuilder):  # type: ignore[misc]
    """Schedules attention over a cache of the model's dtype."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.kv_cache_dtype: str = _shown(self.vllm_config.cache_config.cache_dtype)


def install() -> None:
    """Let CPU attention keep FP8 caches in the model's dtype, wherever vLLM asks for their size."""
    backend = attention.CPUAttentionBackend
    backend.get_impl_cls = staticmethod(lambda: HalftoneCpuFp8KvCache)
    backend.get_builder_cls = staticmethod(lambda: _MetadataBuilder)
    rebind(attention, "_get_attn_isa", _without_fp8(attention._get_attn_isa))
    to_dtype = dtypes.kv_cache_dtype_str_to_dtype
    rebind(dtypes, "kv_cache_dtype_str_to_dtype", _models_dtype(to_dtype))
    for name in _OURS:  # hybrid models: pages of attention are made as large as those of states
        dtypes.STR_DTYPE_TO_TORCH_DTYPE[name] = torch.bfloat16


def _for_heads(scale: torch.Tensor, heads: int) -> torch.Tensor:
    """One scale for all, or `[heads, 1]` where a checkpoint has one for some heads each."""
    if scale.numel() == 1:
        return scale.reshape(())
    return scale.reshape(-1, 1).repeat_interleave(heads // scale.numel(), dim=0)


def _shown(kv_cache_dtype: str) -> str:
    return _PLAIN if kv_cache_dtype in _OURS else kv_cache_dtype


def _without_fp8(original: Function) -> Function:
    def _get_attn_isa(
        dtype: torch.dtype,
        block_size: int,
        head_size: int | None = None,
        kv_cache_dtype: str | None = None,
    ) -> Any:
        return original(dtype, block_size, head_size, _shown(kv_cache_dtype or _PLAIN))

    return _get_attn_isa


def _models_dtype(original: Function) -> Function:
    def kv_cache_dtype_str_to_dtype(kv_cache_dtype: str, model_config: Any) -> Any:
        return original(_shown(kv_cache_dtype), model_config)

    return kv_cache_dtype_str_to_dtype
