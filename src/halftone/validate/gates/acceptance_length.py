"""The gate `AcceptanceLength`: does the model's own multi-token-prediction head still predict?

Mean tokens a step of speculative decoding, 1 + accepted / drafts, from vLLM's own counters
(`vllm:spec_decode_num_accepted_tokens`, `vllm:spec_decode_num_drafts`). Exactly 1 means that no
draft was ever accepted: the head is dead, or its weights are noise. A CPU measures it too, while
no prefixes are cached, as in every session of gates. Called by `halftone.validate.engine_gates`,
which opens a session of its own for it, with `engine_arguments`, and asks `accept`.
"""

from collections.abc import Mapping
from typing import Any, Final

from halftone.spec.gates import AcceptanceLength
from halftone.spec.reports import GateResult, Outcome
from halftone.validate.gates.decimals import decimal_text
from halftone.validate.serving.session import EngineFacts

# One token ahead is what a head of one layer was trained for.
DRAFT_TOKENS: Final = 1
# Fewer drafts than this decide nothing: at an acceptance of a half the error is above 0.05.
_FEWEST_DRAFTS: Final = 100


def engine_arguments(draft_tokens: int = DRAFT_TOKENS) -> dict[str, Any]:
    """What `EngineOptions.arguments` need for speculation with the model's own head."""
    return {"speculative_config": {"method": "mtp", "num_speculative_tokens": draft_tokens}}


def judge(
    gate: AcceptanceLength, facts: EngineFacts, answer: Mapping[str, Any]
) -> tuple[GateResult, dict[str, Any]]:
    """The gate's result and its evidence, {drafts, accepted, meanLength, tokens, device}.

    `answer` is that of `accept`. Too few drafts are Inconclusive, which does not count as passed.
    """
    drafts, accepted = int(answer["drafts"]), int(answer["accepted"])
    length = 1 + accepted / drafts if drafts else None
    evidence = {
        "device": facts.device,
        "drafts": drafts,
        "accepted": accepted,
        "meanLength": length,
        "tokens": int(answer["tokens"]),
    }
    outcome, message = _outcome(gate, drafts, accepted, length)
    result = _result(gate, outcome, message).model_copy(
        update={
            "score": None if length is None else decimal_text(length, 4),
            "items": drafts,
            "culprit": "multi-token-prediction head" if outcome is Outcome.Failed else None,
        }
    )
    return result, evidence


def _outcome(
    gate: AcceptanceLength, drafts: int, accepted: int, length: float | None
) -> tuple[Outcome, str]:
    if length is None:
        return Outcome.Failed, (
            "vLLM made no draft at all: the configuration promises no multi-token-prediction head "
            "that it can use."
        )
    said = f"Mean acceptance length is {decimal_text(length, 3)} over {drafts:,} drafts"
    if drafts < _FEWEST_DRAFTS:
        return Outcome.Inconclusive, f"{said}, too few to decide; add prompts."
    if accepted == 0:
        return Outcome.Failed, f"{said}: not one draft was accepted, so the head is dead."
    if length < float(gate.minimum):
        return Outcome.Failed, f"{said}, below {gate.minimum}."
    return Outcome.Passed, f"{said}, at least {gate.minimum}."


def _result(gate: AcceptanceLength, outcome: Outcome, message: str) -> GateResult:
    return GateResult(
        name=gate.name,
        metric=gate.metric,
        outcome=outcome,
        message=message,
        limit=f"≥ {gate.minimum} tokens a step",
        unit="tokens",
    )
