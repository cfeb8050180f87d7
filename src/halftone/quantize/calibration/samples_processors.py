"""The source's own tokenizer, loaded by transformers from the source's small files.

Called by `data`. No code of the source runs and nothing is fetched from a network.
"""

import tempfile
from pathlib import Path
from typing import Any, Final

from halftone.checkpoint.index import Checkpoint
from halftone.spec.names import CONFIG_FILE

_SUFFIXES: Final = (".json", ".jinja", ".model", ".txt")
_MAX_BYTES: Final = 256_000_000


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The tokenizer of `checkpoint`."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="halftone-tokenizer-") as folder:
        _copy(checkpoint, Path(folder))
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _copy(checkpoint: Checkpoint, folder: Path) -> None:
    source = checkpoint.source
    for entry in source.files():
        small = entry.path.endswith(_SUFFIXES) and entry.size_bytes <= _MAX_BYTES
        if entry.path == CONFIG_FILE or ("/" not in entry.path and small):
            (folder / entry.path).write_bytes(source.read_range(entry.path, 0, entry.size_bytes))
