"""Rows and templates for one module of tests: what is accepted, and what is refused in which words.

Called by `tests/integration/test_calibration_data.py`, which prepares each of them in one process.
It must not know how a refusal comes about.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from tests.builders.datasets import chat_rows, text_rows

PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
TEXTS = text_rows(12) + chat_rows(8, seed=1)
BOTH = ["Text", "Image"]


class Refused(NamedTuple):
    """Rows, or the name of a file, that are refused; `calibration` has what is not the usual.

    FILE in `said` is the name of the file.
    """

    reason: str
    said: str
    rows: Any
    calibration: dict[str, Any] = {}  # noqa: RUF012  # nobody writes into it
    checkpoint: str = "qwen3_5"


# A conversation in strings, in parts and in nothing, and templates that all mean it.
SPOKEN = [
    {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": x} for x in ("one", "two")]},
            {"role": "assistant", "content": None, "calls": [{"name": "f"}]},
            {"role": "assistant", "content": "three"},
        ]
    }
]
SPOKEN_TEXT = "<system>be brief<user>one\ntwo<assistant><assistant>three"
_EACH = "{% for m in messages %}<{{ m.role }}>BODY{% endfor %}"
_PARTS = "{% for p in m['content'] if p.type == 'text' %}{{ NL }}{{ p['text'] }}{% endfor %}"
_LINES = _PARTS.replace("{{ NL }}", "{{ '' if loop.first else '\\n' }}")
_EITHER = "{% if m.content is string %}{{ m.content }}{% else %}" + _LINES + "{% endif %}"
_SILENT = "{% if m.content is string %}{{ m.content }}{% endif %}"
_FIRST = "{% if loop.first %}{{ m.content }}{% else %}" + _LINES + "{% endif %}"
TEMPLATES = {
    "strings": _EACH.replace("BODY", "{{ m['content'] | trim }}"),
    "strings that are added": _EACH.replace("BODY", "{{ m.content + '' }}"),
    "strings or nothing": _EACH.replace("BODY", _SILENT),
    "parts": _EACH.replace("BODY", _LINES),
    "parts or strings": _EACH.replace("BODY", _EITHER),
    "parts but in the first": _EACH.replace("BODY", _FIRST),
}
IMAGE: dict[str, Any] = {"modalities": ["Image"]}
SHOWN = chat_rows(1, images=["pictures/0.png"])[0]
REFUSED = {
    "beyond the context": Refused(
        "SequenceTooLong", "`max_position_embeddings` of `config.json` is 2048", TEXTS,
        {"maxSequenceLength": 2049},
    ),
    "images for a text-only model": Refused(
        "ModalityNotSupported", "has no `vision_config`", [SHOWN], IMAGE, "llama"
    ),
    "images without a processor": Refused(
        "ModalityNotSupported", "neither `preprocessor_config.json` nor", [SHOWN], IMAGE, "blind"
    ),
    "too few": Refused(
        "TooFewSamples", "asks for 20 rows without `images`, and", TEXTS[:19], {"samples": 20}
    ),
    "no images": Refused("DatasetUnusable", "no usable row with `images`", TEXTS, IMAGE),
    "no text": Refused("DatasetUnusable", "no usable row without `images`", [{"text": ""}, SHOWN]),
    "all too long": Refused(
        "SequenceTooLong", "(1 are longer than `maxSequenceLength` 12)", [SHOWN],
        IMAGE | {"maxSequenceLength": 12},
    ),
    "fewer places than images": Refused(
        "DatasetUnusable", "line 1 of `FILE` has 2 `images` and 1 places for them",
        [SHOWN | {"images": ["pictures/0.png"] * 2}], IMAGE,
    ),
    "no place in text": Refused(
        "DatasetUnusable", "has 1 `images` and 0 places", [{"text": "a", "images": [SHOWN]}], IMAGE
    ),
    "a place without an image": Refused(
        "DatasetUnusable", "has a place for an image and no `images`", [{"text": PICTURE}]
    ),
    "a part without an image": Refused(
        "DatasetUnusable", "has a place for an image and no `images`",
        [{"messages": SHOWN["messages"]}], {}, "llama",
    ),
    "a missing image": Refused(
        "DatasetUnusable", "`images[0]` of line 1 of `FILE` cannot be used",
        [SHOWN | {"images": ["pictures/none.png"]}], IMAGE,
    ),
    "a broken image": Refused(
        "DatasetUnusable", "`images[0]` of line 1 of `FILE` does not open",
        [SHOWN | {"images": ["pictures/broken.png"]}], IMAGE,
    ),
    "an image outside": Refused(
        "DatasetUnusable", "is no path below the folder", [SHOWN | {"images": ["../x.png"]}], IMAGE
    ),
    "a strip that the processor cannot resize": Refused(
        "DatasetUnusable", "The source's processor does not take line 1 of `FILE` (ValueErr",
        [SHOWN | {"images": ["pictures/strip.png"]}], IMAGE,
    ),
    "no chat template": Refused(
        "DatasetUnusable", "`messages`, and the source has no chat template", TEXTS[12:], {}, "mute"
    ),
    "a template that objects": Refused(
        "DatasetUnusable", "(TemplateError: roles must alternate)", TEXTS[12:], {}, "strict"
    ),
    "a template that takes no images": Refused(
        "DatasetUnusable", "leaves no place for `images` of line 1 of `FILE`; write the row with "
        "`text` that holds `<|image_pad|>`", [SHOWN], IMAGE, "flat",
    ),
    "no tokenizer": Refused(
        "ModelNotRunnable", "transformers cannot load the tokenizer of", TEXTS, {}, "bare"
    ),
    "a larger vocabulary than the model's": Refused(
        "ModelNotRunnable", "and the model has 100", TEXTS, {}, "small"
    ),
    "no Parquet": Refused("DatasetUnusable", "is no Parquet file that can be", "garbage.parquet"),
    "Parquet without text": Refused(
        "DatasetUnusable", "The columns of `other.parquet` are `id`, `body`", "other.parquet"
    ),
    "Parquet with an empty row": Refused(
        "DatasetUnusable", "row 3 of `empty.parquet` has neither", "empty.parquet"
    ),
    "Parquet whose images are no list": Refused(
        "DatasetUnusable", "Column `images` of `single.parquet` holds", "single.parquet"
    ),
}  # fmt: skip
PARQUET: dict[str, list[dict[str, Any]]] = {
    "other.parquet": [{"id": 1, "body": "a"}],
    "empty.parquet": [{"text": "a"}, {"text": "b"}, {"text": None}],
    "single.parquet": [{"text": "a", "images": {"path": "a.png"}}],
}


def begin_every_text(tokenizer: Path, token: str) -> None:
    """Let a tokenizer put `token` first unless it is told not to, as Gemma's does."""
    place = {"SpecialToken": {"id": token, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    described = json.loads(tokenizer.read_text())
    described["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [place, text],
        "pair": [place, text, text],
        "special_tokens": {token: {"id": token, "ids": [0], "tokens": [token]}},
    }
    tokenizer.write_text(json.dumps(described))
