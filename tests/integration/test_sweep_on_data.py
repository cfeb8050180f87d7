"""Sweeps of a mixture of experts on data, in one process of the other environment.

We test these aspects:

- experts, shared experts and linear attention are measured: where only weights are rounded, each
  layer's output moves as far as in transformers' own model with weights that the test rounded;
- what was measured leads to a recipe that can be planned, and calibrated on the same data;
- a family's own name for the number of experts that a token visits is known;
- data that do not do are refused in the words of a sweep, and with fewer rows a recipe may go on.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halftone.checkpoint.index import read_checkpoint as read_headers
from halftone.quantize.sweep.document import Divergences
from halftone.quantize.sweep.losses import EXPERTS_PER_TOKEN
from halftone.quantize.sweep.sweeping import Wanted, measure_weights, prepare, propose
from halftone.spec.calibration import Calibration, Dataset
from halftone.spec.documents import Method
from halftone.spec.formats import Format
from halftone.spec.job import Recipe
from halftone.spec.roles import Role
from halftone.stores import open_source
from tests.builders import encode, read_checkpoint, tiny_config, write_checkpoint, write_tensors
from tests.builders.datasets import text_rows, write_rows
from tests.commands import Outcome, plan_directory, quantize_directory, write_recipe
from tests.dequantized import dequantized
from tests.environments import ask
from tests.quantizing import recipe
from tests.refusals import sentence_of

pytestmark = pytest.mark.quantize_env

MODEL = "qwen3_5_moe"
FORMATS = (Format.NVFP4A16, Format.NVFP4, Format.FP8_DYNAMIC)
# A family of transformers' and how many experts its tokens visit there.
FAMILIES = {
    "qwen3_moe": 8,
    "qwen3_5_moe": 8,
    "mixtral": 2,
    "deepseek_v3": 8,
    "glm4_moe": 8,
    "gpt_oss": 4,
    "hunyuan_v1_moe": 1,
    "longcat_flash": 12,
    "ernie4_5_moe": 6,
    "kimi_linear": 8,
}


class Asked:
    """Everything that the other environment was asked, and what it answered."""

    def __init__(self, folder: Path) -> None:
        self.rows = text_rows(3, words=5)
        self.source = write_checkpoint(folder / "source", MODEL, experts="Fused")
        self.data = write_rows(folder / "rows.jsonl", self.rows)
        write_rows(folder / "none.jsonl", [{"text": ""}])
        allows = write_recipe(
            folder / "allows.yaml",
            preset="fp8-dynamic",
            calibration={
                "dataset": {"path": str(self.data)},
                "samples": 5,
                "fewerSamples": "Allow",
            },
        )
        self.divergences = folder / "divergences.json"
        one_layer = ("--layers", "1", "--format", "NVFP4A16")
        commands: dict[str, list[Any]] = {
            "measured": [
                *("--dataset", self.data, "--samples", "3"),
                *(part for fmt in FORMATS for part in ("--format", fmt)),
                *("--measure-to", self.divergences),
            ],
            "too few": ["--dataset", self.data],
            "no usable row": ["--dataset", folder / "none.jsonl"],
            "fewer allowed": ["--recipe", allows, *one_layer, "--measure-to", folder / "fewer"],
        }
        request = {
            "commands": [self._command(options, folder) for options in commands.values()],
            "source": str(self.source),
            "rounded": str(self._rounded(folder)),
            "texts": [row["text"] for row in self.rows],
            "families": list(FAMILIES),
        }
        answer = ask("quantize", "sweep_on_data.py", request, work=folder, timeout_s=150)
        ended = [Outcome(one["code"], "", one["err"]) for one in answer["commands"]]
        self.ended = dict(zip(commands, ended, strict=True))
        self.moved: list[float] = answer["moved"]
        self.families: dict[str, dict[str, int]] = answer["families"]

    def _command(self, options: list[Any], folder: Path) -> list[str]:
        # Without `--measure-to` a sweep draws, for which the other environment has no library.
        measure = [] if "--measure-to" in options else ["--measure-to", folder / "refused"]
        begin = ["sweep", self.source, "--budget-gb", "0.0025"]
        return [str(part) for part in (*begin, *options, *measure)]

    def _rounded(self, folder: Path) -> Path:
        """The source with its experts in four bits, one by one, as float32."""
        made = quantize_directory(self.source, folder / "made", recipe(None, Experts="NVFP4A16"))
        kept = {
            name: tensor
            for name, tensor in read_checkpoint(self.source).items()
            if ".mlp.experts." not in name
        }
        experts = {
            name: encode(values.astype(np.float32), "F32")
            for name, values in dequantized(made).items()
        }
        return write_tensors(folder / "rounded", tiny_config(MODEL), kept | experts)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    return Asked(tmp_path_factory.mktemp("asked"))


@pytest.fixture(scope="module")
def found(asked: Asked) -> Divergences:
    assert asked.ended["measured"].code == 0, asked.ended["measured"].err
    return Divergences.model_validate_json(asked.divergences.read_bytes())


def test_experts_move_a_layer_as_far_as_in_the_model_of_transformers(
    asked: Asked, found: Divergences
) -> None:
    ours = {
        one.layer: float(one.divergence)
        for one in found.layers
        if (one.role, one.format) == (Role.Experts, Format.NVFP4A16)
    }

    assert ours == {n: pytest.approx(value, rel=1e-3) for n, value in enumerate(asked.moved)}
    assert min(asked.moved) > 1e-4


def test_every_role_of_every_layer_is_measured_in_every_format(found: Divergences) -> None:
    kinds = tiny_config(MODEL)["text_config"]["layer_types"]
    linear = {number for number, kind in enumerate(kinds) if kind == "linear_attention"}
    every = set(range(len(kinds)))
    expected = {
        Role.Attention: every - linear,
        Role.LinearAttention: linear,
        Role.LinearAttentionGate: linear,
        Role.Experts: every,
        Role.SharedExperts: every,
    }

    assert {(one.layer, one.role, one.format) for one in found.layers} == {
        (layer, role, fmt) for role, some in expected.items() for layer in some for fmt in FORMATS
    }
    assert all(float(one.divergence) > 0 for one in found.layers)
    assert found.data[0].tokens > 0


def test_what_was_measured_leads_to_a_recipe_for_the_same_data(
    asked: Asked, found: Divergences
) -> None:
    calibration = Calibration(dataset=Dataset(path=str(asked.data)), samples=3)
    base = Recipe(name="recipe", precision=(), calibration=calibration)
    with closing(open_source(asked.source)) as opened:
        # Between NVFP4A16 and NVFP4 lie bytes: of scales of inputs.
        prepared = prepare(read_headers(opened), base, Wanted(2_300_000, (Format.NVFP4,)))
        errors = measure_weights(prepared, 1, lambda done: None)
        document = propose(prepared, errors, found)
    plan = plan_directory(asked.source, document.recipe).plan

    assert {line.format for line in document.proposed.precision} == {Format.NVFP4}
    assert Role.Experts in {line.role for line in document.proposed.precision}
    assert plan.digest == document.planDigest
    assert (plan.method, document.recipe.calibration) == (Method.Calibrated, calibration)


def test_the_number_of_experts_is_known_under_its_familys_name(asked: Asked) -> None:
    named = {
        family: [numbers[name] for name in EXPERTS_PER_TOKEN if name in numbers]
        for family, numbers in asked.families.items()
    }

    assert named == {family: [picked] for family, picked in FAMILIES.items()}


# Data that do not do ------------------------------------------------------------------------------


def test_too_few_rows_are_refused_with_the_option_that_helps(asked: Asked) -> None:
    assert sentence_of(asked.ended["too few"]) == (
        "The sweep wants 64 rows without `images` (`--samples`, or `calibration.samples` of the "
        f"recipe), and '{asked.data}' holds 3; give `--samples 3`."
    )


def test_a_recipe_may_allow_fewer_rows_which_is_said(asked: Asked) -> None:
    ended = asked.ended["fewer allowed"]
    warnings = [line for line in ended.err.splitlines() if "warning" in line]

    assert ended.code == 0
    assert len(warnings) == 1
    assert "3 samples instead of 5" in warnings[0]


def test_data_without_a_usable_row_are_refused_by_their_option(asked: Asked) -> None:
    sentence = sentence_of(asked.ended["no usable row"])

    assert sentence.startswith("`--dataset`, '")
    assert "holds no usable row without `images`" in sentence
