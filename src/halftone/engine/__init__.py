"""Our plugin of vLLM: on a CPU, quantized checkpoints are served with a GPU's arithmetic.

vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`). On a GPU it
does nothing. On a CPU it gives vLLM kernels for NVFP4 and FP8, dense and mixture of experts, that
decode the weights once and quantize activations and the FP8 KV cache as the GPU's kernels do, so
that gates measure the model that will be deployed. It is for gates and tests: memory is that of
the BF16 model, and nothing is fast.

`kernels_in_use` names the kernels that serve the model of this process. torch and vLLM are imported
in `register` and below, never when this module is.
"""

from halftone.engine.kernels import kernels_in_use, note_kernel

__all__ = ["kernels_in_use", "note_kernel", "register"]


def register() -> None:
    """Give this process's vLLM our kernels; nothing happens but on a CPU, or a second time.

    Raises UnsupportedVllm (a RuntimeError) when vLLM lacks a name that the kernels build on.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from halftone.engine import amx, vllm_names

    amx.switch()
    vllm_names.require()
    from halftone.engine import (
        experts_fp8,
        experts_nvfp4,
        fp8_merging,
        kv_cache,
        linear_fp8,
        linear_nvfp4,
    )

    for part in (fp8_merging, linear_nvfp4, linear_fp8, kv_cache, experts_nvfp4, experts_fp8):
        part.install()
