"""Checkpoints for tests, built by code: tiny ones with weights, full-size ones without data.

    from tests.builders import TINY, tiny_config, write_checkpoint

    source = write_checkpoint(tmp_path / "source", "qwen3_5_moe", experts="Fused")
    write_checkpoint(tmp_path / "b", tiny_config("qwen3", num_hidden_layers=3), sharding=200)
    write_sparse(tmp_path / "c", full_size_config("35B-A3B"), experts="PerExpert")
    fp8 = write_fp8(tmp_path / "d", "qwen3_5", scheme="Block")     # fp8.directory, fp8.dequantized
    set_value(source, "model.language_model.layers.3.self_attn.q_proj.weight", float("nan"))

Models (`TINY`) are named by `model_type`; the `_text` ones are text-only, with the prefix
`model.` in place of `model.language_model.`. A tensor's values depend on the seed and on what it
is, not on sharding, expert layout or prefix, so all layouts of a model must quantize alike.

`write_statistics` makes what a calibration would measure for a plan.

Whatever is here uses NumPy and the standard library, never the package under test: it is the
second implementation that tests hold the first one against.
"""

from . import sabotage
from .checkpoints import (
    make_tensors,
    without_multi_token_prediction,
    write_checkpoint,
    write_sparse,
    write_tensors,
)
from .companions import write_companions
from .damage import drop_tensors, fill, keep_only_a_pickle, set_value, truncate_shard
from .families import TINY, has_experts, tiny_config
from .files import (
    Tensor,
    as_float32,
    encode,
    read_checkpoint,
    read_file,
    read_header,
    shard_of,
    write_safetensors,
)
from .fp8_sources import Fp8Source, write_fp8
from .full_size import FULL_SIZE, full_size_config
from .low_bit_sources import write_low_bit
from .shapes import Config, component, component_counts, shapes
from .sharding import Sharding
from .statistics import write_statistics
from .weights import values

__all__ = [
    "FULL_SIZE",
    "TINY",
    "Config",
    "Fp8Source",
    "Sharding",
    "Tensor",
    "as_float32",
    "component",
    "component_counts",
    "drop_tensors",
    "encode",
    "fill",
    "full_size_config",
    "has_experts",
    "keep_only_a_pickle",
    "make_tensors",
    "read_checkpoint",
    "read_file",
    "read_header",
    "sabotage",
    "set_value",
    "shapes",
    "shard_of",
    "tiny_config",
    "truncate_shard",
    "values",
    "without_multi_token_prediction",
    "write_checkpoint",
    "write_companions",
    "write_fp8",
    "write_low_bit",
    "write_safetensors",
    "write_sparse",
    "write_statistics",
    "write_tensors",
]
