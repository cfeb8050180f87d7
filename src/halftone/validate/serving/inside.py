"""What is asked inside vLLM's workers, one of which holds a GPU's share of the model.

vLLM mixes `Inside` into its worker class (`worker_extension_cls`) and our process calls its methods
by name (`collective_rpc`), so it is the same whether workers are processes or not. Nothing of ours
imports it.
"""

from typing import Any, Final

from halftone.validate.serving.fixed_ids import FixedIds

# Caches of these kinds grow with the text; of the others a request pins the same at any length.
_GROWING: Final = ("FullAttention", "MLAAttention", "SinkFullAttention")
_KERNELS: Final = ("vllm.model_executor.kernels.", "vllm.model_executor.layers.fused_moe.")


class Inside:
    """Methods that vLLM's worker gains; `self` is that worker."""

    model_runner: Any
    vllm_config: Any

    def halftone_cache(self) -> dict[str, Any]:
        """{blocks, groups} of the KV cache as vLLM divided it."""
        config = self.model_runner.kv_cache_config
        groups = [_group(group, self.vllm_config) for group in config.kv_cache_groups]
        return {"blocks": config.num_blocks, "groups": groups}

    def halftone_cache_scales(self) -> list[dict[str, Any]]:
        """{layer, key, value} of every layer whose cache is FP8, as vLLM will use them."""
        return [
            {
                "layer": str(getattr(module, "layer_name", "")),
                "key": float(module._k_scale_float),
                "value": float(module._v_scale_float),
            }
            for module in self.model_runner.get_model().modules()
            if hasattr(module, "_k_scale_float")
            and str(getattr(module, "kv_cache_dtype", "")).startswith("fp8")
        ]

    def halftone_kernels(self) -> list[str]:
        """Class names of the kernels that compute quantized layers, ours included."""
        names = set()
        for module in self.model_runner.get_model().modules():
            for holder in (getattr(module, "quant_method", None), getattr(module, "scheme", None)):
                names |= _kernel_names(holder)
        return sorted(names | set(_our_kernels()))

    def halftone_listen(self) -> None:
        """Answer requests that ask for fixed token ids, with the V1 model runner."""
        if not hasattr(self.model_runner, "halftone_fixed_ids"):
            self.model_runner.halftone_fixed_ids = FixedIds(self.model_runner)

    def halftone_take(self) -> dict[str, Any]:
        """The answers since the last call, by the request's number."""
        taken: dict[str, Any] = self.model_runner.halftone_fixed_ids.take()
        return taken


def _group(group: Any, vllm_config: Any) -> dict[str, Any]:
    spec = group.kv_cache_spec
    kind = type(spec).__name__
    pinned = 0
    if not kind.startswith(_GROWING):
        pinned = -(-spec.max_memory_usage_bytes(vllm_config) // spec.page_size_bytes)
    return {
        "kind": kind,
        "layers": len(group.layer_names),
        "blockTokens": spec.block_size,
        "blocksPerRequest": pinned,
    }


def _kernel_names(holder: Any) -> set[str]:
    """The kernels that a layer's quantization method keeps as attributes."""
    names = set()
    for value in vars(holder).values() if hasattr(holder, "__dict__") else ():
        kernel = getattr(value, "fused_experts", value)
        kind = type(kernel)
        if (
            kind.__module__.startswith(_KERNELS) and kind.__name__.endswith(("Kernel", "Experts"))
        ) or kind.__name__.endswith("Experts"):
            names.add(kind.__name__)
    return names


def _our_kernels() -> tuple[str, ...]:
    from halftone.engine.kernels import kernels_in_use

    return kernels_in_use()
