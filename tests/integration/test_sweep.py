"""We test these aspects of `halftone sweep`, from the command line to its files:

- without data: the recipe loads, its plan has the promised bytes and digest, and the weight errors
  are those that `quantize` then states; the plot names what it shows;
- with data: each layer's divergence is what a second implementation of the model gives, for rounded
  weights and for rounded activations, and the choice follows from the table;
- a budget that cannot be met names one that can, and that one can;
- budgets that are none, sources and outputs that cannot be used, and a missing environment are
  refused in one sentence, before anything is measured or written.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from halftone.quantize.sweep.document import Measure, SweepDocument
from halftone.spec.formats import Format
from halftone.spec.names import SWEEP_FILE, SWEEP_PLOT, SWEEP_RECIPE
from halftone.spec.recipes import load_recipe
from halftone.spec.roles import Role
from tests import numpy_llama
from tests.builders import (
    as_float32,
    drop_tensors,
    read_checkpoint,
    set_value,
    tiny_config,
    write_checkpoint,
)
from tests.commands import Outcome, files_of, halftone, plan_directory, quantize_directory
from tests.dequantized import dequantized
from tests.environments import python_of
from tests.quantizing import recipe
from tests.refusals import sentence_of

GB = 10**9
TEXTS = ("Halftone prints a picture", "in dots of two sizes, and the eye does", "the rest.")


def swept(source: Path, budget: float, output: Path, *options: str | Path) -> Outcome:
    return halftone("sweep", source, "--budget-gb", f"{budget:.12f}", "--output", output, *options)


def document_in(output: Path) -> SweepDocument:
    return SweepDocument.model_validate_json((output / SWEEP_FILE).read_bytes())


def whole_bytes(source: Path) -> int:
    plan = plan_directory(source, "fp8-dynamic").plan
    assert plan.sizes is not None
    return plan.sizes.whole.bytesBefore


# Without data -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def free(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A sweep of the tiny hybrid model at three quarters of its size."""
    output = tmp_path_factory.mktemp("free") / "swept"
    ended = swept(tiny_source, 0.75 * whole_bytes(tiny_source) / GB, output)
    assert ended.code == 0, ended.err
    return output, ended


def test_the_proposed_recipe_gives_what_was_promised(
    free: tuple[Path, Outcome], tiny_source: Path
) -> None:
    output, _ = free
    document = document_in(output)
    chosen = load_recipe(str(output / SWEEP_RECIPE))
    plan = plan_directory(tiny_source, chosen).plan

    assert plan.output is not None
    assert chosen.precision == document.proposed.precision == document.recipe.precision
    assert plan.output.bytes == document.proposed.bytes <= document.budgetBytes
    assert plan.digest == document.planDigest
    assert document.measure is Measure.WeightError
    assert sorted(files_of(output)) == sorted((SWEEP_RECIPE, SWEEP_FILE, SWEEP_PLOT))


def test_weight_errors_are_those_that_quantize_states(
    free: tuple[Path, Outcome], tiny_source: Path, tmp_path: Path
) -> None:
    output, _ = free
    found = {(row.role, row.format): row.weightError for row in document_in(output).formats}
    made = quantize_directory(tiny_source, tmp_path / "made", str(output / SWEEP_RECIPE))

    assert made.document.roles
    for line in made.document.roles:
        assert float(str(found[line.role, line.format])) == pytest.approx(
            float(line.relativeError), abs=1e-6
        )


def test_nothing_better_fits_and_what_is_measured_stands_on_the_page(
    free: tuple[Path, Outcome], tiny_source: Path
) -> None:
    output, ended = free
    document = document_in(output)
    known = [point for point in (*document.front, *document.presets) if point.loss is not None]
    fitting = [float(str(p.loss)) for p in known if p.bytes <= document.budgetBytes]
    picture = (output / SWEEP_PLOT).read_text()

    assert min(fitting) == float(str(document.proposed.loss))
    assert "size of all tensors (MB, 10⁶ bytes)" in picture
    assert "mean squared relative error of weights" in picture
    assert all(f"preset {preset.name}" in picture for preset in document.presets if preset.loss)
    assert f"halftone plan {tiny_source} --recipe {output / SWEEP_RECIPE}" in ended.out
    assert "needs data" in ended.out
    assert {row.standing.value for row in document.formats if row.format is Format.NVFP4} == {
        "NeedsData"
    }


def test_a_sweep_gives_the_same_files_again(
    free: tuple[Path, Outcome], tiny_source: Path, tmp_path: Path
) -> None:
    output, _ = free
    budget = document_in(output).budgetBytes / GB
    assert swept(tiny_source, budget, tmp_path / "again", "--workers", "1").code == 0
    assert files_of(tmp_path / "again") == files_of(output)


def test_other_fields_come_from_the_recipe_that_is_named(tiny_source: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("preset: nvfp4a16\nscaleSearch: Exhaustive\nmultiTokenPrediction: Drop\n")
    budget = 0.5 * whole_bytes(tiny_source) / GB
    options = ("--recipe", base, "--checkpoint-format", "ModelOpt", "--format", "NVFP4A16")
    ended = swept(tiny_source, budget, tmp_path / "out", *options, "--json")
    chosen = load_recipe(str(tmp_path / "out" / SWEEP_RECIPE))

    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["recipe"]["scaleSearch"] == "Exhaustive"
    assert {line.format for line in chosen.precision} == {Format.NVFP4A16}
    assert (chosen.multiTokenPrediction, chosen.checkpointFormat) == ("Drop", "ModelOpt")
    plan = plan_directory(tiny_source, chosen).plan
    assert plan.digest == document_in(tmp_path / "out").planDigest


# With data ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SweepDocument, Outcome]:
    """A sweep of a tiny Llama on three rows, in one process of the other environment."""
    folder = tmp_path_factory.mktemp("measured")
    source = write_checkpoint(folder / "source", "llama")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    budget = 0.6 * whole_bytes(source) / GB
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HALFTONE_QUANTIZE_PYTHON", str(python_of("quantize")))
        ended = swept(source, budget, folder / "out", "--dataset", rows, "--samples", "3")
    assert ended.code == 0, ended.err
    return source, document_in(folder / "out"), ended


def ids_of(text: str) -> list[int]:
    """What the builders' tokenizer makes of ASCII: one token a byte, behind nine special ones."""
    return [9 + byte for byte in text.encode()]


def matrices_of(source: Path) -> dict[str, NDArray[np.float64]]:
    return {n: as_float32(t).astype(np.float64) for n, t in read_checkpoint(source).items()}


@pytest.mark.quantize_env
@pytest.mark.parametrize(
    ("role", "fmt"),
    [
        (Role.Mlp, Format.NVFP4A16),
        (Role.Attention, Format.NVFP4A16),
        (Role.Attention, Format.NVFP4),
        (Role.Mlp, Format.NVFP4),
        (Role.Mlp, Format.FP8_DYNAMIC),
    ],
)
def test_a_layers_divergence_is_that_of_a_second_implementation(
    measured: tuple[Path, SweepDocument, Outcome], role: Role, fmt: Format, tmp_path: Path
) -> None:
    source, document, _ = measured
    config = json.loads((source / "config.json").read_text())
    weights = matrices_of(source)
    weight_format = "NVFP4A16" if fmt is Format.NVFP4 else str(fmt)
    made = quantize_directory(source, tmp_path / "made", recipe(None, **{str(role): weight_format}))
    rounded = dequantized(made)
    found = {
        x.layer: float(x.divergence) for x in document.layers if (x.role, x.format) == (role, fmt)
    }

    inputs = [numpy_llama.embedded(weights, ids_of(text)) for text in TEXTS]
    for number in range(config["num_hidden_layers"]):
        expected = _divergence(weights, rounded, config, number, inputs, fmt)
        # The sweep computes in float32, and its document has six digits.
        assert found[number] == pytest.approx(expected, rel=1e-4)
        inputs = [numpy_llama.layer(weights, config, number, h) for h in inputs]
    assert len(found) == config["num_hidden_layers"]


def _divergence(
    weights: dict[str, Any],
    rounded: dict[str, Any],
    config: Any,
    number: int,
    inputs: list[Any],
    fmt: Format,
) -> float:
    """Layer `number` with its matrices of `rounded`; activations too, where the format says so."""
    seen: dict[str, float] = {}

    def watch(name: str, x: Any) -> Any:
        seen[name] = max(seen.get(name, 0.0), float(np.abs(x).max()))
        return x

    kept = [numpy_llama.layer(weights, config, number, h, watch) for h in inputs]

    def quantized(name: str, x: Any) -> Any:
        if fmt is Format.NVFP4A16 or f"{name}.weight" not in rounded:
            return x
        if fmt is Format.NVFP4:
            return numpy_llama.nvfp4_activations(x, seen[name])
        return numpy_llama.fp8_activations(x)

    ours = {name: value for name, value in rounded.items() if f".{number}." in name}
    moved = [numpy_llama.layer({**weights, **ours}, config, number, h, quantized) for h in inputs]
    everything = [np.concatenate(part) for part in (kept, moved)]
    return numpy_llama.divergence(*everything)


@pytest.mark.quantize_env
def test_the_choice_follows_from_what_the_layers_showed(
    measured: tuple[Path, SweepDocument, Outcome],
) -> None:
    _, document, ended = measured
    losses = {
        (row.role, row.format): float(str(row.loss))
        for row in document.formats
        if row.format and row.loss
    }
    layers = {
        key: sum(float(x.divergence) for x in document.layers if (x.role, x.format) == key)
        for key in losses
    }

    assert losses == {key: pytest.approx(value, rel=1e-5) for key, value in layers.items()}
    assert {fmt for _, fmt in losses} == set(Format) - {Format.FP8_BLOCK_A16}
    for role in (Role.Attention, Role.Mlp):
        assert losses[role, Format.FP8_DYNAMIC] < losses[role, Format.NVFP4A16]
        assert losses[role, Format.NVFP4A16] < losses[role, Format.NVFP4]
    total = sum(losses[line.role, line.format] for line in document.proposed.precision)
    assert float(str(document.proposed.loss)) == pytest.approx(total, rel=1e-5)
    assert document.data[0].tokens == sum(len(ids_of(text)) for text in TEXTS)
    assert '"stage": "layers"' not in ended.out


# Budgets ------------------------------------------------------------------------------------------


def test_a_budget_that_cannot_be_met_names_one_that_can(tiny_source: Path, tmp_path: Path) -> None:
    ended = swept(tiny_source, 1e-6, tmp_path / "out", "--json")
    sentence = sentence_of(ended)
    smallest = float(sentence.partition("takes ")[2].partition(" GB")[0])

    assert "Mlp: NVFP4A16" in sentence
    assert not list(tmp_path.iterdir())
    assert "holds no combination" in sentence_of(
        swept(tiny_source, smallest - 1 / GB, tmp_path / "out")
    )
    assert swept(tiny_source, smallest, tmp_path / "out").code == 0
    assert document_in(tmp_path / "out").proposed.bytes == round(smallest * GB)


def test_a_budget_that_holds_the_model_as_it_is_leaves_nothing_to_choose(
    tiny_source: Path, tmp_path: Path
) -> None:
    whole = whole_bytes(tiny_source)
    assert "holds the model as it is" in sentence_of(
        swept(tiny_source, whole / GB, tmp_path / "out")
    )
    assert not list(tmp_path.iterdir())
    assert swept(tiny_source, (whole - 1) / GB, tmp_path / "out").code == 0


@pytest.mark.parametrize("budget", ["0", "-3", "NaN", "inf", "many", "", "1e40"])
def test_a_budget_that_is_no_size_is_refused(
    budget: str, tiny_source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    ended = halftone("sweep", tiny_source, "--budget-gb", budget, "--output", output)
    assert f"`--budget-gb` '{budget}' is not a size" in sentence_of(ended)
    assert not list(tmp_path.iterdir())


# Other bad input ----------------------------------------------------------------------------------


def refused(source: Path, tmp_path: Path, *options: str | Path) -> str:
    before = files_of(tmp_path)
    sentence = sentence_of(swept(source, 0.001, tmp_path / "out", *options))
    assert files_of(tmp_path) == before
    return sentence


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "nowhere" in refused(tmp_path / "nowhere", tmp_path)


def test_a_source_without_a_role_to_quantize_is_refused(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "llama")
    drop_tensors(source, "_proj.")
    assert "no tensor of a role that may be quantized" in refused(source, tmp_path)


def test_an_architecture_without_a_table_is_refused(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", tiny_config("llama") | {"model_type": "own"})
    assert "`model_type` 'own' in `config.json` has no architecture table" in refused(
        source, tmp_path
    )


def test_a_weight_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "llama")
    set_value(source, "model.layers.1.mlp.up_proj.weight", float("nan"))
    assert "`model.layers.1.mlp.up_proj.weight` holds NaN" in refused(source, tmp_path)


def test_an_output_that_holds_something_is_refused(tiny_source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.yaml").write_text("precision: mine\n")
    assert "is not empty, and a sweep replaces nothing" in refused(tiny_source, tmp_path)


def test_an_output_below_a_file_is_refused_before_anything_is_measured(
    tiny_source: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    ended = swept(tiny_source, 0.001, tmp_path / "file" / "out")
    assert (ended.code, ended.out) == (3, "")
    assert "Not a directory" in ended.err


def test_formats_that_need_data_alone_ask_for_them(tiny_source: Path, tmp_path: Path) -> None:
    sentence = refused(tiny_source, tmp_path, "--format", "NVFP4")
    assert "give `--dataset FILE`" in sentence


def test_samples_without_data_are_refused(tiny_source: Path, tmp_path: Path) -> None:
    assert "`--samples`" in refused(tiny_source, tmp_path, "--samples", "3")


def test_rows_longer_than_the_context_are_refused_by_their_option(
    tiny_source: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    data = ("--dataset", tmp_path / "rows.jsonl", "--max-sequence-length", "2049")
    assert "`--max-sequence-length` is 2049, and `max_position_embeddings`" in sentence_of(
        swept(tiny_source, 0.75 * whole_bytes(tiny_source) / GB, tmp_path / "out", *data)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_missing_environment_is_told_with_the_command_that_makes_it(
    tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALFTONE_QUANTIZE_PYTHON", str(tmp_path / "no" / "python"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    budget = 0.75 * whole_bytes(tiny_source) / GB
    before = files_of(tmp_path)
    ended = swept(tiny_source, budget, tmp_path / "out", "--dataset", rows)

    assert (ended.code, ended.out) == (3, "")
    assert "make setup" in ended.err
    assert files_of(tmp_path) == before
