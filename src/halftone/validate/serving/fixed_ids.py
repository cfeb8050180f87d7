"""Log probabilities of chosen token ids at every position of a prompt, for vLLM's V1 model runner.

The V2 runner has `SamplingParams.prompt_logprob_token_ids` for this, but needs Triton, so a CPU has
the V1 runner only, whose public answer is the model's own top k: the ids that the *source* finds
likely need not be among them. Here the runner's own hidden states and output head are used at the
place where it computes prompt log probabilities, so that nothing is computed another way.

A request asks through `SamplingParams.extra_args["halftone"]`: {number, top} for its own top ids,
or {number, ids} with a row of ids for each position. Installed by `inside` in the worker; private
names of vLLM are checked when it is.
"""

from typing import Any, Final

from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason

ASKED: Final = "halftone"
# Rows of logits held at once: 256 of a vocabulary of 256k in FP32 are 256 MiB.
_ROWS: Final = 256
_NEEDED: Final = (
    "_get_prompt_logprobs_dict",
    "requests",
    "input_batch",
    "query_start_loc",
    "model",
)


class FixedIds:
    """Listens to one model runner; raises EngineNotSupported where it has other private names."""

    def __init__(self, runner: Any) -> None:
        missing = [name for name in _NEEDED if not hasattr(runner, name)]
        if missing:
            raise EnvironmentFault(
                Reason.EngineNotSupported,
                "vllm",
                f"This vLLM's model runner has no `{missing[0]}`, which measuring divergence on "
                "the V1 runner needs; use vLLM 0.32, or a GPU with the V2 runner.",
            )
        self._runner = runner
        self._theirs = runner._get_prompt_logprobs_dict
        self._answers: dict[str, dict[str, Any]] = {}
        runner._get_prompt_logprobs_dict = self._listen

    def take(self) -> dict[str, dict[str, Any]]:
        """{number: {ids, logprobs, targets, best, bestLogprobs}}, each a list, a row a position.

        Row i is about token i + 1 of the prompt. `targets` are log probabilities of the prompt's
        own tokens, `best` the most likely ids. Incomplete rows are None.
        """
        taken, self._answers = self._answers, {}
        return taken

    def _listen(self, hidden_states: Any, scheduled: dict[str, int]) -> Any:
        for request_id, tokens in scheduled.items():
            request = self._runner.requests[request_id]
            asked = ((request.sampling_params and request.sampling_params.extra_args) or {}).get(
                ASKED
            )
            if asked is not None:
                self._score(request_id, request, asked, tokens, hidden_states)
        return self._theirs(hidden_states, scheduled)

    def _score(
        self, request_id: str, request: Any, asked: dict[str, Any], tokens: int, hidden: Any
    ) -> None:
        """Rows of the part of the prompt that this step computed; a long prompt comes in parts."""
        import torch

        prompt = request.prompt_token_ids
        first = request.num_computed_tokens
        last = min(first + tokens, len(prompt) - 1)
        place = self._runner.input_batch.req_id_to_index[request_id]
        offset = int(self._runner.query_start_loc.np[place]) - first
        names = ("ids", "logprobs", "targets", "best", "bestLogprobs")
        answer = self._answers.setdefault(
            asked["number"], {name: [None] * (len(prompt) - 1) for name in names}
        )
        for begin in range(first, last, _ROWS):
            end = min(begin + _ROWS, last)
            logits = self._runner.model.compute_logits(hidden[offset + begin : offset + end])
            logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)
            own = torch.tensor(prompt[begin + 1 : end + 1], device=logprobs.device)
            best, best_ids = logprobs.max(dim=-1)
            if "ids" in asked:
                ids = torch.tensor(asked["ids"][begin:end], device=logprobs.device)
                values = logprobs.gather(-1, ids)
            else:
                values, ids = logprobs.topk(min(asked["top"], logprobs.shape[-1]), dim=-1)
            rows = {
                "ids": ids,
                "logprobs": values,
                "targets": logprobs.gather(-1, own.unsqueeze(-1)).squeeze(-1),
                "best": best_ids,
                "bestLogprobs": best,
            }
            for name, row in rows.items():
                answer[name][begin:end] = row.tolist()
