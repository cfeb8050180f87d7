"""What the model is judged by: perplexity of held-out text, arithmetic, the MTP head's agreement.

`train.py` calls this while training on a part and at the end on everything, with the weights
rounded to BF16 as they are written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import Qwen3_5ForConditionalGeneration

from pocket.arithmetic import Item
from pocket.corpus import TEXT_LENGTH, Tokens
from pocket.network import MultiTokenPredictor, hidden_states, text_model

ROWS_AT_ONCE = 32


def windows(tokens: Tokens, limit: int | None = None) -> torch.Tensor:
    """Cut tokens into rows [rows, TEXT_LENGTH + 1]; a row's last token opens the next row."""
    rows = (len(tokens) - 1) // TEXT_LENGTH
    starts = np.arange(rows if limit is None else min(rows, limit)) * TEXT_LENGTH
    return torch.from_numpy(np.stack([tokens[s : s + TEXT_LENGTH + 1] for s in starts]))


@torch.inference_mode()  # type: ignore[untyped-decorator]
def perplexity(model: Qwen3_5ForConditionalGeneration, rows: torch.Tensor) -> float:
    """exp of the mean negative log-likelihood of every token but each row's first."""
    total = 0.0
    for part in rows.split(ROWS_AT_ONCE):
        logits = model.lm_head(hidden_states(model, part[:, :-1]))
        total += functional.cross_entropy(
            logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum"
        ).item()
    return float(np.exp(total / rows[:, 1:].numel()))


def unigram_perplexity(rows: torch.Tensor) -> float:
    """exp of the entropy of the predicted tokens' own frequencies.

    No unigram model can do better on these tokens, so it is the strictest one to beat.
    """
    counts = torch.bincount(rows[:, 1:].flatten()).double()
    shares = counts[counts > 0] / counts.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


@torch.inference_mode()  # type: ignore[untyped-decorator]
def arithmetic_hits(
    model: Qwen3_5ForConditionalGeneration, tokenizer: Any, items: list[Item]
) -> list[bool]:
    """Say for each item whether greedy decoding would give exactly the answer and a newline.

    One forward pass with the right answer fed in tells: greedy decoding is right if and only if
    the likeliest token is right at every place of the answer. Padding stands on the right,
    where a causal model cannot see it.
    """
    prompts = [tokenizer.encode(item.prompt).ids for item in items]
    wholes = [tokenizer.encode(f"{item.prompt}{item.answer}\n").ids for item in items]
    hits: list[bool] = []
    for start in range(0, len(items), 4 * ROWS_AT_ONCE):
        part = slice(start, start + 4 * ROWS_AT_ONCE)
        length = max(map(len, wholes[part]))
        rows = torch.tensor([ids + [0] * (length - len(ids)) for ids in wholes[part]])
        best = model.lm_head(hidden_states(model, rows)).argmax(-1)
        for row, prompt, whole in zip(best, prompts[part], wholes[part], strict=True):
            hits.append(row[len(prompt) - 1 : len(whole) - 1].tolist() == whole[len(prompt) :])
    return hits


@torch.inference_mode()  # type: ignore[untyped-decorator]
def draft_agreement(
    model: Qwen3_5ForConditionalGeneration, head: MultiTokenPredictor, rows: torch.Tensor
) -> float:
    """Share of places where the head's first choice for t+2 is the one the trunk makes at t+1."""
    agreed = places = 0
    for part in rows.split(ROWS_AT_ONCE):
        states = hidden_states(model, part)
        drafted = model.lm_head(head(states[:, :-1], part[:, 1:], text_model(model))).argmax(-1)
        wanted = model.lm_head(states[:, 1:]).argmax(-1)
        agreed += int((drafted == wanted).sum())
        places += wanted.numel()
    return agreed / places
