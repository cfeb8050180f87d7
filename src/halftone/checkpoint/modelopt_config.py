"""ModelOpt's words for what is quantized: `hf_quant_config.json`, and its copy in `config.json`.

The content is what nvidia-modelopt 0.47's own export writes for the same formats, but for the
producer: `tests/integration/test_equal_to_modelopt.py` holds them against each other. One format
is told by what it leaves out, several by every module that they take in. Called by the engine and
by the conversion; vLLM's reading of it is in `serving_modelopt`.
"""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from halftone import __version__
from halftone.checkpoint.architectures.table import Architecture
from halftone.checkpoint.serving_config import experts_of, merged_parts
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import NVFP4_GROUP, Format
from halftone.spec.names import Reason
from halftone.spec.roles import Role

# ModelOpt itself spells the last one so; readers do not mind.
ALGORITHMS: Final[dict[Format, str]] = {
    Format.NVFP4: "NVFP4",
    Format.NVFP4A16: "W4A16_NVFP4",
    Format.FP8: "FP8",
    Format.FP8_DYNAMIC: "FP8_PER_CHANNEL_PER_TOKEN",
    Format.FP8_BLOCK: "fp8_pb_wo",
}
_MIXED: Final = "MIXED_PRECISION"
_LAYER: Final = re.compile(r"\blayers\.(\d+)", re.ASCII)
_FP8_CACHE: Final = "FP8"
_EIGHT_BITS: Final[dict[str, Any]] = {"dynamic": False, "num_bits": 8, "type": "float"}
_FOUR_BITS: Final[dict[str, Any]] = {
    "dynamic": False,
    "num_bits": 4,
    "type": "float",
    "group_size": NVFP4_GROUP,
}
# What ModelOpt says of an algorithm in compressed-tensors' words. It has none for blocks.
_GROUPS: Final[dict[str, dict[str, Any]]] = {
    "NVFP4": {"input_activations": _FOUR_BITS, "weights": _FOUR_BITS},
    "W4A16_NVFP4": {"weights": _FOUR_BITS},
    "FP8": {"input_activations": _EIGHT_BITS, "weights": _EIGHT_BITS},
    "FP8_PER_CHANNEL_PER_TOKEN": {
        "input_activations": _EIGHT_BITS,
        "weights": _EIGHT_BITS | {"strategy": "channel"},
    },
}
# Of a whole model ModelOpt says it for these alone.
_TOLD_OF_WHOLE_MODELS: Final = frozenset({"NVFP4", "W4A16_NVFP4", "FP8"})


def modelopt_config(
    architecture: Architecture, formats: Mapping[str, Format | None], *, fp8_cache: bool
) -> dict[str, Any]:
    """The content of `hf_quant_config.json`.

    `formats` names every matrix on disk (its module, without `.weight`; experts one by one) with
    its format, or None where it is kept. `fp8_cache` asks servers for an FP8 KV cache. Raises
    RefusedInput(NotSupported) for experts of one layer in different formats.
    """
    quantized = _served(architecture, formats)
    told = list(dict.fromkeys(quantized.values()))
    cache = _FP8_CACHE if fp8_cache else None
    if len(told) == 1:
        said: dict[str, Any] = {"quant_algo": ALGORITHMS[told[0]], "kv_cache_quant_algo": cache}
        said |= _details(told[0])
        said["exclude_modules"] = excluded_modules(architecture, formats)
    else:
        said = {
            "quant_algo": _MIXED,
            "kv_cache_quant_algo": cache,
            "quantized_layers": {
                name: {"quant_algo": ALGORITHMS[fmt]} | _details(fmt)
                for name, fmt in quantized.items()
            },
        }
        if _keeps_experts(architecture, formats):
            # vLLM takes experts of which nothing is said for what is quantized beside them.
            said["exclude_modules"] = excluded_modules(architecture, formats)
    return {"producer": {"name": "halftone", "version": __version__}, "quantization": said}


def modelopt_block(document: Mapping[str, Any]) -> dict[str, Any]:
    """The `quantization_config` for `config.json` that says what `hf_quant_config.json` says."""
    said = document["quantization"]
    algorithm: str = said["quant_algo"]
    block: dict[str, Any] = {}
    if algorithm == _MIXED:
        block["config_groups"] = _mixed_groups(said["quantized_layers"])
        block["quantized_layers"] = said["quantized_layers"]
    elif algorithm in _TOLD_OF_WHOLE_MODELS:
        block["config_groups"] = {"group_0": _GROUPS[algorithm] | {"targets": ["Linear"]}}
    block["ignore"] = said.get("exclude_modules", [])
    block["quant_algo"] = algorithm
    if said["kv_cache_quant_algo"] == _FP8_CACHE:
        block["kv_cache_scheme"] = _EIGHT_BITS
    return block | {"producer": document["producer"], "quant_method": "modelopt"}


def excluded_modules(architecture: Architecture, formats: Mapping[str, Format | None]) -> list[str]:
    """Wildcards for all that is kept: as short as no quantized module lies under them.

    `prefix*` where no quantized name begins so, else `prefix.*`, else the name itself. The head is
    listed although a tied one is not on disk, and so are the parts that a server would merge with
    what is: it asks about all of them.
    """
    quantized = sorted(name for name, fmt in formats.items() if fmt is not None)
    kept = [name for name, fmt in formats.items() if fmt is None]
    if not any(name.rpartition(".")[2] == "lm_head" for name in formats):
        kept.append("lm_head")
    kept += _absent_parts(architecture, formats)
    return sorted({_wildcard(name, quantized) for name in kept})


def _served(architecture: Architecture, formats: Mapping[str, Format | None]) -> dict[str, Format]:
    """Quantized modules as a server builds them, in its order: the experts of a layer are one."""
    served: dict[str, Format] = {}
    for name in sorted(formats, key=_order(architecture)):
        fmt = formats[name]
        if fmt is None:
            continue
        row = architecture.place(f"{name}.weight").row
        routed = row is not None and row.role is Role.Experts
        module = experts_of(name, stacked=False) if routed else name
        if served.setdefault(module, fmt) is not fmt:
            raise RefusedInput(
                Reason.NotSupported,
                name,
                f"`{name}` is {fmt} and other experts of `{module}` are {served[module]}; a "
                "server loads the experts of a layer in one format.",
            )
    return served


def _keeps_experts(architecture: Architecture, formats: Mapping[str, Format | None]) -> bool:
    for name, fmt in formats.items():
        row = architecture.place(name).row or architecture.place(f"{name}.weight").row
        if fmt is None and row is not None and row.role is Role.Experts:
            return True
    return False


def _order(architecture: Architecture) -> Callable[[str], tuple[int, int, str]]:
    """Layer by layer as the architecture's table goes, whatever order they lie in on disk."""
    positions = {row.path: position for position, row in enumerate(architecture.rows)}

    def key(name: str) -> tuple[int, int, str]:
        row = architecture.place(f"{name}.weight").row
        layer = _LAYER.search(name)
        position = len(positions) if row is None else positions[row.path]
        return (int(layer[1]) if layer else -1, position, name)

    return key


def _details(fmt: Format) -> dict[str, int]:
    return {"group_size": NVFP4_GROUP} if fmt in {Format.NVFP4, Format.NVFP4A16} else {}


def _mixed_groups(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One group for each algorithm, in the order in which they first come."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for name, what in layers.items():
        names[what["quant_algo"]].append(name)
    return {
        f"group_{number}": _GROUPS.get(algorithm, {"quant_algo": algorithm})
        | {"targets": sorted(members)}
        for number, (algorithm, members) in enumerate(names.items())
    }


def _absent_parts(
    architecture: Architecture, formats: Mapping[str, Format | None]
) -> Iterator[str]:
    """Names that a server merges with kept ones and that are not on disk, such as a `v_proj`."""
    merged = merged_parts(architecture)
    groups: dict[str, None] = {}
    for name, fmt in formats.items():
        place = architecture.place(f"{name}.weight")
        if fmt is None and place.group is not None:
            groups[place.group] = None
    for group in groups:
        parent, _, fused = group.rpartition(".")
        names: Iterable[str] = (f"{parent}.{part}" for part in merged.get(fused, ()))
        yield from (name for name in names if name not in formats)


def _wildcard(name: str, quantized: Sequence[str]) -> str:
    for at, character in enumerate(name):
        if character == ".":
            if not _any_begins(quantized, name[:at]):
                return name[:at] + "*"
            if not _any_begins(quantized, name[: at + 1]):
                return name[: at + 1] + "*"
    return name


def _any_begins(names: Sequence[str], prefix: str) -> bool:
    """Whether any of `names`, which are sorted, begins with `prefix`."""
    at = bisect_left(names, prefix)
    return at < len(names) and names[at].startswith(prefix)
