"""The command line's contract: options, keys of the JSON, exit codes, what goes where.

Other programs read what stands here; a key or a code that changes breaks them.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from halftone import __version__
from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.recipes import load_recipe, presets
from tests.builders import read_checkpoint, write_checkpoint
from tests.commands import Made, files_of, halftone, start
from tests.refusals import change_config

PLAN_KEYS = {
    "digest",
    "architecture",
    "method",
    "source",
    "output",
    "roles",
    "groups",
    "warnings",
    "refusal",
}
ROLE_KEYS = {"role", "format", "tensors", "parameters", "bytesBefore", "bytesAfter"}


def test_help_names_every_verb() -> None:
    ended = halftone("--help")

    assert (ended.code, ended.err) == (0, "")
    for verb in ("plan", "quantize", "inspect", "run", "stage", "recipes"):
        assert f"\n  {verb} " in ended.out
        described = halftone(verb, "--help")
        assert described.code == 0
        assert described.out.startswith(f"Usage: halftone {verb} ")


def test_the_version_is_told() -> None:
    assert halftone("--version").out == f"halftone, version {__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom halftone.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numba', 'numpy', 'boto3', 'huggingface_hub', 'rich', 'pydantic', 'yaml'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert ended.stderr == "[]\n"


def test_planning_loads_no_kernels_and_no_client_of_a_store(tiny_source: Path) -> None:
    script = (
        "import sys\nfrom halftone.cli.main import main\n"
        f"try: main(['plan', {str(tiny_source)!r}, '--recipe', 'nvfp4a16', '--json'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numba', 'boto3', 'huggingface_hub'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert ended.stderr == "[]\n"


def test_a_command_works_with_standard_error_closed(tiny_source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "halftone", "quantize", str(tiny_source)]
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    shell += [str(tmp_path / "output"), "--recipe", "nvfp4a16"]

    assert subprocess.run(shell, stdout=subprocess.PIPE).returncode == 0
    assert (tmp_path / "output" / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["quantise"], "No such command 'quantise'"),
        (["plan"], "Missing argument 'SOURCE'"),
        (["plan", "x"], "Missing option '--recipe'"),
        (["plan", "x", "--recipe", "nvfp4a16", "--context", "0"], "0 is not in the range x>=1"),
        (["quantize", "x", "y", "--recipe", "nvfp4a16", "--workers", "0"], "range 1<=x<=256"),
        (["quantize", "x", "y", "--recipe", "r", "--scale-search", "Best"], "'MinMax'"),
        (["quantize", "x", "y", "--recipe", "r", "--max-shard-bytes", "0"], "range x>=1"),
        (["stage", "inspect", "--workdir", "w"], "'validate'"),
        (["run", "absent.yaml", "--workdir", "w"], "'absent.yaml' does not exist"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], words: str) -> None:
    ended = halftone(*arguments)

    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err


# plan


def test_a_plan_in_json_has_the_promised_keys_and_nothing_beside_it(tiny_source: Path) -> None:
    ended = halftone("plan", tiny_source, "--recipe", "nvfp4a16", "--json")

    assert (ended.code, ended.err) == (0, "")
    document = json.loads(ended.out)
    assert document.keys() >= PLAN_KEYS
    assert (document["architecture"], document["method"]) == ("qwen3_5", "DataFree")
    tensors = read_checkpoint(tiny_source)
    assert document["source"]["tensors"] == len(tensors)
    assert document["source"]["bytes"] == sum(len(one.data) for one in tensors.values())
    assert document["output"].keys() >= {"bytes", "kvScaleBytes", "files"}
    assert document["output"]["kvScaleBytes"] == 0
    assert all(line.keys() == ROLE_KEYS for line in document["roles"])
    assert sum(line["bytesBefore"] for line in document["roles"]) == document["source"]["bytes"]
    assert sum(line["bytesAfter"] for line in document["roles"]) == document["output"]["bytes"]
    assert sum(line["tensors"] for line in document["roles"]) == len(tensors)
    assert {"name", "format", "members"} == document["groups"][0].keys()
    assert document["refusal"] is None
    assert "tensors" not in document


def test_the_planned_files_are_those_that_are_written(tiny_source: Path, tiny_made: Made) -> None:
    document = json.loads(halftone("plan", tiny_source, "--recipe", "nvfp4a16", "--json").out)

    written = files_of(tiny_made.directory)
    for file in document["output"]["files"]:
        assert file["sizeBytes"] == len(written[file["path"]])
    assert document["digest"] == tiny_made.document.planDigest
    stored = read_checkpoint(tiny_made.directory).values()
    assert document["output"]["bytes"] == sum(len(one.data) for one in stored)


def test_a_refused_plan_in_json_says_why_and_has_no_output(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "mixtral")

    ended = halftone(
        "plan", source, "--recipe", "nvfp4a16-mlp", "--json", "--output", tmp_path / "plan.json"
    )

    document = json.loads(ended.out)
    assert ended.code == 2
    assert document.keys() >= PLAN_KEYS
    assert document["output"] is None
    assert document["refusal"]["reason"] == "NothingToQuantize"
    assert document["refusal"]["subject"] == "quantization.precision"
    assert ended.err == f"halftone: {document['refusal']['message']}\n"
    assert document["source"]["tensors"] > 0
    assert not (tmp_path / "plan.json").exists()


def test_a_refused_plan_prints_no_plan_for_people(tmp_path: Path) -> None:
    ended = halftone("plan", tmp_path / "absent", "--recipe", "nvfp4a16")

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1


def test_the_plan_file_has_a_row_for_every_tensor(tiny_source: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "plan.json"
    shown = halftone("plan", tiny_source, "--recipe", "nvfp4a16", "--json", "--output", path)

    plan = Plan.load(path)
    assert plan.digest == plan.compute_digest() == json.loads(shown.out)["digest"]
    assert {row.name for row in plan.tensors} == read_checkpoint(tiny_source).keys()
    assert plan.output is not None
    assert len(plan.layout) == sum(file.tensors for file in plan.output.files)
    assert path.read_bytes().endswith(b"\n")


def test_a_plan_for_people_names_what_matters(tiny_source: Path) -> None:
    ended = halftone("plan", tiny_source, "--recipe", "nvfp4a16-mlp")

    assert (ended.code, ended.err) == (0, "")
    for words in ("qwen3_5", "licence apache-2.0", "recipe nvfp4a16-mlp", "Mlp", "NVFP4A16"):
        assert words in ended.out
    for words in ("kept", "quantized part", "whole checkpoint", "smaller", "plan "):
        assert words in ended.out


def test_names_in_brackets_are_no_markup(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "[red]model[/nothing]", "qwen3")

    ended = halftone("plan", source, "--recipe", "nvfp4a16")

    assert ended.code == 0
    assert str(source) in ended.out


def test_what_fits_is_added_for_a_device(tiny_source: Path) -> None:
    ended = halftone(
        "plan", tiny_source, "--recipe", "nvfp4a16", "--gpu", "B200", "--context", "1024", "--json"
    )

    document = json.loads(ended.out)
    assert ended.code == 0
    assert document["fit"]["context"] == 1024
    unknown = halftone("plan", tiny_source, "--recipe", "nvfp4a16", "--gpu", "B2000")
    assert unknown.code == 2
    assert "B200" in unknown.err


def test_an_unknown_device_is_told_before_the_source_is_read(tmp_path: Path) -> None:
    ended = halftone(
        "plan", tmp_path / "absent", "--recipe", "nvfp4a16", "--gpu", "B2000", "--json"
    )

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("halftone: `--gpu` 'B2000' is not in the device table; use one of")


def test_a_plan_is_given_where_only_its_fit_is_impossible(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3")
    change_config(source, num_key_value_heads="many")
    path = tmp_path / "plan.json"
    options = ("--recipe", "nvfp4a16", "--gpu", "B200")

    ended = halftone("plan", source, *options, "--json", "--output", path)

    document = json.loads(ended.out)
    assert (ended.code, document["fit"], document["refusal"]) == (2, None, None)
    assert ended.err.startswith("halftone: ")
    assert "num_key_value_heads" in ended.err
    assert Plan.load(path).digest == document["digest"]
    for_people = halftone("plan", source, *options)
    assert (for_people.code, for_people.err) == (2, ended.err)
    assert f"plan {document['digest']}" in for_people.out


def test_lines_are_whole_however_narrow_the_terminal(
    tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    recipe = tmp_path / "[bold]mine.yaml"
    recipe.write_text(
        "precision: [{role: Mlp, format: NVFP4A16}, {role: Experts, format: NVFP4A16}]"
    )
    options = ("--recipe", recipe, "--gpu", "B200")
    document = json.loads(halftone("plan", tiny_source, *options, "--json").out)

    planned = halftone("plan", tiny_source, *options).out.splitlines()
    inspected = halftone("inspect", tiny_source).out.splitlines()

    assert f"plan {document['digest']}" in planned
    for notice in document["warnings"]:
        assert f"warning {notice['message']}" in planned
    for note in document["fit"]["notes"]:
        assert f"note {note}" in planned
    assert any(line.startswith("recipe [bold]mine, method DataFree, ") for line in planned)
    for line in document["roles"]:
        assert any(
            f"{line['parameters']:,}" in told and told.startswith(line["role"]) for told in planned
        )
    assert any(line.startswith("read ") and "bytes searched for NaN" in line for line in inspected)


def test_the_size_of_shards_can_be_chosen(tiny_source: Path, tmp_path: Path) -> None:
    options = ("--recipe", "nvfp4a16", "--max-shard-bytes", "200000")
    planned = json.loads(halftone("plan", tiny_source, *options, "--json").out)
    ended = halftone("quantize", tiny_source, tmp_path / "output", *options)

    assert ended.code == 0
    names = [file["path"] for file in planned["output"]["files"]]
    assert len(names) > 3
    assert names == sorted(path.name for path in (tmp_path / "output").glob("*.safetensors"))


# quantize, recipes, inspect


def test_quantizing_tells_errors_and_digest(tiny_source: Path, tmp_path: Path) -> None:
    ended = halftone("quantize", tiny_source, tmp_path / "output", "--recipe", "nvfp4a16")

    document = CheckpointDocument.load(tmp_path / "output" / "checkpoint.json")
    assert ended.code == 0
    assert f"digest {document.digest}" in ended.out
    for line in document.roles:
        assert f"{line.role}: {line.format}, relative error {line.relativeError}" in ended.out
    again = halftone("quantize", tiny_source, tmp_path / "output", "--recipe", "nvfp4a16", "--json")
    assert json.loads(again.out)["digest"] == document.digest


def test_quantizing_tells_the_warnings_of_its_plan(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3", licence=None)

    ended = halftone("quantize", source, tmp_path / "output", "--recipe", "nvfp4a16-mlp")

    assert ended.code == 0
    assert "halftone: warning: The source has neither a licence file nor" in ended.err
    assert ended.failure.startswith('{"stage": "quantize"')


def test_a_search_on_the_command_line_overrides_the_recipe(
    tiny_source: Path, tmp_path: Path
) -> None:
    options = ("--recipe", "nvfp4a16-mlp", "--scale-search", "MeanSquaredError", "--workers", "1")
    ended = halftone("quantize", tiny_source, tmp_path / "output", *options)

    [line] = CheckpointDocument.load(tmp_path / "output" / "checkpoint.json").roles
    assert line.minMaxError is not None
    assert line.relativeError < line.minMaxError
    assert f"(MinMax: {line.minMaxError})" in ended.out


def test_recipes_are_listed_and_printed_as_files(tmp_path: Path) -> None:
    listed = halftone("recipes")

    assert (listed.code, listed.err) == (0, "")
    assert [line.split()[0] for line in listed.out.splitlines()] == list(presets())
    for name in presets():
        file = tmp_path / f"{name}.yaml"
        file.write_text(halftone("recipes", name).out)
        assert load_recipe(str(file)) == load_recipe(name)


def test_an_unknown_recipe_is_refused_with_those_there_are() -> None:
    ended = halftone("recipes", "nvfp5")

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("halftone: There is no recipe 'nvfp5'; there are fp8-block, ")


def test_inspecting_our_output_finds_no_defect(tiny_source: Path, tiny_made: Made) -> None:
    ended = halftone("inspect", tiny_made.directory, "--source", tiny_source, "--json")

    document = json.loads(ended.out)
    assert (ended.code, document["defects"]) == (0, [])
    stated = {group.name: group.relativeError for group in tiny_made.document.groups}
    measured = {group["name"]: group["relativeErrorServing"] for group in document["groups"]}
    assert measured == {
        name: pytest.approx(float(error), abs=2e-6) for name, error in stated.items()
    }


def test_the_module_runs_like_the_command() -> None:
    process = start("--version")
    out, err = process.communicate()

    assert (process.returncode, out, err) == (0, f"halftone, version {__version__}\n", "")
