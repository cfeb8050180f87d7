"""Train the pocket model and write it: `python train.py --state ~/pocket-state --output .`.

Two phases: the trunk learns Python source and arithmetic together; then, with the trunk frozen,
the multi-token-prediction head learns to look one token further. Everything is seeded; `--state`
keeps the run's progress, so that the same command continues after a kill.
Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A thread that waits for the other must sleep: on busy cores waiting awake took half the time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from pocket import arithmetic, corpus, evaluate, export, network
from torch import nn
from torch.nn import functional

WARM_UP_STEPS = 100
SAVE_EVERY = 200
MEASURE_EVERY = 400
MEASURED_ROWS = 128
MEASURED_ITEMS = 300


@dataclass
class Run:
    """One training run: its options, parts, log, and the time used, earlier starts included."""

    options: argparse.Namespace
    tokenizer: Any
    text: corpus.Corpus
    batches: corpus.Batches
    model: Any
    head: network.MultiTokenPredictor
    wall_before: float = 0.0
    cpu_before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def minutes(self) -> tuple[float, float]:
        """Return wall minutes and CPU minutes of all threads."""
        wall = self.wall_before + time.monotonic() - self.started
        cpu = self.cpu_before + time.process_time()
        return round(wall / 60, 2), round(cpu / 60, 2)

    def log(self, **values: Any) -> None:
        """Append one line to the training log and show it."""
        wall, cpu = self.minutes()
        line = json.dumps({**values, "minutes": wall, "cpuMinutes": cpu})
        print(line, flush=True)
        with (self.options.state / "training-log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the pocket model.")
    parser.add_argument("--output", type=Path, required=True, help="folder to put checkpoint/ in")
    parser.add_argument("--state", type=Path, required=True, help="folder for progress and log")
    parser.add_argument("--steps", type=int, default=3500, help="steps of the trunk")
    parser.add_argument("--cool-down", type=int, default=900, help="steps of falling rate")
    parser.add_argument("--head-steps", type=int, default=400, help="steps of the MTP head")
    parser.add_argument("--minutes", type=float, default=30, help="stop the trunk after this long")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def prepare(options: argparse.Namespace) -> Run:
    """Read the text, train the tokenizer, build the networks."""
    options.state.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    training, held_out, digest = corpus.read_texts()
    tokenizer = corpus.train_tokenizer(training)
    tokens = corpus.load(tokenizer, training, held_out, digest)
    model = network.build(options.seed)
    head = network.MultiTokenPredictor(model.config)
    batches = corpus.Batches(tokenizer, tokens, options.seed)
    return Run(options, tokenizer, tokens, batches, model, head)


def optimizer_for(modules: list[nn.Module], rate: float) -> torch.optim.AdamW:
    """AdamW, with a light decay on matrices alone."""
    parameters = [p for module in modules for p in module.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))


def rate_at(step: int, steps: int, falling: int, highest: float) -> float:
    """Warm up, hold, then over the last `falling` steps go down in a straight line to a tenth."""
    if step < WARM_UP_STEPS:
        return highest * (step + 1) / WARM_UP_STEPS
    return highest * (0.1 + 0.9 * min(1.0, (steps - step) / falling))


def trunk_losses(run: Run, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean loss of the text, and of the answers' tokens alone."""
    batch = run.batches.step(number)
    text = torch.from_numpy(batch.text)
    sums = torch.from_numpy(batch.arithmetic)
    weights = torch.from_numpy(batch.answers).flatten()
    losses = []
    for rows in (text, sums):
        logits = run.model.lm_head(network.hidden_states(run.model, rows[:, :-1]))
        losses.append(
            functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
        )
    return losses[0].mean(), (losses[1] * weights).sum() / weights.sum()


def head_loss(run: Run, number: int) -> torch.Tensor:
    """Return the head's mean loss at t+2 over text and arithmetic; the trunk gets no gradient."""
    batch = run.batches.step(number)
    total = torch.zeros(())
    for rows in (torch.from_numpy(batch.text), torch.from_numpy(batch.arithmetic)):
        with torch.no_grad():
            states = network.hidden_states(run.model, rows[:, :-2])
        drafted = run.head(states, rows[:, 1:-1], network.text_model(run.model))
        logits = run.model.lm_head(drafted)
        total = total + functional.cross_entropy(logits.flatten(0, 1), rows[:, 2:].flatten())
    return total / 2


def measure(run: Run, rows: int | None, items: int | None) -> dict[str, Any]:
    """Judge the model as it stands on some or all of the held-out text and items."""
    run.model.eval()
    windows = evaluate.windows(run.text.held_out, rows)
    hits = evaluate.arithmetic_hits(run.model, run.tokenizer, arithmetic.held_out()[:items])
    run.model.train()
    return {
        "perplexity": round(evaluate.perplexity(run.model, windows), 3),
        "unigramPerplexity": round(evaluate.unigram_perplexity(windows), 3),
        "arithmeticPercent": round(100 * sum(hits) / len(hits), 2),
        "arithmeticItems": len(hits),
    }


def train_trunk(run: Run) -> None:
    """Train embeddings, layers and head of the text model; the vision tower stays as made."""
    options = run.options
    modules = [network.text_model(run.model), run.model.lm_head]
    optimizer = optimizer_for(modules, options.rate)
    first = restore(run, "trunk", optimizer)
    for number in range(first, options.steps):
        rate = rate_at(number, options.steps, options.cool_down, options.rate)
        text, sums = step(optimizer, rate, lambda n=number: trunk_losses(run, n))
        if number % 20 == 0:
            run.log(phase="trunk", step=number, rate=rate, textLoss=text, arithmeticLoss=sums)
        if number and number % MEASURE_EVERY == 0:
            figures = measure(run, MEASURED_ROWS, MEASURED_ITEMS)
            run.log(phase="trunk", step=number, **figures)
        if (number + 1) % SAVE_EVERY == 0 or number + 1 == options.steps:
            save(run, "trunk", number + 1, optimizer)
        if run.minutes()[0] > options.minutes:
            run.log(phase="trunk", step=number, stopped="out of minutes")
            save(run, "trunk", options.steps, optimizer)
            return


def train_head(run: Run) -> None:
    """Train the multi-token-prediction head on the finished, frozen trunk."""
    options = run.options
    run.model.requires_grad_(False)
    optimizer = optimizer_for([run.head], options.rate)
    first = restore(run, "head", optimizer)
    for number in range(first, options.head_steps):
        rate = rate_at(number, options.head_steps, options.head_steps // 2, options.rate)
        # Rows that the trunk's own steps did not use.
        (loss,) = step(optimizer, rate, lambda n=number: (head_loss(run, 10**6 + n),))
        if number % 20 == 0:
            run.log(phase="head", step=number, rate=rate, headLoss=loss)
        if (number + 1) % SAVE_EVERY == 0 or number + 1 == options.head_steps:
            save(run, "head", number + 1, optimizer)


def step(optimizer: torch.optim.AdamW, rate: float, losses: Any) -> list[float]:
    """Take one optimizer step on the sum of the losses; return each of them."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    parts = losses()
    sum(parts).backward()
    for group in optimizer.param_groups:
        nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()
    values = [round(part.item(), 4) for part in parts]
    if not all(map(math.isfinite, values)):
        raise FloatingPointError("The loss is not finite; train again with a lower --rate.")
    return values


def save(run: Run, phase: str, done: int, optimizer: torch.optim.AdamW) -> None:
    """Keep everything a later start needs, replacing the former file in one rename."""
    wall, cpu = run.minutes()
    target = run.options.state / f"{phase}.pt"
    state = {
        "done": done,
        "model": run.model.state_dict(),
        "head": run.head.state_dict(),
        "optimizer": optimizer.state_dict(),
        "wall": wall * 60,
        "cpu": cpu * 60,
    }
    torch.save(state, target.with_suffix(".tmp"))
    target.with_suffix(".tmp").replace(target)


def restore(run: Run, phase: str, optimizer: torch.optim.AdamW) -> int:
    """Load this phase's kept state, if there is any, and return the step to go on with."""
    path = run.options.state / f"{phase}.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    run.model.load_state_dict(state["model"])
    run.head.load_state_dict(state["head"])
    optimizer.load_state_dict(state["optimizer"])
    run.wall_before = state["wall"] - (time.monotonic() - run.started)
    run.cpu_before = state["cpu"] - time.process_time()
    return int(state["done"])


def round_to_bfloat16(*modules: nn.Module) -> None:
    """Give every parameter the value that it will have on disk."""
    for module in modules:
        for parameter in module.parameters():
            parameter.data = parameter.data.bfloat16().float()


def main() -> None:
    options = parse()
    random.seed(options.seed)
    run = prepare(options)
    run.log(
        phase="start",
        python=platform.python_version(),
        torch=torch.__version__,
        files=run.text.files,
        textDigest=run.text.digest,
        trainingTokens=len(run.text.training),
        heldOutTokens=len(run.text.held_out),
        steps=options.steps,
        coolDown=options.cool_down,
        headSteps=options.head_steps,
        threads=options.threads,
    )
    train_trunk(run)
    train_head(run)
    network.scale_vision(run.model)
    round_to_bfloat16(run.model, run.head)
    windows = evaluate.windows(run.text.held_out)
    agreement = evaluate.draft_agreement(run.model, run.head, windows[:MEASURED_ROWS])
    run.log(
        phase="final",
        **measure(run, None, None),
        draftAgreementPercent=round(100 * agreement, 2),
    )
    export.write_example(run.model, run.head, run.tokenizer, options.output)
    shutil.copyfile(options.state / "training-log.jsonl", options.output / "training-log.jsonl")
    export.write_checksums(options.output)


if __name__ == "__main__":
    main()
