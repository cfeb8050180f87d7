"""The source's own tokenizer and image processor, loaded by transformers.

Called by `preparing`, in the environment that has transformers. Only the source's small files are
fetched, into a folder that is gone when this returns. No code of the source runs, and nothing else
is asked of a network.
"""

import hashlib
import json
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from halftone.checkpoint.architectures import text_config
from halftone.checkpoint.index import Checkpoint
from halftone.quantize.calibration.dataset.scratch import storing
from halftone.spec.errors import HalftoneError, RefusedInput
from halftone.spec.files import FileEntry
from halftone.spec.names import CONFIG_FILE, Reason
from halftone.spec.presentation import printable

# What turns rows into inputs, by the names that transformers looks for; SentencePiece's and
# tiktoken's may have any. Nothing else reaches the loaders but `config.json`, which the plan pins.
_BEGINNINGS: Final = (
    *("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "chat_template"),
    "tekken",  # Mistral's
)
_ENDINGS: Final = ("processor_config.json", ".model", ".tiktoken", ".jinja")
_SUFFIXES: Final = (".json", ".jinja", ".model", ".txt", ".tiktoken")
# Vocabularies have up to some tens of megabytes.
_MAX_BYTES: Final = 256_000_000
_TEMPLATES: Final = "additional_chat_templates/"


@dataclass(frozen=True)
class Coders:
    """What turns rows into inputs: `processor` only for images.

    `template` is the chat template, several by name, or None; token ids are below `vocabulary`, and
    `image_id` is the one that stands for images. `sha256` is over the files of the source that all
    of this came from: of each, in the order of their names, the name, a zero byte, its size as an
    int64 with the least byte first, and its bytes.
    """

    tokenizer: Any
    processor: Any
    template: str | dict[str, str] | None
    vocabulary: int | None
    image_id: int | None
    sha256: str


def load_coders(checkpoint: Checkpoint, scratch: Path, *, images: bool) -> Coders:
    """The tokenizer of `checkpoint` and, with `images`, its processor.

    Their files lie in `scratch` for a moment. Raises RefusedInput(ModelNotRunnable) when
    transformers cannot load what is there, EnvironmentFault when `scratch` cannot be written.
    """
    from transformers import AutoProcessor, AutoTokenizer

    config = checkpoint.config
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        sha256 = _copied(checkpoint, folder)
        options = {"trust_remote_code": False, "local_files_only": True}
        with _loading("tokenizer", checkpoint, name):
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
        processor = None
        if images:
            with _loading("processor", checkpoint, name):
                processor = AutoProcessor.from_pretrained(name, **options)
                processor.image_processor  # noqa: B018  # a tokenizer alone has none
        template = tokenizer.chat_template or _old_template(folder)
    vocabulary = text_config(config).get("vocab_size")
    image_id = config.get("image_token_id", config.get("image_token_index"))
    return Coders(tokenizer, processor, template, vocabulary, image_id, sha256)


def _copied(checkpoint: Checkpoint, folder: Path) -> str:
    """Copy the files that describe tokenizer and processor into `folder`; their digest."""
    digest = hashlib.sha256()
    for entry in checkpoint.source.files():  # sorted by path
        if entry.path != CONFIG_FILE and not _is_coder(entry):
            continue
        body = checkpoint.source.read_range(entry.path, 0, entry.size_bytes)
        with storing(folder.parent):
            (folder / entry.path).parent.mkdir(exist_ok=True)
            (folder / entry.path).write_bytes(body)
        if entry.path != CONFIG_FILE:
            digest.update(entry.path.encode() + b"\0" + struct.pack("<q", len(body)) + body)
    return digest.hexdigest()


def _is_coder(entry: FileEntry) -> bool:
    name = entry.path.removeprefix(_TEMPLATES)
    known = name.startswith(_BEGINNINGS) or name.endswith(_ENDINGS)
    readable = name.endswith(_SUFFIXES) and entry.size_bytes <= _MAX_BYTES
    return known and readable and "/" not in name


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
        shown = printable(lines[0][:300]).replace(folder, checkpoint.source.uri)
        said = f"{type(error).__name__}: {shown}"
        raise RefusedInput(
            Reason.ModelNotRunnable,
            what,
            f"transformers cannot load the {what} of `{checkpoint.source.uri}` ({said}); put in "
            "the files that the model was published with.",
        ) from error
