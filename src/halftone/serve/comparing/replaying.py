"""Sends the same prompts to two endpoints, in turns, and gathers what they said.

    replayed = await replay(old, new, prompts, Plan(concurrency=4))

Called by the command line. Each worker takes a prompt and sends it to both endpoints one after the
other, in an order drawn for each prompt, so that a machine or a network that changes meanwhile
changes for both. Both begin with a cold prefix cache: the requests of one comparison share a
`cache_salt` of their own. Then, if both can, each old answer is scored by both (`scoring`): only
that compares distributions in the same contexts for the whole answer. If one cannot, the streams
are asked for `logprobs`, and positions count up to the first token that differs.
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from halftone.serve.comparing.answering import Answer, answer
from halftone.serve.comparing.divergence import Scored, scored
from halftone.serve.comparing.prompts import Prompt
from halftone.serve.comparing.scoring import ScoringFailed, cannot_score, score
from halftone.serve.measuring.connection import Connection

# Log probabilities of a long answer are megabytes; more at once would only fill memory.
_SCORED_AT_ONCE: Final = 4

Say = Callable[[str], None]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Plan:
    """How prompts are replayed; `top_k` of each distribution is looked at."""

    concurrency: int = 1
    repeats: int = 1
    top_k: int = 20
    timeout_s: float = 900.0
    seed: int = 0


@dataclass
class Pair:
    """What both endpoints answered to one prompt, as often as it was repeated.

    `scored` is None where the distributions cannot be compared; `unscored` then says why, as the
    end of a sentence.
    """

    prompt: Prompt
    old: list[Answer] = field(default_factory=list)
    new: list[Answer] = field(default_factory=list)
    scored: Scored | None = None
    unscored: str | None = None

    @property
    def both(self) -> Iterator[tuple[Answer, Answer]]:
        """Repetitions that both answered to the end."""
        for one, other in zip(self.old, self.new, strict=True):
            if one.failure is None and other.failure is None:
                yield one, other

    @property
    def first(self) -> tuple[Answer, Answer] | None:
        """The first such repetition."""
        return next(self.both, None)


@dataclass(frozen=True)
class Replayed:
    """All pairs in the prompts' order. `teacher_forced`: the old answers were scored by both;
    `not_forced` says why not."""

    pairs: tuple[Pair, ...]
    teacher_forced: bool
    not_forced: str | None


async def replay(
    old: Connection, new: Connection, prompts: Sequence[Prompt], plan: Plan, say: Say
) -> Replayed:
    """Replay `prompts`; models have been found. What fails is in the answers, not raised."""
    not_forced = await _why_not_forced(old, new, plan.top_k)
    pairs = tuple(Pair(prompt) for prompt in prompts)
    for endpoint in (old, new):  # the first answer of a server takes its own time
        await answer(endpoint, prompts[0], {"max_tokens": 1}, plan.timeout_s)
    salt = secrets.token_hex(16) if not_forced is None else None
    say(f"replaying {len(prompts)} prompts, {plan.concurrency} at a time")
    order = random.Random(plan.seed)  # noqa: S311  # which comes first, no secret
    visits = [(pair, order.random() < 0.5) for _ in range(plan.repeats) for pair in pairs]

    async def visit(each: tuple[Pair, bool]) -> None:
        pair, old_first = each
        answers: dict[bool, Answer] = {}
        for is_old in (old_first, not old_first):
            endpoint = old if is_old else new
            more = _how_it_comes(pair.prompt, plan.top_k, salt)
            answers[is_old] = await answer(endpoint, pair.prompt, more, plan.timeout_s)
        pair.old.append(answers[True])
        pair.new.append(answers[False])

    await _for_each(visits, plan.concurrency, visit)
    if not_forced is None:
        say("scoring the old answers on both endpoints")
        at_once = min(plan.concurrency, _SCORED_AT_ONCE)
        await _for_each(pairs, at_once, lambda pair: _score(old, new, pair, plan.top_k))
    else:
        for pair in pairs:
            _score_common_prefix(pair, plan.top_k)
    return Replayed(pairs, not_forced is None, not_forced)


async def _why_not_forced(old: Connection, new: Connection, top_k: int) -> str | None:
    for name, endpoint in (("old", old), ("new", new)):
        if reason := await cannot_score(endpoint, top_k):
            return f"the {name} endpoint {reason}"
    return None


def _how_it_comes(prompt: Prompt, top_k: int, salt: str | None) -> dict[str, Any]:
    """Streams carry log probabilities only where nothing better is to be had: they cost time."""
    if salt is not None:
        return {"return_token_ids": True, "cache_salt": salt}
    if prompt.text is not None:
        return {"logprobs": top_k}
    return {"logprobs": True, "top_logprobs": top_k}


async def _for_each(
    items: Sequence[_Item], at_once: int, do: Callable[[_Item], Awaitable[None]]
) -> None:
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            await do(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(items))):
            group.create_task(work())


async def _score(old: Connection, new: Connection, pair: Pair, top_k: int) -> None:
    """The old answer in both models' eyes."""
    if pair.first is None:
        pair.unscored = "was not answered by both"
        return
    one, other = pair.first
    if one.prompt_tokens != other.prompt_tokens:
        pair.unscored = "is not the same tokens for both, so tokenizers or chat templates differ"
        return
    if not one.tokens:
        pair.unscored = "was answered with nothing"
        return
    rows = []
    for name, endpoint in (("old", old), ("new", new)):
        try:
            rows.append(await score(endpoint, one.prompt_tokens, one.tokens, top_k))
        except ScoringFailed as failed:
            pair.unscored = f"could not be scored: the {name} endpoint {failed}"
            return
    length = min(map(len, rows))
    pair.scored = scored(rows[0][:length], rows[1][:length], top_k)


def _score_common_prefix(pair: Pair, top_k: int) -> None:
    """Both streams' own log probabilities, up to and with the first token that differs."""
    if pair.first is None:
        pair.unscored = "was not answered by both"
        return
    one, other = pair.first
    if not one.positions or not other.positions:
        pair.unscored = "came without log probabilities"
        return
    same = 0
    for mine, theirs in zip(one.pieces, other.pieces, strict=False):
        if mine != theirs:
            break
        same += 1
    length = min(same + 1, len(one.positions), len(other.positions))
    pair.scored = scored(one.positions[:length], other.positions[:length], top_k)
