"""The scales of a measured KV cache as tensors: what each layout calls them and how it stores them.

Called by `halftone.plan.planning`, which lays them out, and by the engine, which fills them in.
vLLM reads both: compressed-tensors' names stand beside the projections of an attention module,
ModelOpt's below those of keys and values, also in a layer that has no projection of values.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from halftone.plan.layout import StoredPart
from halftone.spec.dtypes import Dtype
from halftone.spec.formats import CheckpointFormat

_NAMES: Final = {
    CheckpointFormat.CompressedTensors: ("{}.k_scale", "{}.v_scale"),
    CheckpointFormat.ModelOpt: ("{}.k_proj.k_scale", "{}.v_proj.v_scale"),
}
_STORED: Final[dict[CheckpointFormat, tuple[Dtype, tuple[int, ...]]]] = {
    CheckpointFormat.CompressedTensors: (Dtype.BF16, (1,)),
    CheckpointFormat.ModelOpt: (Dtype.F32, ()),
}


class KvScales(NamedTuple):
    """The two scales of one attention module, whose name on disk is `attention`."""

    attention: str
    keys: StoredPart
    values: StoredPart


def kv_scales(attention: Sequence[str], layout: CheckpointFormat) -> tuple[KvScales, ...]:
    """The scales of every module in `attention`, in that order."""
    dtype, shape = _STORED[layout]
    nbytes = dtype.nbytes(shape)
    return tuple(
        KvScales(
            module,
            *(StoredPart(name.format(module), dtype, shape, nbytes) for name in _NAMES[layout]),
        )
        for module in attention
    )
