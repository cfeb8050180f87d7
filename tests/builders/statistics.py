"""Statistics of a calibration made by hand, for a plan whose activations nobody measures.

    write_statistics(planned, tmp_path / "statistics")                 # numbers that differ
    write_statistics(planned, folder, amax=lambda module: 4.0)         # the ones you choose
    write_statistics(planned, folder, changed={"….down_proj.tokens": 0})

Called by tests of whatever comes after calibration. Reads a plan's fields and nothing else of the
package: names, arrays and digests are the tests' own idea of `halftone.spec.statistics`.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from .files import Tensor, write_safetensors

if TYPE_CHECKING:
    from halftone.plan.planning import Planned

Arrays = dict[str, NDArray[np.float32] | NDArray[np.int64]]
_MEASURED = {"NVFP4", "FP8"}


def any_amax(module: str) -> float:
    """A BF16 number between 0.5 and 32 that depends on the name alone."""
    drawn = crc32(module.encode())
    return float(2.0 ** (drawn % 6 - 1) * (1 + drawn // 6 % 128 / 128))


def write_statistics(
    planned: "Planned",
    folder: Path,
    *,
    amax: Callable[[str], float] = any_amax,
    changed: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """Both files for `planned` in `folder`, which is made; returns it.

    `amax` gives the largest magnitude for a module's name, and for `{attention}.k` and `.v`.
    `changed` replaces whole arrays, or removes those that are None; `fields` are the document's.
    """
    arrays = measured_arrays(planned, amax) | {
        name: np.atleast_1d(np.array(value, _dtype(name)))
        for name, value in (changed or {}).items()
        if value is not None
    }
    for name in [name for name, value in (changed or {}).items() if value is None]:
        del arrays[name]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "statistics.safetensors"
    write_safetensors(path, {name: _tensor(array) for name, array in sorted(arrays.items())})
    write_document(planned, folder, **fields)
    return folder


def write_document(planned: "Planned", folder: Path, **fields: Any) -> None:
    """`statistics.json` for the arrays that lie in `folder`, with the digest of its content.

    It states what the plan's `calibration` asks for, where there is one; `fields` say otherwise.
    """
    data = (folder / "statistics.safetensors").read_bytes()
    file = {
        "path": "statistics.safetensors",
        "sizeBytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    recipe = planned.plan.recipe
    asked = None if recipe is None else recipe.calibration
    samples = 8 if asked is None else asked.samples
    rows = {"modality": "Text", "uri": "file:///data.jsonl", "revision": None, "usable": samples}
    rows |= {"samples": samples, "truncated": 0, "tokens": 800, "images": 0}
    rows |= {"sha256": "0" * 64, "coders": "1" * 64}
    content: dict[str, Any] = {
        "apiVersion": "halftone.dev/v1alpha1",
        "kind": "Statistics",
        "planDigest": planned.plan.digest,
        "seed": 0 if asked is None else asked.seed,
        "maxSequenceLength": 2048 if asked is None else asked.maxSequenceLength,
        "unroutedExperts": "SeeAllTokens" if asked is None else asked.unroutedExperts,
        "data": [rows],
        "unrouted": [],
        "file": file,
    } | fields
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    content |= {"digest": digest, "halftoneVersion": "0", "versions": [["by", "hand"]]}
    (folder / "statistics.json").write_text(json.dumps(content))


def measured_arrays(planned: "Planned", amax: Callable[[str], float] = any_amax) -> Arrays:
    """What calibration would write for `planned`: experts of a layer lie in one array each."""
    arrays: Arrays = {}
    experts: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for tensor in planned.tensors:
        module = tensor.name.removesuffix(".weight")
        if tensor.format is None or tensor.format not in _MEASURED:
            continue
        if tensor.role == "Experts":
            parent, number, projection = module.rsplit(".", 2)
            experts[f"{parent}.{projection}"][int(number)] = amax(module)
        else:
            arrays |= _counted(module, [amax(module)])
    for name, found in experts.items():
        arrays |= _counted(name, [found[number] for number in range(len(found))])
    for attention in caches(planned):
        for half in "kv":
            largest = np.array([amax(f"{attention}.{half}")], np.float32)
            arrays[f"{attention}.{half}_amax"] = largest
    return arrays


def caches(planned: "Planned") -> list[str]:
    """Attention modules whose cache is measured."""
    recipe = planned.plan.recipe
    if recipe is None or recipe.kvCache is None or recipe.kvCache.scales != "Calibrated":
        return []
    return [
        tensor.name.removesuffix(".k_proj.weight")
        for tensor in planned.tensors
        if tensor.role == "Attention" and tensor.name.endswith(".k_proj.weight")
    ]


def _counted(name: str, largest: list[float]) -> Arrays:
    return {
        f"{name}.input_amax": np.array(largest, np.float32),
        f"{name}.tokens": np.full(len(largest), 800, np.int64),
        f"{name}.samples": np.full(len(largest), 8, np.int64),
    }


def _dtype(name: str) -> type[np.float32] | type[np.int64]:
    return np.float32 if name.endswith("amax") else np.int64


def _tensor(array: NDArray[np.float32] | NDArray[np.int64]) -> Tensor:
    dtype = "F32" if array.dtype == np.float32 else "I64"
    return Tensor(dtype, (len(array),), array.tobytes())
