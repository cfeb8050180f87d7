"""Whether both places in which ModelOpt's layout states a quantization say the same.

vLLM reads `config.json`, other servers `hf_quant_config.json`; a checkpoint whose two files differ
is two models. Called by the gate `structure`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from halftone.checkpoint.architectures.table import Architecture
from halftone.checkpoint.index import Checkpoint
from halftone.checkpoint.json_objects import parse_object
from halftone.checkpoint.serving_config import is_multimodal, read_rules
from halftone.checkpoint.serving_rules import Rules, Scheme, ServedModule, WillNotLoad
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import CheckpointFormat
from halftone.spec.job import KvCacheFormat, Recipe
from halftone.spec.names import CONFIG_FILE, MODELOPT_CONFIG_FILE, DefectKind
from halftone.validate.cache_scales import asks_for_fp8_cache
from halftone.validate.findings import Defect
from halftone.validate.inventory import take_inventory
from halftone.validate.loading import served_modules


def differing_configurations(
    recipe: Recipe | None, architecture: Architecture, checkpoint: Checkpoint
) -> Iterator[Defect]:
    """The cache, and the first module, for which the files differ.

    Nothing for compressed-tensors' one file.
    """
    if recipe is None or recipe.checkpointFormat is not CheckpointFormat.ModelOpt:
        return
    inventory = take_inventory(checkpoint.tensors, architecture)
    served = served_modules(inventory, architecture)
    multimodal = is_multimodal(inventory.modules)
    entry = next((e for e in checkpoint.other_files if e.path == MODELOPT_CONFIG_FILE), None)
    if entry is None:
        yield _defect(
            MODELOPT_CONFIG_FILE,
            f"'{MODELOPT_CONFIG_FILE}' is missing, which ModelOpt's servers read.",
        )
        return
    try:
        raw = checkpoint.source.read_range(entry.path, 0, entry.size_bytes)
        document = parse_object(raw, entry.path)
        other = read_rules({}, document, multimodal)
        rules = read_rules(checkpoint.config, None, multimodal)
        other.prepare(served)
        rules.prepare(served)
    except (RefusedInput, WillNotLoad) as error:
        yield _defect(entry.path, f"'{entry.path}' or `{CONFIG_FILE}` cannot be read: {error}.")
        return
    yield from _differing_caches(document, checkpoint.config)
    for module in served:
        says, beside = _answer(rules, module), _answer(other, module)
        if says != beside:
            yield _defect(
                entry.path,
                f"'{entry.path}' gives '{module.name}' {_told(beside)}, `{CONFIG_FILE}` "
                f"{_told(says)}; servers that read the one would serve another model.",
            )
            return


def _differing_caches(document: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Defect]:
    """What is asked of the KV cache: the one file has an algorithm for it, the other a scheme."""
    said = document.get("quantization")
    algorithm = said.get("kv_cache_quant_algo") if isinstance(said, Mapping) else None
    asked = KvCacheFormat.FP8 if asks_for_fp8_cache(config) else None
    if (algorithm or None) != asked:
        yield Defect(
            kind=DefectKind.UnexpectedLayout,
            tensor=f"{MODELOPT_CONFIG_FILE}:kv_cache_quant_algo",
            message=f"`kv_cache_quant_algo` of '{MODELOPT_CONFIG_FILE}' asks for a KV cache in "
            f"{algorithm or 'full precision'}, and `kv_cache_scheme` of `{CONFIG_FILE}` for one in "
            f"{asked or 'full precision'}; servers that read the one would serve another model.",
        )


def _answer(rules: Rules, module: ServedModule) -> Scheme | str | None:
    try:
        return rules.scheme_of(module)
    except WillNotLoad as reason:
        return str(reason)


def _told(answer: Scheme | str | None) -> str:
    if answer is None:
        return "full precision"
    return (
        answer if isinstance(answer, str) else f"{answer.weights}, activations {answer.activations}"
    )


def _defect(tensor: str, message: str) -> Defect:
    return Defect(kind=DefectKind.IgnoreListWillNotLoad, tensor=tensor, message=message)
