"""Checkpoints for measurements: real shapes of a given size with Gaussian BF16 weights, and the
pocket model as it is served.
"""

import itertools
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

from tests.builders import Config, shapes, tiny_config, write_companions
from tests.builders.files import header, shard_names, write_index
from tests.builders.numbers import float32_to_bf16
from tests.endpoints import pocket_artifact

_HIDDEN = 5120  # the 27B's


def dense(directory: Path, layers: int = 3, shards: int = 3) -> Path:
    """A `qwen3` with the matrices of the 27B; three layers are 2.05 GB. Made once."""
    config = tiny_config(
        "qwen3",
        hidden_size=_HIDDEN,
        intermediate_size=17408,
        num_hidden_layers=layers,
        num_attention_heads=48,
        num_key_value_heads=8,
        head_dim=128,
    )
    return _written(directory, config, shapes(config), shards)


def stacked_experts(directory: Path, gigabytes: int) -> Path:
    """A `qwen3_5_moe` in one shard, its experts stacked in tensors of 1.07 GB."""
    config = tiny_config(
        "qwen3_5_moe",
        hidden_size=2048,
        moe_intermediate_size=512,
        num_experts=256,
        num_hidden_layers=max(1, round(gigabytes / 1.6)),
        full_attention_interval=1,
        layer_types=["full_attention"] * max(1, round(gigabytes / 1.6)),
    )
    layout = shapes(config, experts="Fused", multi_token_prediction=False)
    return _written(directory, config, layout, 1)


def llama_like(directory: Path) -> Path:
    """A `llama` of eight layers and 0.44 GB: enough arithmetic for a calibration to be timed."""
    config = tiny_config(
        "llama",
        hidden_size=1536,
        intermediate_size=4608,
        num_hidden_layers=8,
        num_attention_heads=12,
        num_key_value_heads=4,
        head_dim=128,
    )
    return _written(directory, config, shapes(config), 3)


def layers_of_experts(directory: Path) -> Path:
    """A `qwen3_moe` of five layers, each with 2.01 GB of experts, one by one, in ten shards."""
    config = tiny_config(
        "qwen3_moe",
        hidden_size=2048,
        moe_intermediate_size=640,
        num_experts=256,
        num_experts_per_tok=8,
        num_hidden_layers=5,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=128,
    )
    return _written(directory, config, shapes(config), 10)


def tensor_bytes(directory: Path) -> int:
    """Size of all shards."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def _written(
    directory: Path, config: Config, layout: Mapping[str, tuple[int, ...]], shards: int
) -> Path:
    if (directory / "config.json").exists():
        return directory
    directory.mkdir(parents=True)
    block = _gaussian(8_000_000)
    names = list(layout)
    cuts = [len(names) * part // shards for part in range(shards + 1)]
    spread = [names[a:b] for a, b in itertools.pairwise(cuts)]
    for file, inside in zip(shard_names(shards), spread, strict=True):
        with (directory / file).open("wb") as out:
            out.write(header({name: ("BF16", layout[name]) for name in inside}))
            for name in inside:
                left = prod(layout[name])
                while left > 0:
                    out.write(block[:left].tobytes())
                    left -= min(left, block.size)
    write_index(directory, spread, 2 * sum(prod(shape) for shape in layout.values()))
    write_companions(directory, config)  # last: its config.json says that all is there
    return directory


def _gaussian(count: int) -> "np.ndarray[tuple[int], np.dtype[np.uint16]]":
    """BF16 bits of normal numbers of scale 0.02."""
    values = np.random.default_rng(0).standard_normal(count, np.float32) * np.float32(0.02)
    return float32_to_bf16(values)


def served_pocket(scratch: Path) -> Path:
    """The artifact of the pocket model that endpoints serve; made when it is not there."""
    artifact = (scratch / "served-pocket" / "artifact").resolve()
    if not artifact.exists():
        pocket_artifact(artifact.parent)
    return artifact
