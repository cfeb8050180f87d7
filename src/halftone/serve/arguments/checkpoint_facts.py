"""What decides how a checkpoint can be served, read from its small files and headers.

`read_facts` is called by `engine_arguments` and `kernel_check` for a checkpoint that was verified.
What a plan promises is held against what lies there; no weight is read and nothing is judged.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from halftone.checkpoint.architectures import GENERIC, find, text_config
from halftone.checkpoint.index import read_checkpoint
from halftone.checkpoint.json_objects import parse_object, refuse
from halftone.checkpoint.serving_config import is_multimodal, quantization_block, read_rules
from halftone.checkpoint.serving_modes import PROCESSOR_FILES, has_towers
from halftone.checkpoint.serving_rules import WillNotLoad
from halftone.plan.splitting import Matrix
from halftone.serve.served_model import ServedModel
from halftone.spec.formats import CheckpointFormat, Format
from halftone.spec.job import MultiTokenPrediction
from halftone.spec.names import MODELOPT_CONFIG_FILE
from halftone.spec.roles import Role
from halftone.stores.directory import DirectorySource
from halftone.validate.cache_scales import asks_for_fp8_cache, cache_scales
from halftone.validate.inventory import CACHE_SCALES, Inventory, Module, take_inventory
from halftone.validate.loading import loading_defects, served_modules

_FORMATS: Final = {str(fmt): fmt for fmt in Format}
_PROMISES: Final = ("mtp_num_hidden_layers", "num_nextn_predict_layers")
_TEMPLATES: Final = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
# Kinds of rotary embedding that leave the context as long as `max_position_embeddings` says.
_UNSCALED: Final = frozenset({"default", "proportional", "mrope"})
_FAST_TOKENIZER: Final = "tokenizer.json"
_TOKENIZERS: Final = ("tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


@dataclass(frozen=True)
class CheckpointFacts:
    """A checkpoint as its server sees it.

    `head_layers` is how many prediction layers the configuration promises, `head` whether weights
    of one are there. `context` is None where the configuration scales it. `missing_cache_scale` is
    the first tensor that a measured FP8 cache lacks; None where none does, or nothing was measured.
    `vocabulary` is a digest of the map from tokens to ids, None where it was not asked for or is in
    no file that is known.
    """

    name: str
    config: dict[str, Any]
    family: str | None
    formats: frozenset[Format]
    layout: CheckpointFormat | None
    matrices: tuple[Matrix, ...]
    towers: bool
    tower_weights: bool
    hybrid: bool
    processor: bool
    chat_template: bool
    head: bool
    head_layers: int
    head_dropped: bool
    context: int | None
    layers: int | None
    sections: bool
    vocabulary_size: int | None
    vocabulary: str | None
    fp8_cache: bool
    measured_cache: bool
    missing_cache_scale: str | None

    @property
    def model_type(self) -> str:
        """The configuration's own word."""
        return str(self.config.get("model_type", ""))


def read_facts(model: ServedModel, *, vocabulary: bool = False) -> CheckpointFacts:
    """The facts of `model`; `vocabulary` also reads its tokenizer, which takes half a second.

    Raises RefusedInput(MalformedCheckpoint) for files that do not hold together.
    """
    with closing(DirectorySource(model.path)) as source:
        checkpoint = read_checkpoint(source)
    config = dict(model.config)
    architecture = find(config)
    inventory = take_inventory(checkpoint.tensors, architecture or GENERIC)
    _learn_schemes(inventory, config, model.path)
    roles = {module.place.role for module in inventory.modules.values()}
    text = text_config(config)
    measured = _measured_cache(model, inventory)
    return CheckpointFacts(
        name=model.uri,
        config=config,
        family=None if architecture is None else architecture.name,
        formats=frozenset(_FORMATS[m.format] for m in inventory.quantized if m.format in _FORMATS),
        layout=_layout(config),
        matrices=tuple(m for module in inventory.modules.values() if (m := _matrix(module))),
        towers=has_towers(config),
        tower_weights=not roles.isdisjoint({Role.Vision, Role.Audio}),
        hybrid=Role.LinearAttention in roles,
        processor=any((model.path / name).is_file() for name in PROCESSOR_FILES),
        chat_template=_has_chat_template(model.path),
        head=Role.MultiTokenPrediction in roles,
        head_layers=max(_number(text.get(name)) or 0 for name in _PROMISES),
        head_dropped=_head_dropped(model),
        context=_context(text),
        layers=_number(text.get("num_hidden_layers")),
        sections=_mentions(text, "mrope_section"),
        vocabulary_size=_number(text.get("vocab_size")),
        vocabulary=vocabulary_digest(model.path) if vocabulary else None,
        fp8_cache=asks_for_fp8_cache(config),
        measured_cache=measured,
        missing_cache_scale=_missing_cache_scale(inventory) if measured else None,
    )


def vocabulary_digest(directory: Path) -> str | None:
    """SHA-256 over what maps tokens to ids; other parts of a tokenizer may differ.

    Raises RefusedInput(MalformedCheckpoint).
    """
    fast = _object(directory, _FAST_TOKENIZER)
    if fast is not None:
        try:
            added = {t["content"]: t["id"] for t in fast.get("added_tokens") or ()}
            mapped = [fast.get("model", {}).get("vocab"), added]
        except (AttributeError, KeyError, TypeError) as error:
            refuse(
                _FAST_TOKENIZER, f"`{_FAST_TOKENIZER}` is of no tokenizer; fetch it again.", error
            )
        return hashlib.sha256(json.dumps(mapped, sort_keys=True).encode()).hexdigest()
    for name in _TOKENIZERS:
        if (directory / name).is_file():
            return hashlib.sha256((directory / name).read_bytes()).hexdigest()
    return None


def _learn_schemes(inventory: Inventory, config: Mapping[str, Any], directory: Path) -> None:
    """What the configuration says of activations, which the stored tensors leave open."""
    beside = _object(directory, MODELOPT_CONFIG_FILE)
    architecture = find(dict(config)) or GENERIC
    try:
        rules = read_rules(config, beside, is_multimodal(inventory.modules))
        rules.prepare(served_modules(inventory, architecture))
    except WillNotLoad:
        return  # the formats are those that the tensors suggest; vLLM will say what it refuses
    loading_defects(inventory, architecture, rules)


def _layout(config: Mapping[str, Any]) -> CheckpointFormat | None:
    block = quantization_block(config)
    if block is None:
        return None
    if str(block.get("quant_method", "")).startswith("modelopt"):
        return CheckpointFormat.ModelOpt
    return CheckpointFormat.CompressedTensors


def _matrix(module: Module) -> Matrix | None:
    """The weight of a row of the table; other tensors lie whole on every rank."""
    row, shape = module.place.row, module.shape
    if row is None or len(shape) != 2 or module.place.role is Role.MultiTokenPrediction:
        return None
    return Matrix(module.key, shape[0], shape[1], _FORMATS.get(module.format), row.split.value)


def _has_chat_template(directory: Path) -> bool:
    if any((directory / name).exists() for name in _TEMPLATES):
        return True
    told = _object(directory, "tokenizer_config.json")
    return told is not None and bool(told.get("chat_template"))


def _object(directory: Path, name: str) -> dict[str, Any] | None:
    """What a file of JSON holds; None without it. Raises RefusedInput(MalformedCheckpoint)."""
    file = directory / name
    return parse_object(file.read_bytes(), name) if file.is_file() else None


def _head_dropped(model: ServedModel) -> bool:
    recipe = None if model.plan is None else model.plan.recipe
    return recipe is not None and recipe.multiTokenPrediction is MultiTokenPrediction.Drop


def _context(text: Mapping[str, Any]) -> int | None:
    """Tokens of the model's own context; None where a rotary embedding stretches it."""
    for key in ("rope_parameters", "rope_scaling"):
        for kind in _values_of(text.get(key), ("rope_type", "type")):
            if not (isinstance(kind, str) and kind in _UNSCALED):
                return None
    return _number(text.get("max_position_embeddings"))


def _values_of(tree: Any, keys: tuple[str, ...]) -> list[Any]:
    """Values of `keys` anywhere in `tree`: some families have one embedding a kind of layer."""
    if not isinstance(tree, Mapping):
        return []
    found = [tree[key] for key in keys if key in tree]
    return found + [value for branch in tree.values() for value in _values_of(branch, keys)]


def _mentions(tree: Any, key: str) -> bool:
    return any(_values_of(tree, (key,)))


def _measured_cache(model: ServedModel, inventory: Inventory) -> bool:
    """Whether scales of keys and values were measured: the plan says so, or some are stored."""
    recipe = None if model.plan is None else model.plan.recipe
    return (recipe is not None and recipe.measures_cache) or bool(cache_scales(inventory).stored)


def _missing_cache_scale(inventory: Inventory) -> str | None:
    found = cache_scales(inventory)
    for layer in found.layers:
        for kind in CACHE_SCALES:
            if not found.stored.get(layer, {}).get(kind):
                return f"{layer}.{kind}"
    return None


def _number(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and value > 0 else None
