"""What the source already is: full precision, FP8 that can be read, or four bits, refused.

The tensors on disk decide, not what a configuration says of them, except where the configuration
names a method whose tensors look like others'.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.index import Checkpoint
from halftone.checkpoint.serving_config import quantization_block
from halftone.plan.tensors import ScaleKind, SourceScale
from halftone.spec.dtypes import Dtype
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import FP8_BLOCK_SIDE
from halftone.spec.names import Reason

# Companions that exist only beside weights of four bits or of integers.
_PACKED_SUFFIXES: Final = (
    ".weight_packed",
    ".weight_scale_2",
    ".weight_global_scale",
    ".qweight",
    ".qzeros",
    "_blocks",
)
_PACKED_METHODS: Final = {"awq", "gptq", "bitsandbytes", "mxfp4", "auto-round", "hqq", "quark"}
_CODES: Final = {Dtype.F4, Dtype.F6_E2M3, Dtype.F6_E3M2, Dtype.I8, Dtype.F8_E5M2, Dtype.F8_E8M0}
_SCALE_SUFFIXES: Final = ("_scale_inv", "_scale")
# Scales of activations and of a KV cache: they belong to the old encoding and go with it.
_STALE: Final = re.compile(r"\.(input_scale|[kvq]_scale|output_scale|input_global_scale)$")


def refuse_packed(checkpoint: Checkpoint) -> None:
    """Raise RefusedInput(SourceAlreadyQuantized) for four-bit and integer sources."""
    method = str((quantization_block(checkpoint.config) or {}).get("quant_method", "")).lower()
    if method in _PACKED_METHODS:
        _refuse("config.json", f"`config.json` says that the source is quantized with {method}")
    for name, entry in checkpoint.tensors.items():
        if name.endswith(_PACKED_SUFFIXES) or entry.dtype in _CODES:
            _refuse(name, f"the source is already quantized, as `{name}` ({entry.dtype}) shows")


def source_scales(checkpoint: Checkpoint) -> dict[str, SourceScale]:
    """For each FP8 weight of the source, the scale that dequantizes it.

    Raises RefusedInput(MalformedCheckpoint) for an FP8 tensor without a scale that fits.
    """
    block = _block_size(checkpoint.config)
    scales = {}
    for name, entry in checkpoint.tensors.items():
        if entry.dtype is Dtype.F8_E4M3:
            scales[name] = _scale_for(entry, checkpoint.tensors, block)
    return scales


def stale_tensors(checkpoint: Checkpoint) -> frozenset[str]:
    """Activation and KV scales of an FP8 source, which its dequantized weights do not need."""
    return frozenset(name for name in checkpoint.tensors if _STALE.search(name))


def _scale_for(
    entry: TensorEntry, tensors: Mapping[str, TensorEntry], block: tuple[int, int]
) -> SourceScale:
    for suffix in _SCALE_SUFFIXES:
        scale = tensors.get(entry.name + suffix)
        if scale is None:
            continue
        kind = _kind(entry, scale, block)
        if kind is not None and scale.dtype in {Dtype.BF16, Dtype.F16, Dtype.F32}:
            return SourceScale(kind, scale, block)
        raise RefusedInput(
            Reason.MalformedCheckpoint,
            scale.name,
            f"`{scale.name}` is {scale.dtype} {list(scale.shape)}, which does not scale "
            f"`{entry.name}` {list(entry.shape)} by tensor, channel or blocks of "
            f"{block[0]}x{block[1]}; give the full-precision repository.",
        )
    raise RefusedInput(
        Reason.MalformedCheckpoint,
        entry.name,
        f"`{entry.name}` is {entry.dtype} but has no `{entry.name}_scale` or "
        f"`{entry.name}_scale_inv`; give the full-precision repository.",
    )


def _kind(entry: TensorEntry, scale: TensorEntry, block: tuple[int, int]) -> ScaleKind | None:
    if len(entry.shape) != 2:
        return None
    rows, columns = entry.shape
    blocks = (-(-rows // block[0]), -(-columns // block[1]))
    if scale.name.endswith("_scale_inv") and scale.shape == blocks:
        return ScaleKind.Block
    if scale.shape in {(), (1,), (1, 1)}:
        return ScaleKind.Tensor
    if scale.shape in {(rows,), (rows, 1)}:
        return ScaleKind.Channel
    return ScaleKind.Block if scale.shape == blocks else None


def _block_size(config: Mapping[str, Any]) -> tuple[int, int]:
    size = (quantization_block(config) or {}).get("weight_block_size")
    if (
        isinstance(size, list)
        and len(size) == 2
        and all(isinstance(n, int) and n > 0 for n in size)
    ):
        return size[0], size[1]
    return FP8_BLOCK_SIDE, FP8_BLOCK_SIDE


def _refuse(subject: str, what: str) -> None:
    raise RefusedInput(
        Reason.SourceAlreadyQuantized,
        subject,
        f"{what[0].upper()}{what[1:]}; quantizing it again would only add error. Give the "
        "full-precision repository that it was made from.",
    )
