"""Tiny checkpoints with weights, and full-size ones without.

Called by tests of every stage; `tests/builders/__init__.py` shows how. It must not know names or
shapes (`shapes.py`) nor formats (`files.py`): it puts the parts together.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path

from .companions import write_companions
from .families import tiny_config
from .files import WIDTHS, Tensor, encode, header, shard_names, write_index, write_safetensors
from .shapes import Config, ExpertLayout, Shapes, shapes
from .sharding import Sharding, shards, shards_by_size
from .weights import Weights, values


def make_tensors(
    config: Config,
    *,
    experts: ExpertLayout = "PerExpert",
    multi_token_prediction: bool = True,
    dtype: str = "BF16",
    weights: Weights = "Gaussian",
    seed: int = 0,
) -> dict[str, Tensor]:
    """The tensors of `config` with random weights, in module order."""
    layout = shapes(config, experts=experts, multi_token_prediction=multi_token_prediction)
    return {
        name: encode(values(name, shape, kind=weights, seed=seed), dtype)
        for name, shape in layout.items()
    }


def write_tensors(
    directory: Path,
    config: Config,
    tensors: Mapping[str, Tensor],
    *,
    sharding: Sharding = "BetweenLayers",
    dtype: str = "BF16",
    licence: str | None = "apache-2.0",
) -> Path:
    """Write given tensors as a checkpoint of `config`; `dtype` is what `config.json` states."""
    directory.mkdir(parents=True, exist_ok=True)
    write_companions(directory, config, dtype=dtype, licence=licence)
    spread = shards(list(tensors), sharding)
    for file, names in zip(shard_names(len(spread)), spread, strict=True):
        write_safetensors(directory / file, {name: tensors[name] for name in names})
    write_index(directory, spread, sum(len(one.data) for one in tensors.values()))
    return directory


def write_checkpoint(
    directory: Path,
    model: str | Config,
    *,
    experts: ExpertLayout = "PerExpert",
    sharding: Sharding = "BetweenLayers",
    multi_token_prediction: bool = True,
    dtype: str = "BF16",
    weights: Weights = "Gaussian",
    seed: int = 0,
    licence: str | None = "apache-2.0",
) -> Path:
    """Write a checkpoint with random weights into `directory` and return it.

    `model` is one of `TINY` or a configuration of the caller's. `multi_token_prediction=False`
    leaves out the tensors and, with them, their promise in `config.json`.
    """
    config = tiny_config(model) if isinstance(model, str) else model
    if not multi_token_prediction:
        config = without_multi_token_prediction(config)
    tensors = make_tensors(config, experts=experts, dtype=dtype, weights=weights, seed=seed)
    return write_tensors(
        directory, config, tensors, sharding=sharding, dtype=dtype, licence=licence
    )


def write_sparse(
    directory: Path,
    config: Config,
    *,
    experts: ExpertLayout = "PerExpert",
    multi_token_prediction: bool = True,
    layer_scalars: bool = True,
    shard_bytes: int = 5_000_000_000,
    sharding: Sharding | None = None,
    licence: str | None = "apache-2.0",
) -> Path:
    """Write BF16 shards with their real headers and sizes, and no data on disk (all zeros).

    Shards are cut by size in module order unless `sharding` says otherwise. `layer_scalars=False`
    leaves out Gemma's 48 one-element buffers, as published sizes do.
    """
    if not multi_token_prediction:
        config = without_multi_token_prediction(config)
    directory.mkdir(parents=True, exist_ok=True)
    write_companions(directory, config, licence=licence)
    layout = shapes(config, experts=experts, layer_scalars=layer_scalars)
    sizes = {name: prod(shape) * WIDTHS["BF16"] for name, shape in layout.items()}
    if sharding is None:
        spread = shards_by_size(sizes, shard_bytes)
    else:
        spread = shards(list(layout), sharding)
    for file, names in zip(shard_names(len(spread)), spread, strict=True):
        _write_hole(directory / file, {name: layout[name] for name in names})
    write_index(directory, spread, sum(sizes.values()))
    return directory


def without_multi_token_prediction(config: Config) -> Config:
    """`config` with its promise of a multi-token-prediction head removed."""
    if "text_config" in config:
        return config | {"text_config": without_multi_token_prediction(config["text_config"])}
    return {key: value for key, value in config.items() if not key.startswith("mtp_")}


def _write_hole(path: Path, layout: Shapes) -> None:
    head = header({name: ("BF16", shape) for name, shape in layout.items()})
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + sum(prod(shape) * WIDTHS["BF16"] for shape in layout.values()))
