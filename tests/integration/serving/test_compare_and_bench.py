"""`halftone compare` and `bench` on real vLLM servers of a good checkpoint and of a ruined one.

All serve the pocket model: its source, what `nvfp4a16` makes of it, and that with the global scales
of every attention and MLP doubled, which halves their weights without an error of any server.
Slow and broken endpoints are a double in front of the source's real one.
We test these aspects:
- the quantized model is not worse, and its divergence is within what its gate asks for
- the sabotaged one is worse by its divergence, with reasons that say so
- a slow first token and slow tokens are each worse by their own measure, at no divergence at all
- streams that are cut, and streams that end with an error event, are failures with sentences
- an endpoint that scores nothing is compared up to where answers part, and the document says so
- the old endpoint against itself diverges by nothing, and answers alike
- keys: a wrong one is refused with a sentence that names the option and not the key
- `--output` holds what `--json` prints
- the bench has every load of both endpoints, with ratios, and a card that an artifact would take;
  requests that broke off are counted as failed
- loads that the context cannot take are refused before any is put on
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from halftone.checkpoint.index import read_checkpoint
from halftone.publish.capacity_cards import require_card
from halftone.stores import open_source
from tests.builders import sabotage
from tests.commands import Outcome, halftone, quantize_directory
from tests.conftest import ROOT
from tests.doubles.worse_endpoint import Worse, worse_endpoint
from tests.environments import python_of
from tests.servers.vllm import DIGEST, Asked, vllm_servers

pytestmark = pytest.mark.serve_env

POCKET = ROOT / "examples/pocket-model/checkpoint"
KEY = "the-small-one's-key"
# Times of one machine with three servers on it decide nothing here, unless a test makes them.
PATIENT = ("--max-ttft-increase-percent", "1e9", "--max-itl-increase-percent", "1e9")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def urls(work: Path) -> Iterator[dict[str, str]]:
    good = quantize_directory(POCKET, work / "good").directory
    ruined = shutil.copytree(good, work / "ruined")
    with closing(open_source(ruined)) as opened:
        names = [name for name in read_checkpoint(opened).tensors if name.endswith("_global_scale")]
    sabotage.double_global_scale(ruined, [name.rpartition(".")[0] for name in names])
    asked = {"source": Asked(POCKET, replicas=1), "good": Asked(good, KEY), "ruined": Asked(ruined)}
    with vllm_servers(work, asked) as urls:
        yield urls


@pytest.fixture(scope="module")
def prompts(work: Path) -> Path:
    path = work / "prompts.jsonl"
    chats: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": f"{n}+{n + 7}"}]} for n in range(10, 16)
    ]
    texts: list[dict[str, Any]] = [
        {"prompt": f"def add_{n}(a, b):\n", "max_tokens": 12} for n in range(6)
    ]
    path.write_text("\n".join(map(json.dumps, chats + texts)))
    return path


def compare(old: str, new: str, prompts: Path, *options: str | Path) -> tuple[Outcome, Any]:
    found = halftone(
        "compare", old, new, "--prompts", prompts, "--json", "--max-tokens", "8", *options
    )
    return found, json.loads(found.out) if found.out else None


def measure(document: Any, name: str) -> Any:
    [found] = [each for each in document["measures"] if each["name"] == name]
    return found


def test_the_quantized_model_is_good(urls: dict[str, str], prompts: Path, work: Path) -> None:
    key, output = work / "key", work / "out" / "comparison.json"
    key.write_text(KEY + "\n")
    options = (*PATIENT, "--new-api-key-file", key, "--output", output, "--concurrency", "2")
    found, document = compare(urls["source"], urls["good"] + "/v1", prompts, *options)
    assert (found.code, document["verdict"]) == (0, "Same"), found.out
    assert (document["method"], document["old"]["model"]) == ("TeacherForced", "source")
    divergence = measure(document, "divergence")
    assert 0 < divergence["value"] < 0.02
    assert divergence["bounds"]["upper"] < 0.05
    assert document["answers"]["compared"] == 12
    assert json.loads(output.read_text()) == document
    assert KEY not in found.out + found.err


def test_the_sabotaged_model_is_worse(urls: dict[str, str], prompts: Path) -> None:
    found, document = compare(urls["source"], urls["ruined"], prompts, *PATIENT)
    assert (found.code, document["verdict"]) == (1, "Worse")
    divergence = measure(document, "divergence")
    assert divergence["outcome"] == "Failed"
    assert divergence["bounds"]["lower"] > 0.05
    assert document["reasons"][0] == divergence["message"]
    assert document["answers"]["topOneAgreementPercent"] < 100


@pytest.mark.parametrize(
    ("worse", "name"),
    [(Worse(first_token_s=0.6), "ttft"), (Worse(token_s=0.15), "itl")],
    ids=["first token", "every token"],
)
def test_a_slow_endpoint_is_worse_by_its_time(
    urls: dict[str, str], prompts: Path, worse: Worse, name: str
) -> None:
    with worse_endpoint(urls["source"], worse) as slow:
        # A busy machine makes the old one slow too, and the share that is added small.
        limit = (f"--max-{name}-increase-percent", "2")
        found, document = compare(urls["source"], slow, prompts, "--concurrency", "3", *limit)
    assert (found.code, document["verdict"]) == (1, "Worse"), found.out
    assert measure(document, name)["outcome"] == "Failed"
    assert measure(document, "divergence")["value"] == pytest.approx(0, abs=1e-4)
    assert measure(document, "divergence")["outcome"] == "Passed"
    assert document["answers"]["equalPercent"] == 100


@pytest.mark.parametrize(
    ("worse", "said"),
    [
        (Worse(cut_every=1), r"broke off after \d tokens?"),
        (Worse(error_every=1), r"ended with an error after \d tokens?: the engine died"),
    ],
    ids=["cut", "error event"],
)
def test_broken_streams_are_failures(
    urls: dict[str, str], work: Path, worse: Worse, said: str
) -> None:
    prompts = work / "texts.jsonl"
    prompts.write_text("\n".join(f'{{"prompt": "def f{n}("}}' for n in range(8)))
    with worse_endpoint(urls["source"], worse) as broken:
        found, document = compare(urls["source"], broken, prompts)
    assert (found.code, document["verdict"]) == (1, "Worse")
    assert (document["new"]["failed"], document["old"]["failed"]) == (8, 0)
    # A chunk of a busy server may have several tokens, or all but the last one.
    for each in document["failures"]:
        assert re.fullmatch(said, each["message"])
    assert re.fullmatch(
        f"8 of 8 prompts failed on the new endpoint alone; prompt 1 {said}.", document["reasons"][0]
    )


def test_without_scores_streams_are_compared_until_they_part(
    urls: dict[str, str], prompts: Path
) -> None:
    with worse_endpoint(urls["source"], Worse(scores=False)) as plain:
        _, equal = compare(urls["source"], plain, prompts, *PATIENT)
        _, document = compare(plain, urls["ruined"], prompts, *PATIENT)
    assert (equal["verdict"], equal["method"]) == ("Same", "CommonPrefix"), equal["reasons"]
    assert equal["methodBecause"] == "the new endpoint answered 400: no such parameter"
    assert measure(equal, "divergence")["value"] == pytest.approx(0, abs=1e-4)
    assert document["method"] == "CommonPrefix"
    assert measure(document, "divergence")["value"] > 0.05
    assert "up to where the answers differ" in measure(document, "divergence")["message"]


def test_a_table_for_people(urls: dict[str, str], prompts: Path) -> None:
    found = halftone(
        "compare",
        urls["source"],
        urls["source"],
        "--prompts",
        prompts,
        "--max-tokens",
        "8",
        *PATIENT,
    )
    assert found.code == 0
    for line in ("TTFT p50 (ms)", "ITL p95 (ms)", "divergence (nats a token)", "verdict Same"):
        assert line in found.out
    assert "12 of 12" in found.out


def test_a_wrong_key_is_refused(urls: dict[str, str], prompts: Path, work: Path) -> None:
    wrong = work / "wrong"
    wrong.write_text("not-" + KEY)
    found, _ = compare(urls["source"], urls["good"], prompts, "--new-api-key-file", wrong)
    assert found.code == 2
    assert found.err == (
        f"halftone: '{urls['good']}' answered 401 to `/v1/models`; give its API key with "
        "`--new-api-key-file` or in VLLM_API_KEY.\n"
    )


def test_a_model_that_is_not_served(urls: dict[str, str], prompts: Path) -> None:
    found, _ = compare(urls["source"], urls["ruined"], prompts, "--new-model", "other")
    assert found.code == 2
    assert "serves 'ruined' and not the 'other' of `--new-model`" in found.err


@pytest.fixture
def serve_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALFTONE_SERVE_PYTHON", str(python_of("serve")))


SMALL = ("--input-tokens", "24", "--output-tokens", "6", "--requests", "1", "--rounds", "2")


@pytest.mark.usefixtures("serve_python")
def test_bench_beside_the_source(urls: dict[str, str], work: Path) -> None:
    key, output = work / "bench-key", work / "bench"
    key.write_text(KEY)
    # Its streams 4, 8 and 12 break off: one of the three at a time, in each round and before them.
    with worse_endpoint(urls["good"], Worse(cut_every=4)) as broken:
        baseline = ("--baseline", broken, "--baseline-api-key-file", key)
        options = (*baseline, "--concurrency", "1,3", *SMALL, "--output", output)
        found = halftone("bench", urls["source"], *options)
    assert found.code == 0, found.err
    assert KEY not in found.out + found.err
    document = json.loads((output / "bench.json").read_text())
    assert [load["concurrency"] for load in document["loads"]] == [1, 3]
    assert [load["endpoint"]["failed"] for load in document["loads"]] == [0, 0]
    assert [load["baseline"]["failed"] for load in document["loads"]] == [0, 2]
    assert "failed 2 of 6 requests at 3 at a time on the baseline: " in found.out
    for load in document["loads"]:
        for side in (load["endpoint"], load["baseline"]):
            assert side["requests"] == 2 * load["concurrency"]
            assert 0 < side["ttftMs"]["p50"] <= side["ttftMs"]["p95"]
            assert side["tokensPerSecond"] > 0
            assert side["acceptLength"] is None
        ratio = load["ratios"]["tokensPerSecond"]
        assert ratio["lower"] < ratio["value"] < ratio["upper"]
    [path] = (output / "capacity").iterdir()
    require_card(f"capacity/{path.name}", path.read_bytes(), DIGEST)
    card = document["capacity"]["card"]
    assert json.loads(path.read_bytes()) == card
    assert (card["emulated"], card["kvBlocks"]) == (True, 2048)
    # Of 18 bursts and 5 prompts; a burst whose tokens came in few chunks gives none.
    assert 8 <= card["samples"] <= 23
    assert f"capacity card {path}" in found.out


@pytest.mark.usefixtures("serve_python")
def test_bench_of_more_than_the_context(urls: dict[str, str]) -> None:
    found = halftone("bench", urls["source"], "--input-tokens", "500", "--output-tokens", "13")
    assert found.code == 2
    assert "are 513 together" in found.err
    assert "takes 512; ask for fewer" in found.err
