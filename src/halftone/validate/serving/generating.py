"""Greedy answers of a loaded model: the engine gate reads them, and speculation is counted on them.

Called by `worker` in its process.
"""

from math import isfinite
from typing import Any, Final

from halftone.validate.serving.asking import run

_DRAFTS: Final = "vllm:spec_decode_num_drafts"
_ACCEPTED: Final = "vllm:spec_decode_num_accepted_tokens"


def generate(llm: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """{generated: rows of {id, text, tokens, finite}}; `parameters`: {prompts, maxTokens}.

    `finite`: every chosen token's log probability is a number, which it is not where a weight or a
    scale made the logits NaN.
    """
    from vllm import SamplingParams

    prompts = parameters["prompts"]
    # An answer of nothing but the end mark says nothing about the weights.
    settings = SamplingParams(
        max_tokens=parameters["maxTokens"], min_tokens=1, temperature=0.0, logprobs=1
    )
    outputs = run(llm, prompts, [settings] * len(prompts))
    return {"generated": [_row(p, o) for p, o in zip(prompts, outputs, strict=True)]}


def accept(llm: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """{drafts, accepted, tokens} of greedy answers to {prompts, maxTokens}, with speculation on."""
    from vllm import SamplingParams

    prompts = parameters["prompts"]
    before = _counters(llm)
    settings = SamplingParams(max_tokens=parameters["maxTokens"], temperature=0.0, ignore_eos=True)
    outputs = run(llm, prompts, [settings] * len(prompts))
    after = _counters(llm)
    return {
        "drafts": int(after[_DRAFTS] - before[_DRAFTS]),
        "accepted": int(after[_ACCEPTED] - before[_ACCEPTED]),
        "tokens": sum(len(output.outputs[0].token_ids) for output in outputs),
    }


def _row(prompt: dict[str, Any], output: Any) -> dict[str, Any]:
    said = output.outputs[0]
    chosen = [row[token].logprob for row, token in zip(said.logprobs, said.token_ids, strict=True)]
    return {
        "id": prompt["id"],
        "text": said.text,
        "tokens": list(said.token_ids),
        "finite": all(isfinite(value) for value in chosen),
    }


def _counters(llm: Any) -> dict[str, float]:
    values = dict.fromkeys((_DRAFTS, _ACCEPTED), 0.0)
    for metric in llm.get_metrics():
        if metric.name in values:
            values[metric.name] += metric.value
    return values
