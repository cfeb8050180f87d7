"""What a model thinks of every next token of the prompts: the numbers that divergence is made of.

    source = session.ask("score", prompts=rows, topK=64)
    quantized = other.ask("follow", prompts=rows, source=source["prompts"])

The source says its top k ids at every position; the other model is asked for those same ids
(`halftone.validate.gates.divergence` says why that is enough). Called by `worker` in its process.
On the V2 model runner both are vLLM's public interface, on V1 our `fixed_ids` listens;
the answer's `method` says which.
"""

from collections.abc import Sequence
from typing import Any, Final

from halftone.spec.errors import CheckFailed
from halftone.spec.names import Reason
from halftone.validate.serving.asking import run
from halftone.validate.serving.fixed_ids import ASKED

PUBLIC: Final = "vLLM's prompt_logprob_token_ids (V2 model runner)"
LISTENING: Final = "hidden states and output head of vLLM's V1 model runner"
_Row = dict[str, Any]


def score(llm: Any, parameters: _Row) -> _Row:
    """The source's side: {method, topK, vocabulary, prompts}.

    `parameters`: {prompts: rows of `asking`, topK}. A prompt's row is {id, tokens, pieces,
    positions, ids, logprobs, targets, best, bestLogprobs}: `tokens` its ids, `positions` those
    predicted (image placeholders are not), the rest one row a position, natural logarithms.
    """
    prompts, top = parameters["prompts"], parameters["topK"]
    answers = _answers(llm, prompts, [{"top": top}] * len(prompts))
    tokenizer = llm.get_tokenizer()
    for answer in answers:
        answer["pieces"] = [tokenizer.decode([answer["tokens"][p]]) for p in answer["positions"]]
    vocabulary = llm.llm_engine.vllm_config.model_config.get_vocab_size()
    return {
        "method": _method(llm),
        "topK": min(top, vocabulary),
        "vocabulary": vocabulary,
        "prompts": answers,
    }


def follow(llm: Any, parameters: _Row) -> _Row:
    """The other side: {method, prompts}, of the ids that `score` answered with.

    `parameters`: {prompts, source: rows of `score`, reversed, together}. `reversed` and `together`
    (how many prompts at once, 0 for all) change the batches, for the noise floor. A row is {id,
    logprobs, targets, best, bestLogprobs}. Raises CheckFailed where a prompt becomes other tokens.
    """
    sources = {row["id"]: row for row in parameters["source"]}
    prompts = list(parameters["prompts"])
    if parameters.get("reversed"):
        prompts.reverse()
    together = parameters.get("together") or len(prompts) or 1
    answers: dict[str, _Row] = {}
    for begin in range(0, len(prompts), together):
        batch = prompts[begin : begin + together]
        asked = [{"ids": _all_rows(sources[prompt["id"]])} for prompt in batch]
        for answer in _answers(llm, batch, asked):
            _check_tokens(sources[answer["id"]], answer)
            answers[answer["id"]] = {k: v for k, v in answer.items() if k not in _KNOWN}
    return {
        "method": _method(llm),
        "prompts": [answers[prompt["id"]] for prompt in parameters["prompts"]],
    }


# What the source's answer has said already.
_KNOWN: Final = ("tokens", "positions", "ids")


def _method(llm: Any) -> str:
    return PUBLIC if llm.llm_engine.vllm_config.use_v2_model_runner else LISTENING


def _all_rows(source: _Row) -> list[list[int]]:
    """A row of ids for each position but the first, those that are not scored asking for id 0."""
    width = len(source["ids"][0]) if source["ids"] else 1
    rows = [[0] * width for _ in range(len(source["tokens"]) - 1)]
    for position, ids in zip(source["positions"], source["ids"], strict=True):
        rows[position - 1] = ids
    return rows


def _check_tokens(source: _Row, answer: _Row) -> None:
    if source["tokens"] != answer["tokens"]:
        raise CheckFailed(
            Reason.GateFailed,
            answer["id"],
            f"Prompt `{answer['id']}` becomes {len(answer['tokens'])} tokens here and "
            f"{len(source['tokens'])} others in the source; the tokenizer or the chat template "
            "of the two is not the same.",
        )


def _answers(llm: Any, prompts: Sequence[_Row], asked: Sequence[_Row]) -> list[_Row]:
    """{id, tokens, positions, ids, logprobs, targets, best, bestLogprobs} of each prompt."""
    if not prompts:
        return []
    public = llm.llm_engine.vllm_config.use_v2_model_runner
    rows = _public(llm, prompts, asked) if public else _listening(llm, prompts, asked)
    placeholders = _placeholders(llm)
    answers = []
    for prompt, (tokens, row) in zip(prompts, rows, strict=True):
        positions = [p for p in range(1, len(tokens)) if tokens[p] not in placeholders]
        picked = {name: [values[p - 1] for p in positions] for name, values in row.items()}
        _check_complete(prompt["id"], picked)
        answers.append({"id": prompt["id"], "tokens": tokens, "positions": positions, **picked})
    return answers


def _listening(llm: Any, prompts: Sequence[_Row], asked: Sequence[_Row]) -> list[tuple[Any, _Row]]:
    from vllm import SamplingParams

    llm.collective_rpc("halftone_listen")
    settings = [
        SamplingParams(
            max_tokens=1,
            temperature=0.0,
            skip_reading_prefix_cache=True,
            extra_args={ASKED: {"number": str(number), **one}},
        )
        for number, one in enumerate(asked)
    ]
    outputs = run(llm, prompts, settings)
    taken = llm.collective_rpc("halftone_take")[0]
    return [(list(o.prompt_token_ids), taken[str(n)]) for n, o in enumerate(outputs)]


def _public(llm: Any, prompts: Sequence[_Row], asked: Sequence[_Row]) -> list[tuple[Any, _Row]]:
    import numpy as np
    from vllm import SamplingParams

    settings = []
    for one in asked:
        ids = np.array(one["ids"], np.int32) if "ids" in one else None
        settings.append(
            SamplingParams(
                max_tokens=1,
                temperature=0.0,
                prompt_logprobs=1 if "ids" in one else one["top"],
                prompt_logprob_token_ids=ids,
                flat_logprobs=True,
                detokenize=False,
            )
        )
    outputs = run(llm, prompts, settings)
    return [
        (list(output.prompt_token_ids), _public_rows(output, one))
        for output, one in zip(outputs, asked, strict=True)
    ]


def _public_rows(output: Any, asked: _Row) -> _Row:
    """vLLM gives a row the prompt's own token first, then the top ids, the likeliest first."""
    said = output.prompt_logprobs
    rows: _Row = {name: [] for name in ("ids", "logprobs", "targets", "best", "bestLogprobs")}
    for begin, end in zip(said.start_indices[1:], said.end_indices[1:], strict=True):
        rows["targets"].append(said.logprobs[begin])
        rows["best"].append(said.token_ids[begin + 1])
        rows["bestLogprobs"].append(said.logprobs[begin + 1])
        rows["ids"].append(said.token_ids[begin + 1 : end])
        rows["logprobs"].append(said.logprobs[begin + 1 : end])
    if "ids" in asked:
        rows["ids"] = asked["ids"]
        rows["logprobs"] = output.prompt_token_id_logprobs.tolist()
    return rows


def _placeholders(llm: Any) -> set[int]:
    """Ids that stand for a picture's patches; what a model thinks of those is no language."""
    config = llm.llm_engine.vllm_config.model_config.hf_config
    names = ("image_token_id", "image_token_index", "video_token_id", "audio_token_id")
    return {found for name in names if isinstance(found := getattr(config, name, None), int)}


def _check_complete(prompt: str, picked: _Row) -> None:
    missing = [name for name, values in picked.items() if any(value is None for value in values)]
    if missing:
        raise CheckFailed(
            Reason.EngineFailed,
            prompt,
            f"vLLM computed only a part of prompt `{prompt}`; run the gate again with fewer "
            "prompts at once, or report this with the engine's log.",
        )
