"""`make accept-hardware`, as far as it goes without a GPU: its steps, its job, and what it needs.

What it accepts was never run on a GPU. Commands of `halftone` are read by the program here, and one
is carried out; how steps end and what the report says is in `test_accept_hardware_report`.

We test these aspects:
- where there is no GPU it refuses with a sentence, and makes nothing; `--dry-run` prints all steps;
- every command line is one that `halftone` reads, for each reference job and for other sources,
  recipes and options; all five modes are served and asked; gates must have run on a real device;
- the job that it writes is a job: of the same gates, published signed into the output folder, with
  paths that still lead where they did; another source or preset takes the place of the job's;
- a file that is no such job, and an output folder with work of another one, are sentences; what an
  earlier attempt measured does not stand in the report of this one;
- it imports nothing that the endpoint's image has not, and `make` looks for a GPU first.
"""

import ast
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from halftone.spec.recipes import load_recipe, parse_job
from halftone.spec.serving import ServingMode
from tests.command_lines import read
from tests.commands import halftone
from tests.conftest import ROOT
from tools import examples
from tools.acceptance import gpu
from tools.acceptance.__main__ import main
from tools.acceptance.asking import MODES
from tools.acceptance.orders import (
    Step,
    Wishes,
    is_of_another_job,
    job_of,
    source_of,
    steps,
    write_inputs,
)

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


@pytest.mark.parametrize(
    "text",
    ["kind: List\n", "[1]\n", "spec: {source: {pvc: {}}, quantization: {}}\n", "a: [\n"],
    ids=["no spec", "no mapping", "a claim", "no YAML"],
)
def test_a_file_that_is_no_such_job_is_a_sentence(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.yaml").write_text(text)
    assert main(["--dry-run", "--job", str(tmp_path / "job.yaml")]) == 2
    assert "is no QuantizationJob whose source is" in capsys.readouterr().out


def test_work_of_another_job_is_not_mixed_with_this_one(tmp_path: Path) -> None:
    first, other = Wishes(tmp_path, POCKET), Wishes(tmp_path, POCKET, recipe="fp8-block")
    write_inputs(first)
    assert not is_of_another_job(other)  # nothing was made yet
    (tmp_path / "work").mkdir()
    assert not is_of_another_job(first)
    assert is_of_another_job(other)
    assert is_of_another_job(Wishes(tmp_path, POCKET, source="hf://org/name"))


def test_another_attempt_goes_on_from_what_was_made_and_measures_anew(tmp_path: Path) -> None:
    kept = ("key", "work/report.json", "artifact/artifact.json")
    gone = ("bench/text/bench.json", "logs/run.log", "report/summary.md", "plan.json")
    for name in (*kept, *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("of an earlier attempt")
    write_inputs(Wishes(tmp_path, POCKET, modes=("text",)))
    assert all((tmp_path / name).exists() for name in kept)
    assert not any((tmp_path / name).exists() for name in gone)
    assert [path.stem for path in (tmp_path / "requests").glob("*.json")] == ["text"]


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


def test_make_has_it_and_looks_for_a_gpu_before_it_makes_anything() -> None:
    shown = subprocess.run(
        ["make", "-n", "accept-hardware"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    first = shown.splitlines()[0]
    assert "tools.acceptance.gpu" in first
    assert "serve-gpu" in shown
