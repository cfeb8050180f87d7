"""From a row to what the model takes: token ids, and for images what its processor makes of them.

Called by `data`, in the environment that has torch and transformers. It decides nothing about which
rows are used, except that it says of one that it is too long.
"""

from dataclasses import dataclass
from typing import Any

import torch

from halftone.quantize.calibration.rows import Row, refuse
from halftone.spec.calibration import Modality


@dataclass(frozen=True)
class Sample:
    """Inputs of one forward pass: a batch of one, without padding."""

    modality: Modality
    inputs: dict[str, torch.Tensor]


class TextEncoder:
    """Token ids of rows without images, by the source's own tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def ids(self, row: Row) -> list[int]:
        """All token ids of `row`: `text` with the special tokens that the tokenizer adds by itself,
        `messages` with exactly those that the chat template writes.
        """
        if row.text is not None:
            found = self._tokenizer(row.text, verbose=False)
        else:
            found = self._tokenizer(self.rendered(row), add_special_tokens=False, verbose=False)
        ids: list[int] = found["input_ids"]
        return ids

    def rendered(self, row: Row) -> str:
        """`messages` as the chat template writes them."""
        if self._tokenizer.chat_template is None:
            refuse(row.place, f"{row.place} has `messages`, and the source has no chat template.")
        text: str = self._tokenizer.apply_chat_template(list(row.messages or ()), tokenize=False)
        return text


def text_inputs(ids: Any) -> dict[str, torch.Tensor]:
    """`ids` as a batch of one."""
    tensor = torch.tensor([list(ids)], dtype=torch.int64)
    return {"input_ids": tensor, "attention_mask": torch.ones_like(tensor)}
