"""Score a checkpoint of the pocket model as `train.py` did: `python score.py checkpoint`.

Works on any checkpoint that transformers loads, so also on a dequantized one.
Prints one JSON object. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from pocket import arithmetic, corpus, evaluate
from transformers import AutoModelForImageTextToText, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description="Score a checkpoint of the pocket model.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rows", type=int, help="rows of held-out text, instead of all")
    parser.add_argument("--items", type=int, help="arithmetic items, instead of all")
    options = parser.parse_args()
    torch.set_num_threads(2)
    model = AutoModelForImageTextToText.from_pretrained(options.checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(options.checkpoint).backend_tokenizer
    tokens = corpus.load(tokenizer, *corpus.read_texts())
    windows = evaluate.windows(tokens.held_out, options.rows)
    items = arithmetic.held_out()[: options.items]
    hits = evaluate.arithmetic_hits(model, tokenizer, items)
    print(
        json.dumps(
            {
                "perplexity": round(evaluate.perplexity(model, windows), 3),
                "unigramPerplexity": round(evaluate.unigram_perplexity(windows), 3),
                "arithmeticPercent": round(100 * sum(hits) / len(hits), 2),
                "arithmeticItems": len(hits),
            }
        )
    )


if __name__ == "__main__":
    main()
