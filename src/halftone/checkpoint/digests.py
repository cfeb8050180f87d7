"""The SHA-256 of files, and of a checkpoint: for whoever writes, checks or publishes one."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from halftone.spec.documents import WrittenFile, canonical_json, sha256_hex
from halftone.spec.names import CONFIG_FILE, MODELOPT_CONFIG_FILE

_CHUNK: Final = 8 * 2**20
# What the checkpoint digest covers beside weights and configuration: tokenizer and licence.
_DIGESTED_PREFIXES: Final = (
    *("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "chat_template"),
    "tekken",  # Mistral's
)
# SentencePiece under any name (`spiece.model`), tiktoken, and templates.
_DIGESTED_SUFFIXES: Final = (".model", ".tiktoken", ".jinja")
_DIGESTED_LICENCES: Final = ("license", "licence", "copying", "notice")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in large pieces; raises OSError."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def checkpoint_digest(files: Iterable[WrittenFile]) -> str:
    """SHA-256 over the sorted (path, size, SHA-256) of weights, config, tokenizer and licence."""
    rows = [[f.path, f.sizeBytes, f.sha256] for f in files if is_digested(f.path)]
    return sha256_hex(canonical_json(sorted(rows)))


def is_digested(path: str) -> bool:
    """Whether the checkpoint digest covers a file of that name."""
    name = path.lower()
    return (
        name.endswith((".safetensors", ".safetensors.index.json", *_DIGESTED_SUFFIXES))
        or name in {CONFIG_FILE, MODELOPT_CONFIG_FILE, "generation_config.json"}
        or name.startswith((*_DIGESTED_PREFIXES, *_DIGESTED_LICENCES))
    )
