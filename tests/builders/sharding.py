"""How a checkpoint's tensors are spread over files, the awkward ways included.

Called by `checkpoints.py` and `sparse.py`. Published checkpoints are cut by size alone, so a group
that a server fuses may lie in several files. It must not reorder tensors except where the mode
says that some lie apart.
"""

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Literal

# OneFile: model.safetensors, no index.
# BetweenLayers: three shards, cut between layers and before what follows the last one.
# AfterQProj: a cut right after each q_proj, so that k and v begin the next shard.
# InsideGroups: a cut right after the first member of the first group of each kind.
# AllQProjTogether: all q_proj in one shard, all k_proj and v_proj in another one two further on,
#   other tensors in each (as in the published 27B).
# PartnersAlone: one shard that holds k_proj and v_proj and nothing else.
# OneTensorAFile: as many files as tensors. A number: that many files, cut by count.
Sharding = (
    Literal[
        "OneFile", "BetweenLayers", "AfterQProj", "InsideGroups", "AllQProjTogether",
        "PartnersAlone", "OneTensorAFile",
    ]
    | int
)  # fmt: skip

_LAYER = re.compile(r"^model\.(?:language_model\.)?layers\.(\d+)\.")
_FIRST_MEMBERS = ("in_proj_qkv.weight", "q_proj.weight", "gate_proj.weight", "w1.weight")


def shards(names: list[str], how: Sharding) -> list[list[str]]:
    """The tensor names of each shard, in file order; none is empty."""
    if isinstance(how, int):
        return _cut(names, [len(names) * part // how for part in range(1, how)])
    return _MODES[how](names)


def shards_by_size(sizes: Mapping[str, int], shard_bytes: int) -> list[list[str]]:
    """Greedy and in order, as publishers cut: a shard ends before the tensor that overfills it."""
    out: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if out[-1] and filled + size > shard_bytes:
            out.append([])
            filled = 0
        out[-1].append(name)
        filled += size
    return out


def _cut(names: list[str], at: list[int]) -> list[list[str]]:
    edges = sorted({0, len(names), *at})
    return [names[start:end] for start, end in pairwise(edges)]


def _layer(name: str) -> int | None:
    found = _LAYER.match(name)
    return int(found[1]) if found else None


def _between_layers(names: list[str]) -> list[list[str]]:
    layers = [_layer(name) for name in names]
    number = 1 + max(layer for layer in layers if layer is not None)
    after = len(layers) - next(i for i, layer in enumerate(reversed(layers)) if layer is not None)
    return _cut(names, [layers.index(number // 2), after])


def _after_q_proj(names: list[str]) -> list[list[str]]:
    return _cut(names, [i + 1 for i, name in enumerate(names) if _is(name, "q_proj")])


def _inside_groups(names: list[str]) -> list[list[str]]:
    cuts = []
    for ending in _FIRST_MEMBERS:
        found = [i for i, name in enumerate(names) if _layer(name) is not None and ending in name]
        cuts += [found[0] + 1] if found else []
    return _cut(names, cuts)


def _all_q_proj_together(names: list[str]) -> list[list[str]]:
    queries = [name for name in names if _is(name, "q_proj")]
    partners = [name for name in names if _is(name, "k_proj", "v_proj")]
    rest = [name for name in names if name not in {*queries, *partners}]
    first, second, third, fourth = _cut(rest, [len(rest) * part // 4 for part in (1, 2, 3)])
    return [first, second + queries, third, fourth + partners]


def _partners_alone(names: list[str]) -> list[list[str]]:
    partners = [name for name in names if _is(name, "k_proj", "v_proj")]
    rest = [name for name in names if name not in set(partners)]
    first, second = _cut(rest, [len(rest) // 2])
    return [first, partners, second]


def _is(name: str, *modules: str) -> bool:
    """Whether `name` is the weight of one of `modules` in a layer of the trunk (not MTP)."""
    return _layer(name) is not None and name.endswith(tuple(f".{one}.weight" for one in modules))


_MODES: dict[str, Callable[[list[str]], list[list[str]]]] = {
    "OneFile": lambda names: [names],
    "BetweenLayers": _between_layers,
    "AfterQProj": _after_q_proj,
    "InsideGroups": _inside_groups,
    "AllQProjTogether": _all_q_proj_together,
    "PartnersAlone": _partners_alone,
    "OneTensorAFile": lambda names: [[name] for name in names],
}
