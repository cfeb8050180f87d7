"""The source's own tokenizer and image processor, loaded by transformers.

Called by `data`, in the environment that has transformers. Only the source's small files are
fetched, into a folder that is gone when this returns. No code of the source runs, and nothing else
is asked of a network.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from halftone.checkpoint.index import Checkpoint
from halftone.spec.errors import HalftoneError, RefusedInput
from halftone.spec.names import INDEX_FILE, Reason

_SUFFIXES: Final = (".json", ".jinja", ".model", ".txt", ".tiktoken")
# Vocabularies have up to some tens of megabytes.
_MAX_BYTES: Final = 256_000_000
_TEMPLATES: Final = "additional_chat_templates/"


@dataclass(frozen=True)
class Coders:
    """What turns rows into inputs: `processor` only for images.

    `template` is the chat template, several by name, or None; token ids are below `vocabulary`, and
    `image_id` is the one that stands for images.
    """

    tokenizer: Any
    processor: Any
    template: str | dict[str, str] | None
    vocabulary: int | None
    image_id: int | None


def load_coders(checkpoint: Checkpoint, *, images: bool) -> Coders:
    """The tokenizer of `checkpoint` and, with `images`, its processor.

    Raises RefusedInput(ModelNotRunnable) when transformers cannot load what is there.
    """
    from transformers import AutoProcessor, AutoTokenizer

    config = checkpoint.config
    with tempfile.TemporaryDirectory(prefix="halftone-tokenizer-") as name:
        folder = Path(name)
        _copy(checkpoint, folder)
        options = {"trust_remote_code": False, "local_files_only": True}
        with _loading("tokenizer", checkpoint, name):
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
        processor = None
        if images:
            with _loading("processor", checkpoint, name):
                processor = AutoProcessor.from_pretrained(name, **options)
                processor.image_processor  # noqa: B018  # a tokenizer alone has none
        template = tokenizer.chat_template or _old_template(folder)
    text_config = config.get("text_config") or config
    image_id = config.get("image_token_id", config.get("image_token_index"))
    return Coders(tokenizer, processor, template, text_config.get("vocab_size"), image_id)


def _copy(checkpoint: Checkpoint, folder: Path) -> None:
    """The files that describe tokenizer and processor, into `folder`."""
    source = checkpoint.source
    for entry in source.files():
        name = entry.path.removeprefix(_TEMPLATES)
        small = name.endswith(_SUFFIXES) and entry.size_bytes <= _MAX_BYTES
        if "/" in name or not small or name == INDEX_FILE:
            continue
        (folder / entry.path).parent.mkdir(exist_ok=True)
        (folder / entry.path).write_bytes(source.read_range(entry.path, 0, entry.size_bytes))


def _old_template(folder: Path) -> str | None:
    """The template where processors once kept it, and tokenizers do not look."""
    file = folder / "chat_template.json"
    if not file.exists():
        return None
    try:
        template = json.loads(file.read_bytes())["chat_template"]
    except (ValueError, KeyError, TypeError):
        return None
    return template if isinstance(template, str) else None


@contextmanager
def _loading(what: str, checkpoint: Checkpoint, folder: str) -> Iterator[None]:
    """Say of whatever transformers raises that `what` cannot be loaded."""
    try:
        yield
    except (HalftoneError, MemoryError):
        raise
    except Exception as error:  # each tokenizer has errors of its own
        lines = str(error).strip().splitlines() or [""]
        said = f"{type(error).__name__}: {lines[0][:300]}".replace(folder, checkpoint.source.uri)
        raise RefusedInput(
            Reason.ModelNotRunnable,
            what,
            f"transformers cannot load the {what} of `{checkpoint.source.uri}` ({said}); put in "
            "the files that the model was published with.",
        ) from error
