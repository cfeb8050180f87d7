"""A model that vLLM has loaded already, as lm-evaluation-harness wants to see one.

Called by `tasks.py`, in vLLM's process. Requests are tokenized, truncated, stopped and scored by
the harness' own model class for vLLM, so scores are those of `lm_eval --model vllm`. Only the
loading is left out: that class would load the model a second time. The settings below are all that
its methods read, with the values that its own defaults have.
"""

from lm_eval.api.model import TemplateLM
from lm_eval.models.vllm_causallms import VLLM
from vllm import LLM


class LoadedModel(VLLM):  # type: ignore[misc]  # the harness' types are not at hand in this check
    """Greedy unless the task says otherwise; prompts as the task writes them, no chat template."""

    def __init__(self, llm: LLM) -> None:
        TemplateLM.__init__(self)
        self.model = llm
        self.tokenizer = llm.get_tokenizer()
        self.batch_size = "auto"  # all requests at once; vLLM's scheduler decides
        self.data_parallel_size = 1
        self.tensor_parallel_size = 1  # read for data parallelism alone
        self.lora_request = None
        self.add_bos_token = None  # as the tokenizer does
        self.custom_prefix_token_id = None
        self._max_length = None  # as the engine was started
        self._max_gen_toks = 256  # where the task states none
        self.truncation_side = "left"
        self.enable_thinking = None
        self.think_end_token = None
        self.hf_chat_template = None
        self.chat_template_args: dict[str, str] = {}
