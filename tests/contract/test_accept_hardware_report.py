"""An acceptance's judgement and report, from answers and results as an endpoint and its steps give.

An endpoint that answers as recorded stands in for one, and plain commands of the system for others.

We test these aspects:
- answers that show a mode are told from those that do not;
- steps end as their commands do: a status, an answer, an endpoint that comes up or does not; what
  depends on a step that failed is not run, and everything is on record;
- a port that is taken is told, and whoever listens there is not asked; no proxy is;
- the report has the machine, gates, modes, speeds and every step; one step that did not pass is a
  report that does not accept; what was not measured or not asked for is said.
"""

import json
import os
import socket
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halftone.serve.measuring.document import Bench
from tests.commands import halftone
from tests.conftest import ROOT
from tests.servers.ports import free_port
from tools.acceptance.asking import MODES, fault, request, speculation_fault
from tools.acceptance.carrying import FAILED, NOT_RUN, PASSED, RESULTS, Result, carry_out
from tools.acceptance.orders import Step, Wishes, steps, write_inputs
from tools.acceptance.report import is_accepted, write_report

POCKET = ROOT / "examples" / "01-pocket-model.yaml"


def every(planned: list[Step]) -> Iterator[Step]:
    for step in planned:
        yield step
        yield from step.during


def answer(text: str | None = None, *tools: str) -> str:
    calls = [{"function": {"name": name, "arguments": "{}"}} for name in tools]
    message = {"role": "assistant", "content": text, "tool_calls": calls}
    return json.dumps({"choices": [{"message": message}]})


GOOD = {
    "text": answer("12 + 345 = 357"),
    "multimodal": answer("Red"),
    "tools": answer(None, "get_weather"),
    "speculative": answer("1, 2, 3, …, 58, 59, 60"),
    "longContext": answer("74291"),
}


@pytest.mark.parametrize("mode", MODES)
def test_answers_that_show_a_mode_are_told_from_others(mode: str) -> None:
    assert fault(mode, GOOD[mode]) is None
    wrong = ["", "not JSON", "{}", '{"error": {"message": "no"}}', answer("I do not know.")]
    wrong += ['{"choices": [{"message": {"tool_calls": [{"id": 1}]}}]}']
    wrong += ['{"choices": [{"message": {"content": [{"type": "text"}]}}]}']
    assert None not in [fault(mode, text) for text in wrong]
    body = request(mode)
    assert ("tools" in body) is (mode == "tools")
    assert len(json.dumps(body)) < 2_000_000


def test_drafts_must_have_been_taken() -> None:
    engine = {"speculation": {"drafts": 10, "acceptedTokens": 7}}
    assert speculation_fault(json.dumps(engine)) is None
    for told in (None, {"drafts": 10, "acceptedTokens": 0}, {"drafts": 0, "acceptedTokens": 0}):
        assert speculation_fault(json.dumps({"speculation": told})) is not None


def carried(output: Path, *planned: Step) -> dict[str, Result]:
    said: list[str] = []
    found = carry_out(list(planned), output, said.append)
    recorded = json.loads((output / RESULTS).read_text())
    assert [Result(**one) for one in recorded] == found
    assert len([line for line in said if not line.startswith("$")]) == len(found)
    return {one.name: one for one in found}


def test_a_step_ends_as_its_command_does(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.write_text("by another attempt")
    found = carried(
        tmp_path,
        Step("yes", ("true",)),
        Step("there", ("false",), made=made),
        Step("no", ("sh", "-c", "echo why not >&2; exit 4")),
        Step("unknown", ("halftone-has-no-such-program",)),
        Step("goes on", ("true",), required=True),
        Step("stops", ("false",), required=True),
        Step("after", ("true",), during=(Step("inner", ("true",)),)),
    )
    outcomes = {name: result.outcome for name, result in found.items()}
    assert outcomes == {
        "yes": PASSED, "there": PASSED, "no": FAILED, "unknown": FAILED, "goes on": PASSED,
        "stops": FAILED, "after": NOT_RUN, "inner": NOT_RUN,
    }  # fmt: skip
    assert found["no"].told == "exit status 4: why not"
    assert (tmp_path / "logs" / "no.log").read_text() == "why not\n"


def test_the_words_halftone_start_this_environments_own(tmp_path: Path) -> None:
    found = carried(tmp_path, Step("version", ("halftone", "--version")))
    assert found["version"].outcome == PASSED, found["version"].told
    assert "halftone" in (tmp_path / "logs" / "version.log").read_text()


# An endpoint that answers as one in the mode `text` would; ends as `halftone serve` does by SIGINT.
ENDPOINT = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.say(b"{}")
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"])); self.say(sys.argv[2].encode())
    def say(self, body):
        self.send_response(200); self.send_header("content-length", str(len(body)))
        self.end_headers(); self.wfile.write(body)
    def log_message(self, *words): pass
try: http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
except KeyboardInterrupt: print("ended in order")
"""


def endpoint(output: Path, said: str) -> Step:
    """The step that serves the mode `text`, with a stand-in that says this; it is asked once."""
    wishes = Wishes(output, port=free_port())
    write_inputs(wishes)
    (real,) = (step for step in steps(wishes) if step.name == "serve text")
    words = (sys.executable, "-c", ENDPOINT, str(wishes.port), said)
    return replace(real, words=words, during=real.during[:1])


def test_an_endpoint_is_up_while_it_is_asked_and_ended_after(tmp_path: Path) -> None:
    serve = endpoint(tmp_path, GOOD["text"])
    found = carried(tmp_path, serve)
    assert [one.outcome for one in found.values()] == [PASSED, PASSED], found
    assert (tmp_path / "logs" / "serve-text.log").read_text() == "ended in order\n"
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(serve.url, timeout=5)


def test_a_wrong_answer_and_an_endpoint_that_ends_do_not_pass(tmp_path: Path) -> None:
    wrong = endpoint(tmp_path, answer("358"))
    found = carried(tmp_path, wrong)
    assert found["serve text"].outcome == PASSED
    assert found["ask text"].outcome == FAILED
    assert "does not hold '357'" in found["ask text"].told
    dead = replace(wrong, name="dead", words=("sh", "-c", "echo refused: no head >&2; exit 2"))
    found = carried(tmp_path, dead)
    assert found["dead"].told == "ended with status 2: refused: no head"
    assert found["ask text"].outcome == NOT_RUN


def test_an_endpoint_of_somebody_else_is_not_asked_in_its_place(tmp_path: Path) -> None:
    serve = endpoint(tmp_path, GOOD["text"])
    with socket.create_server(("127.0.0.1", int(serve.url.rpartition(":")[2]))):
        found = carried(tmp_path, serve)
    assert found["serve text"].outcome == FAILED
    assert "something else answers at" in found["serve text"].told
    assert found["ask text"].outcome == NOT_RUN


def test_no_proxy_stands_between_a_step_and_the_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "elsewhere.example")
    serve = endpoint(tmp_path, GOOD["text"])
    shown = Step("proxies", ("sh", "-c", "echo $no_proxy"))
    found = carried(tmp_path, shown, serve)
    assert [one.outcome for one in found.values()] == [PASSED] * 3, found
    assert (tmp_path / "logs" / "proxies.log").read_text() == "127.0.0.1,elsewhere.example\n"


FIGURES: dict[str, Any] = {
    "requests": 20, "failed": 0, "firstFailure": None, "ttftMs": {"p50": 33.7, "p95": 40.0},
    "itlMs": {"p50": 5.32, "p95": 6.0}, "tokensPerSecondPerUser": None, "tokensPerSecond": 188.0,
    "acceptLength": None, "tokensPerChunk": None,
}  # fmt: skip
BENCH: dict[str, Any] = {
    "endpoint": {"url": "http://127.0.0.1:8000", "model": "accepted"}, "baseline": None,
    "inputTokens": 256, "outputTokens": 64, "rounds": 5,
    "loads": [{"concurrency": 1, "endpoint": FIGURES, "baseline": None, "ratios": None}],
    "capacity": {"card": None, "requestSeconds": None, "noCardBecause": "not asked for"},
}  # fmt: skip


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output folder as an acceptance of the pocket model leaves it."""
    made = tmp_path / "accepted"
    wishes = Wishes(made, POCKET)
    write_inputs(wishes)
    (plan,) = (step for step in steps(wishes) if step.name == "plan")
    assert halftone(*plan.words[1:]).code == 0
    gate = {
        "name": "divergence", "metric": "KlDivergence", "score": "0.012", "limit": "≤ 0.02 nats",
        "sourceScore": None, "quantizedScore": None, "outcome": "Passed",
    }  # fmt: skip
    report = {"verdict": "Passed", "platform": {"device": "NVIDIA B200"}, "gates": [gate]}
    bench = Bench.model_validate(BENCH)
    for name, text in {
        "work/report.json": json.dumps(report),
        "work/report.html": "<!doctype html>",
        "artifact/artifact.json": json.dumps({"checkpointDigest": "d" * 64}),
        "bench/text/bench.json": bench.model_dump_json(),
        "bench/text/capacity/card.json": "{}",
        "logs/machine.log": "index, name\n0, NVIDIA B200\n",
        "logs/version.log": "halftone, version 0.1.0\n",
    }.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


def recorded(output: Path, **outcomes: str) -> list[Result]:
    planned = every(steps(Wishes(output, POCKET)))
    return [
        Result(step.name, step.line, outcomes.get(step.name.replace(" ", "_"), PASSED), 3.0, "")
        for step in planned
    ]


def test_the_report_has_everything_that_was_found(output: Path) -> None:
    results = recorded(output)
    folder = write_report(output, results, MODES)
    text = (folder / "summary.md").read_text()
    assert is_accepted(results)
    assert text.startswith(f"# Accepted: {len(results)} steps")
    for wanted in (
        "| GPU 0 | 0, NVIDIA B200 |", "halftone, version 0.1.0", "3.56 where it is quantized",
        "Verdict Passed, on NVIDIA B200.", "| divergence | KlDivergence | 0.012 | ≤ 0.02 nats |",
        "| 1 | endpoint | 33.7, 40.0 | 5.32 | 188.0 |", "d" * 64,
    ):  # fmt: skip
        assert wanted in text
    assert all(f"| {mode} | Passed | 3 | Passed |" in text for mode in MODES)
    assert all(f"| {one.name} | Passed | 3 | `{one.line}` |" in text for one in results)
    assert "Not measured in the mode speculative." in text
    held = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"report.html", "machine.json", "plan.json", "capacity/card.json"} <= held
    assert json.loads((folder / "machine.json").read_text())["processors"] == os.cpu_count()


@pytest.mark.parametrize("outcome", [FAILED, NOT_RUN])
def test_one_step_that_did_not_pass_accepts_nothing(output: Path, outcome: str) -> None:
    results = recorded(output, ask_tools=outcome)
    assert not is_accepted(results)
    text = (write_report(output, results, MODES) / "summary.md").read_text()
    assert text.startswith("# Not accepted")
    assert f"- `ask tools` {outcome}" in text
    assert f"| tools | Passed | 3 | {outcome} |" in text
    assert not is_accepted([])


def test_modes_that_nobody_asked_for_are_named(output: Path) -> None:
    text = (write_report(output, recorded(output), ("text",)) / "summary.md").read_text()
    assert "Not asked for: multimodal, tools, speculative, longContext." in text


def test_a_report_of_nothing_says_what_is_missing(tmp_path: Path) -> None:
    text = (write_report(tmp_path, [], MODES) / "summary.md").read_text()
    assert "There is no report" in text
    assert text.count("| NotRun |") >= len(MODES)
