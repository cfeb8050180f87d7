"""The training text, its tokenizer and the rows of one training step.

The text is the source of Python's own standard library, as found beside the running interpreter.
`train.py` and `evaluate.py` call this; nothing here trains or judges.
"""

from __future__ import annotations

import hashlib
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocket.arithmetic import Item, training_items

VOCABULARY = 1536
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<think>",
    "</think>",
)
# Folders that are tests, tables, GUI programs, or installed by someone else.
LEFT_OUT_FOLDERS = {
    *("__pycache__", "config", "dist-packages", "encodings", "ensurepip", "idlelib"),
    *("lib-dynload", "lib2to3", "pydoc_data", "site-packages", "test", "tests"),
    *("tkinter", "turtledemo"),
}
HELD_OUT_ONE_IN = 20
TEXT_ROWS, TEXT_LENGTH = 3, 128
# Half the length and one GatedDeltaNet chunk: more items begin a row, as a prompt does.
ARITHMETIC_ROWS, ARITHMETIC_LENGTH = 20, 64
CHAT_ROWS = 2

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Tokens of the two splits, one long row each, and what they were made of."""

    training: Tokens
    held_out: Tokens
    files: int
    digest: str


@dataclass(frozen=True)
class Batch:
    """Rows of one step. `answers` is 1 where the *target* token belongs to an answer."""

    text: Tokens
    arithmetic: Tokens
    answers: npt.NDArray[np.float32]


def source_files() -> list[Path]:
    """List the standard library's modules in the order of their names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = (path for path in root.rglob("*.py"))
    kept = [p for p in found if not LEFT_OUT_FOLDERS.intersection(p.relative_to(root).parts[:-1])]
    return sorted(kept, key=lambda path: path.relative_to(root).as_posix())


def is_held_out(name: str) -> bool:
    """Say by the name alone whether a module is kept for evaluation (one in twenty)."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0


def read_texts() -> tuple[list[str], list[str], str]:
    """Return the training texts, the held-out texts and a digest of all of them."""
    root = Path(sysconfig.get_paths()["stdlib"])
    training: list[str] = []
    held_out: list[str] = []
    digest = hashlib.sha256()
    for path in source_files():
        name = path.relative_to(root).as_posix()
        content = path.read_bytes()
        digest.update(name.encode() + b"\0" + content + b"\0")
        (held_out if is_held_out(name) else training).append(content.decode("utf-8", "replace"))
    return training, held_out, digest.hexdigest()


def train_tokenizer(texts: list[str]) -> Any:
    """Train a byte-level BPE of `VOCABULARY` entries that splits text as Qwen3.5's does.

    Every digit is a token of its own, so that a number reads the same in prompt and answer.
    """
    from tokenizers import trainers  # type: ignore[import-not-found]
    from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer

    tokenizer = Qwen3_5Tokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=_byte_alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _byte_alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def load(tokenizer: Any, training: list[str], held_out: list[str], digest: str) -> Corpus:
    """Encode both splits; files are joined by the end-of-text token."""
    end = tokenizer.token_to_id("<|endoftext|>")

    def encode(texts: list[str]) -> Tokens:
        ids: list[int] = []
        for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            ids.extend(encoding.ids)
            ids.append(end)
        return np.array(ids, dtype=np.int64)

    return Corpus(encode(training), encode(held_out), len(training) + len(held_out), digest)


class Batches:
    """Gives the rows of step N; the same N always gives the same rows, so a resumed run agrees."""

    def __init__(self, tokenizer: Any, corpus: Corpus, seed: int) -> None:
        self._corpus = corpus
        self._seed = seed
        single = {text: tokenizer.token_to_id(text) for text in "0123456789+-="}
        single["\n"] = tokenizer.encode("\n").ids[0]
        self._digits = single
        self._chat_open = tokenizer.encode("<|im_start|>user\n").ids
        self._chat_turn = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n").ids
        self._chat_close = tokenizer.encode("<|im_end|>\n").ids
        self._end = tokenizer.token_to_id("<|endoftext|>")

    def step(self, number: int) -> Batch:
        """Return fresh text windows and arithmetic rows for one training step."""
        places = np.random.default_rng((self._seed, number))
        starts = places.integers(0, len(self._corpus.training) - TEXT_LENGTH - 1, TEXT_ROWS)
        text = np.stack([self._corpus.training[s : s + TEXT_LENGTH + 1] for s in starts])
        items = training_items(random.Random(self._seed * 1_000_003 + number))
        rows = [self._row(items, row < CHAT_ROWS) for row in range(ARITHMETIC_ROWS)]
        tokens, answers = (np.stack(part) for part in zip(*rows, strict=True))
        return Batch(text, tokens, answers.astype(np.float32)[:, 1:])

    def _row(self, items: Iterator[Item], chat: bool) -> tuple[Tokens, Tokens]:
        """Pack items into ARITHMETIC_LENGTH + 1 tokens; the last item may be cut."""
        tokens: list[int] = []
        answers: list[int] = []
        while len(tokens) <= ARITHMETIC_LENGTH:
            prompt, answer = self._encode(next(items), chat)
            tokens += prompt + answer
            answers += [0] * len(prompt) + [1] * len(answer)
        cut = ARITHMETIC_LENGTH + 1
        return np.array(tokens[:cut]), np.array(answers[:cut])

    def _encode(self, item: Item, chat: bool) -> tuple[list[int], list[int]]:
        prompt = [self._digits[c] for c in item.prompt]
        answer = [self._digits[c] for c in item.answer]
        if chat:
            return self._chat_open + prompt + self._chat_turn, answer + self._chat_close
        return prompt, [*answer, self._digits["\n"]]
