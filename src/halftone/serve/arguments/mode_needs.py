"""Whether a checkpoint has what its modes need: a row of the table, and all that the row asks for.

Called by `requirements`. Each need is one function, which gives a reason and the second half of a
sentence. Pure.
"""

from collections.abc import Callable
from typing import Final

from halftone.checkpoint.serving_modes import Need
from halftone.serve.arguments.case import Case, Obstacle
from halftone.spec.names import Reason
from halftone.spec.serving import ServingMode

Lack = tuple[Reason, str]


def unknown_mode(case: Case) -> Obstacle | None:
    """The first mode that the table has no row of for this family."""
    missing = next((mode for mode, row in case.rows.items() if row is None), None)
    if missing is None:
        return None
    told, family = f"`modes` has '{missing}', but", case.model.family or case.model.model_type
    reason = Reason.NotSupported
    if missing is ServingMode.Multimodal and not case.model.towers:
        reason = Reason.ModalityNotSupported
        told += f" `{case.model.name}` has no part that sees or hears; take 'text'."
    elif missing is ServingMode.Speculative:
        told += (
            f" vLLM has no prediction head for models of the family '{family}'; name a small model "
            "of the same vocabulary in `draft`, or leave the mode out."
        )
    elif missing is ServingMode.Tools:
        told += (
            f" no parsers are known for the chat format of the family '{family}'; leave it out and "
            "name them in `engineArguments`: `enable_auto_tool_choice`, `tool_call_parser`."
        )
    else:
        told += f" nobody has tried it with the family '{family}'; set `engineArguments` instead."
    return Obstacle(reason, "modes", told)


def unmet_need(case: Case) -> Obstacle | None:
    """The first thing that a mode's row needs and the checkpoint or its draft does not have."""
    for mode, row in case.rows.items():
        for need in () if row is None else row.needs:
            found = _NEEDS[need](case)
            if found is not None:
                reason, told = found
                return Obstacle(reason, "modes", f"`modes` has '{mode}', but {told}")
    return None


def _processor(case: Case) -> Lack | None:
    model = case.model
    if not model.tower_weights:
        told = f"`{model.name}` has no weights of the parts that see; take 'text'."
        return Reason.ModalityNotSupported, told
    if model.processor:
        return None
    return (
        Reason.ModalityNotSupported,
        f"`{model.name}` has no `preprocessor_config.json`, so no server can prepare an image; "
        "publish it with the source's file, or take 'text'.",
    )


def _chat_template(case: Case) -> Lack | None:
    if case.model.chat_template or case.given.get("chat_template"):
        return None
    return (
        Reason.NotSupported,
        f"`{case.model.name}` has no chat template, so no tool can be described to it; publish it "
        "with the source's `chat_template.jinja`, or name one in `engineArguments.chat_template`.",
    )


def _head(case: Case) -> Lack | None:
    model = case.model
    if model.head and model.head_layers:
        return None
    ways = "name a small model of the same vocabulary in `draft`, or leave the mode out"
    if model.head_dropped:
        told = (
            f"the job dropped the prediction head of `{model.name}`; quantize with "
            f"`multiTokenPrediction: Keep`, {ways}."
        )
    elif model.head_layers:
        told = (
            f"`{model.name}` promises a prediction head in `config.json` and has no weights of it, "
            f"which serves nothing but noise; publish them, {ways}."
        )
    else:
        told = f"`{model.name}` has no prediction head that its `config.json` tells of; {ways}."
    return Reason.NotSupported, told


def _context(case: Case) -> Lack | None:
    row, has = case.rows[ServingMode.LongContext], case.model.context
    wanted = 0 if row is None else row.arguments["max_model_len"]
    if has is None or has >= wanted:
        return None
    return (
        Reason.SequenceTooLong,
        f"the context of `{case.model.name}` is {has:,} tokens and the mode's {wanted:,}; leave it "
        "out and set `maxModelLen` and `engineArguments.kv_cache_dtype` as they fit.",
    )


def _vocabulary(case: Case) -> Lack | None:
    model, draft = case.model, case.draft
    if draft is None:
        return None
    sizes = (model.vocabulary_size, draft.vocabulary_size)
    same_size = None in sizes or sizes[0] == sizes[1]
    if same_size and (
        None in (model.vocabulary, draft.vocabulary) or model.vocabulary == draft.vocabulary
    ):
        return None
    told = f"{sizes[1]} tokens and not {sizes[0]}" if not same_size else "other ids for its tokens"
    return (
        Reason.NotSupported,
        f"the draft `{draft.name}` has {told}, so what it proposes is not what it means; name a "
        f"`draft` with the vocabulary of `{model.name}`.",
    )


def _plain_positions(case: Case) -> Lack | None:
    draft = case.draft
    if draft is None or not draft.sections:
        return None
    return (
        Reason.NotSupported,
        f"the draft `{draft.name}` has a rotary embedding in sections (M-RoPE), which vLLM takes "
        "of no draft; name another `draft`, or leave it out where the model has a prediction head.",
    )


_NEEDS: Final[dict[Need, Callable[[Case], Lack | None]]] = {
    Need.Processor: _processor,
    Need.ChatTemplate: _chat_template,
    Need.Head: _head,
    Need.Context: _context,
    Need.Vocabulary: _vocabulary,
    Need.PlainPositions: _plain_positions,
}
