"""`make accept-hardware`, as far as it goes without a GPU: its steps, its judgement, its report.

What it accepts was never run on a GPU. Commands of `halftone` are read by the program here, and
carried out there; an endpoint that answers as recorded stands in for one where steps are carried
out, and plain commands of the system for the others.

We test these aspects:
- where there is no GPU it refuses with a sentence, and makes nothing; `--dry-run` prints all steps;
- every command line is one that `halftone` reads, for each reference job and for other sources,
  recipes and options; all five modes are served and asked; gates must have run on a real device;
- the job that it writes is a job: of the same gates, published signed into the output folder, with
  paths that still lead where they did; another source or preset takes the place of the job's;
- answers that show a mode are told from those that do not;
- steps end as their commands do: a status, an answer, an endpoint that comes up or does not; what
  depends on a step that failed is not run, and everything is on record;
- the report has the machine, gates, modes, speeds and every step; one step that did not pass is a
  report that does not accept; what was not measured is said.
"""

import ast
import json
import os
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from halftone.serve.measuring.document import Bench
from halftone.spec.recipes import load_recipe, parse_job
from halftone.spec.serving import ServingMode
from tests.command_lines import read
from tests.commands import halftone
from tests.conftest import ROOT
from tests.servers.ports import free_port
from tools import examples
from tools.acceptance import gpu
from tools.acceptance.__main__ import main
from tools.acceptance.asking import MODES, fault, request, speculation_fault
from tools.acceptance.carrying import FAILED, NOT_RUN, PASSED, RESULTS, Result, carry_out
from tools.acceptance.orders import Step, Wishes, job_of, source_of, steps, write_inputs
from tools.acceptance.report import is_accepted, write_report

REFERENCES = sorted((ROOT / "examples" / "07-reference-models").glob("*.yaml"))
POCKET = ROOT / "examples" / "01-pocket-model.yaml"


def every(planned: list[Step]) -> Iterator[Step]:
    for step in planned:
        yield step
        yield from step.during


@pytest.mark.skipif(gpu.is_there(), reason="this machine has a GPU, so nothing is refused")
def test_without_a_gpu_it_refuses_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", str(tmp_path / "accepted")]) == 3
    assert "NOT RUN" in capsys.readouterr().err
    assert gpu.main([]) == 3
    assert gpu.main(["--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_every_step_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dry-run", "--output", str(tmp_path / "accepted")]) == 0
    printed = capsys.readouterr().out
    for step in every(steps(Wishes(tmp_path / "accepted"))):
        assert f"$ {step.line}" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [("--modes", "text,fast"), ("--job", "not-there.yaml")])
def test_a_wrong_option_is_a_sentence(
    options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dry-run", *options]) == 2
    assert options[1].rpartition(",")[2] in capsys.readouterr().out


@pytest.mark.parametrize("job", [*REFERENCES, POCKET], ids=lambda path: path.stem)
def test_every_step_is_a_command_line_that_a_user_could_type(job: Path, tmp_path: Path) -> None:
    wishes = Wishes(tmp_path, job, baseline="http://baseline:8000", tensor_parallel=2)
    write_inputs(wishes)
    (tmp_path / "key.pub").write_text("what `halftone keygen` leaves\n")
    lines = [step.line for step in every(steps(wishes))]
    ours = [line for line in lines if line.startswith("halftone ") and "--version" not in line]
    verbs = [read(line).info_name for line in ours]
    assert {"keygen", "plan", "run", "verify", "serve", "bench", "compare"} == set(verbs)
    others = {shlex.split(line)[0] for line in lines} - {"halftone"}
    assert others == {"nvidia-smi", "wget"}


def test_all_modes_are_served_and_asked_and_only_a_real_device_will_do(tmp_path: Path) -> None:
    assert set(MODES) == set(ServingMode)
    found = {step.name: step for step in every(steps(Wishes(tmp_path)))}
    for mode in MODES:
        assert f"--mode {mode}" in found[f"serve {mode}"].line
        assert found[f"ask {mode}"].asks == mode
    assert found["bench text"].line.endswith("--concurrency 1,8,32")
    assert "--require signature,verdict,platform" in found["verify"].line
    assert all("--gpu" in found[f"serve {mode}"].words for mode in MODES)


@pytest.mark.parametrize("path", [*REFERENCES, POCKET], ids=lambda path: path.stem)
def test_its_job_is_the_one_that_was_named_published_here(path: Path, tmp_path: Path) -> None:
    wishes = Wishes(tmp_path, path)
    named, written = yaml.safe_load(path.read_text()), job_of(wishes)
    write_inputs(wishes)
    assert yaml.safe_load((tmp_path / "job.yaml").read_text()) == written
    spec = parse_job(written, "job.yaml").spec
    assert spec.publish is not None
    assert spec.publish.directory is not None
    assert spec.publish.directory.path == str(tmp_path / "artifact")
    assert spec.publish.signingKeyRef is not None
    wanted = [gate["name"] for gate in named["spec"]["validation"]["gates"]]
    assert [gate.name for gate in spec.validation.gates] == wanted
    assert load_recipe(str(tmp_path / "recipe.yaml")).precision


def test_paths_of_a_job_still_lead_where_they_did(tmp_path: Path) -> None:
    spec = job_of(Wishes(tmp_path, examples.examples()["02"]))["spec"]
    paths = [
        spec["source"]["directory"]["path"],
        spec["quantization"]["calibration"]["dataset"]["path"],
        *(gate["task"] for gate in spec["validation"]["gates"] if "task" in gate),
    ]
    assert len(paths) == 3
    assert all(Path(path).is_absolute() and Path(path).exists() for path in paths)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("hf://org/name@abc", "hf://org/name@abc"),
        ("hf://org/name", "hf://org/name@main"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        (str(ROOT / "examples"), str(ROOT / "examples")),
    ],
)
def test_another_source_and_preset_take_the_place_of_the_jobs(
    source: str, told: str, tmp_path: Path
) -> None:
    job = job_of(Wishes(tmp_path, source=source, recipe="fp8-dynamic"))
    assert source_of(job) == told
    assert parse_job(job, "job.yaml").spec.quantization.preset == "fp8-dynamic"


def test_the_pocket_model_is_planned_by_its_own_step(tmp_path: Path) -> None:
    wishes = Wishes(tmp_path, POCKET)
    write_inputs(wishes)
    (plan,) = (step for step in steps(wishes) if step.name == "plan")
    ended = halftone(*plan.words[1:])
    assert ended.code == 0, ended.err
    assert (tmp_path / "plan.json").is_file()


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


def imported(path: Path) -> set[str]:
    """The packages that a module imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}
    return {name.split(".")[0] for name in names}


def test_it_needs_nothing_that_the_endpoints_image_has_not() -> None:
    folder = ROOT / "tools" / "acceptance"
    names = set().union(*map(imported, folder.glob("*.py")))
    assert names - sys.stdlib_module_names == {"tools", "yaml"}
    # `make` asks this one on a bare Python.
    assert imported(folder / "gpu.py") <= sys.stdlib_module_names


def test_a_report_of_nothing_says_what_is_missing(tmp_path: Path) -> None:
    text = (write_report(tmp_path, [], MODES) / "summary.md").read_text()
    assert "There is no report" in text
    assert text.count("| NotRun |") >= len(MODES)


def test_make_has_it_and_looks_for_a_gpu_before_it_makes_anything() -> None:
    shown = subprocess.run(
        ["make", "-n", "accept-hardware"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    first = shown.splitlines()[0]
    assert "tools.acceptance.gpu" in first
    assert "serve-gpu" in shown
