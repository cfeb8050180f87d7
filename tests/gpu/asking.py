"""What tests on a GPU serve, and what they ask through the verbs and the API that users have.

Called by tests of this folder, and by one elsewhere that makes the arguments of these endpoints.
What is asked does not depend on what an endpoint computes with, so it runs against any.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from halftone.serve.measuring.document import Bench
from halftone.serve.measuring.engine_document import ENGINE_PATH, ServedEngine
from halftone.validate.serving.session import EngineFacts
from tests.commands import halftone
from tests.endpoints import MODEL, POCKET, Served, described, digest_of_files

# Format -> the preset that gives it.
FORMATS = {"NVFP4A16": "nvfp4a16", "FP8_DYNAMIC": "fp8-dynamic"}
SPECULATIVE: dict[str, Any] = {"modes": ["text", "speculative"]}
FP8_CACHE: dict[str, Any] = {"engineArguments": {"kv_cache_dtype": "fp8"}}
# Of the GPU's memory; three endpoints stand side by side at most.
_PERCENT = 25
# What the pocket model was trained on, and texts that it was not.
QUESTIONS = [f"{n}+{2 * n + 5}=" for n in range(10, 34)]
TEXTS = [f"def scale_{n}(values, factor={n}):\n" for n in range(8)]
_AT_ONCE = 8


def on_gpu(artifact: Path, **changes: Any) -> dict[str, Any]:
    """An `Endpoint` as JSON that serves `artifact` on a share of a GPU."""
    sizes = {"gpuMemoryPercent": _PERCENT, "maxNumSeqs": 32}
    return described(artifact, accelerator="GPU", **sizes, **changes)


def source_on_gpu(cache: Path) -> dict[str, Any]:
    """The same of the pocket model as it was trained, in BF16, which nobody published."""
    return on_gpu(POCKET) | {
        "artifact": {"uri": str(POCKET), "digest": digest_of_files(POCKET)},
        "trust": {"signature": "NotRequired", "verdicts": ["Unmeasured"]},
        "cache": {"directory": str(cache)},
    }


def engine(served: Served) -> EngineFacts:
    """What the loaded engine says of itself."""
    return _document(served).engine


def _document(served: Served) -> ServedEngine:
    answer = httpx.get(served.url + ENGINE_PATH, timeout=60)
    answer.raise_for_status()
    return ServedEngine.model_validate_json(answer.content)


def compared(old: Served, new: Served, work: Path) -> Any:
    """The document of `halftone compare` on both, whatever its verdict."""
    prompts = work / "prompts.jsonl"
    chats: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": text}]} for text in QUESTIONS
    ]
    rows = chats + [{"prompt": text} for text in TEXTS]
    prompts.write_text("\n".join(map(json.dumps, rows)))
    options = ("--json", "--max-tokens", "32", "--prompts", prompts)
    found = halftone("compare", old.url, new.url, *options)
    assert found.code in (0, 1), found.err
    document = json.loads(found.out)
    assert document["method"] == "TeacherForced", document["methodBecause"]
    assert (document["old"]["failed"], document["new"]["failed"]) == (0, 0), document["failures"]
    return document


def divergence(old: Served, new: Served, work: Path) -> float:
    """Mean KL divergence of `new` from `old`, in nats a token of the old one's answers."""
    document = compared(old, new, work)
    (found,) = (each for each in document["measures"] if each["name"] == "divergence")
    value: float = found["value"]
    return value


def accept_length(served: Served) -> float:
    """Tokens a step under speculative decoding, as vLLM counts drafts, over all questions."""

    def ask(question: str) -> None:
        answer = served.client().chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": question}],
            max_tokens=64,
            temperature=0,
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(ask, QUESTIONS))
    told = _document(served).speculation
    assert told is not None
    assert told.drafts > 0, "vLLM counted no draft"
    return 1 + told.acceptedTokens / told.drafts


def side_by_side(served: Served, baseline: Served, work: Path) -> tuple[Bench, str]:
    """`halftone bench` of both in turns: its document, and the table that it prints."""
    options = ("--concurrency", "1,32", "--rounds", "3", "--requests", "2", "--output", work)
    found = halftone("bench", served.url, "--baseline", baseline.url, *options)
    assert found.code == 0, found.err
    return Bench.model_validate_json((work / "bench.json").read_text()), found.out
