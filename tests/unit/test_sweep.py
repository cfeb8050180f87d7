"""We test these aspects of a sweep's judgements, without a model:

- the choice equals a brute-force search: least loss that fits, then smaller, then simpler;
- a larger budget never costs quality, and the front is what no combination beats;
- samples are spread evenly, first and last among them, and small roles are measured whole;
- the loss by weight error follows its formula, routed experts counted as far as a token meets
  them, and is not made up where nobody says how many that are;
- a layer that was not measured counts as much as one that was;
- the table knows what a shape, a server and missing data rule out, and what everything weighs;
- a plot can be drawn where nothing costs anything, and is the same each time.
"""

import json
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halftone.checkpoint.index import Checkpoint, read_checkpoint
from halftone.quantize.sweep.candidates import Candidates, Standing, candidates, with_precision
from halftone.quantize.sweep.choosing import Column, Combination, Combinations, Option
from halftone.quantize.sweep.document import LayerDivergence, SweepDocument
from halftone.quantize.sweep.losses import (
    EXPERTS_PER_TOKEN,
    divergence_losses,
    token_shares,
    weight_losses,
)
from halftone.quantize.sweep.plotting import plot
from halftone.quantize.sweep.sampling import EXPERTS, LAYERS, sampled, spread, units_of
from halftone.quantize.sweep.sweeping import Wanted, measure_weights, prepare, propose
from halftone.quantize.sweep.weight_errors import WeightError
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import CheckpointFormat, Format
from halftone.spec.job import Recipe
from halftone.spec.names import Reason
from halftone.spec.roles import Role
from halftone.stores import open_source
from tests.builders import (
    drop_tensors,
    tiny_config,
    write_checkpoint,
    write_sparse,
)
from tests.commands import plan_directory

BASE = Recipe(name="recipe", precision=())
FORMATS = tuple(Format)


# The choice ---------------------------------------------------------------------------------------


@st.composite
def tables(draw: st.DrawFn) -> list[Column]:
    """One to four columns; few different sizes and losses, so that there are ties."""
    columns = []
    for role in list(Role)[: draw(st.integers(1, 4))]:
        formats = draw(st.lists(st.sampled_from(FORMATS), max_size=3, unique=True))
        options = [Option(None, draw(st.integers(4, 6)), 0.0)]
        options += [
            Option(fmt, draw(st.integers(1, 4)), draw(st.sampled_from((0.0, 0.25, 0.5, 1.0))))
            for fmt in formats
        ]
        columns.append(Column((role,), tuple(options)))
    return columns


def by_brute_force(columns: Sequence[Column], fixed: int) -> list[Combination]:
    return [
        Combination(
            tuple(option.format for option in options),
            fixed + sum(option.nbytes for option in options),
            sum(option.loss for option in options),
        )
        for options in product(*(column.options for column in columns))
    ]


@settings(max_examples=40)
@given(tables(), st.integers(0, 3), st.integers(0, 30))
def test_the_choice_is_that_of_a_brute_force_search(
    columns: list[Column], fixed: int, budget: int
) -> None:
    every = by_brute_force(columns, fixed)
    fitting = [one for one in every if one.nbytes <= budget]
    expected = min(fitting, key=lambda c: (c.loss, c.nbytes, c.simplicity), default=None)
    combinations = Combinations(columns, fixed)

    assert len(combinations) == len(every)
    assert combinations.best(budget) == expected
    assert combinations.smallest() == min(every, key=lambda c: (c.nbytes, c.loss, c.simplicity))


@settings(max_examples=40)
@given(tables(), st.integers(0, 25))
def test_a_larger_budget_never_costs_quality(columns: list[Column], budget: int) -> None:
    combinations = Combinations(columns, 0)
    best, larger = combinations.best(budget), combinations.best(budget + 1)

    assert best is None or (larger is not None and larger.loss <= best.loss)


@settings(max_examples=40)
@given(tables())
def test_the_front_is_what_nothing_beats(columns: list[Column]) -> None:
    every = by_brute_force(columns, 0)
    beaten = {
        one
        for one in every
        for other in every
        if other.nbytes <= one.nbytes
        and other.loss <= one.loss
        and (other.nbytes, other.loss) != (one.nbytes, one.loss)
    }
    front = Combinations(columns, 0).front()

    assert beaten.isdisjoint(front)
    assert {(c.nbytes, c.loss) for c in front} == {
        (c.nbytes, c.loss) for c in every if c not in beaten
    }
    assert list(front) == sorted(front, key=lambda c: c.nbytes)


def test_equal_choices_go_to_the_simpler_list() -> None:
    both = (
        Option(None, 9, 0.0),
        Option(Format.NVFP4A16, 2, 0.5),
        Option(Format.FP8_DYNAMIC, 2, 0.5),
    )
    columns = [Column((Role.Attention,), both), Column((Role.Mlp,), both)]
    best = Combinations(columns, 0).best(4)

    assert best is not None
    assert best.formats == (Format.NVFP4A16, Format.NVFP4A16)


def test_the_combination_of_some_formats_is_found_by_them() -> None:
    columns = [
        Column((Role.Attention,), (Option(None, 4, 0.0), Option(Format.FP8, 2, 1.0))),
        Column((Role.Mlp,), (Option(None, 8, 0.0), Option(Format.FP8_BLOCK, 3, 2.0))),
    ]
    combinations = Combinations(columns, 100)

    assert combinations.of([Format.FP8, None]) == ((Format.FP8, None), 110, 1.0)
    assert combinations.of([Format.NVFP4, None]) is None


# The sample ---------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(1, 200), st.integers(1, 20))
def test_a_sample_is_spread_from_first_to_last(total: int, count: int) -> None:
    some = spread(range(total), count)
    steps = [later - earlier for earlier, later in pairwise(some)]

    assert len(some) == min(total, count)
    assert count == 1 or (some[0], some[-1]) == (0, total - 1)
    assert not steps or 0 < max(steps) <= min(steps) + 1


def judged(source: Path, recipe: Recipe = BASE, *, data: bool = False, **named: Any) -> Candidates:
    return candidates(headers(source), recipe, named.get("formats", ()), data)


def headers(source: Path) -> Checkpoint:
    with closing(open_source(source)) as opened:
        return read_checkpoint(opened)


def test_of_a_large_role_a_few_layers_and_experts_are_measured(tmp_path: Path) -> None:
    config = tiny_config("qwen3_moe", num_hidden_layers=10, num_experts=12)
    table = judged(write_sparse(tmp_path, config), formats=(Format.FP8_DYNAMIC,))
    some = sampled(table.tensors, None, role_bytes=2_000_000)
    experts, attention = some[Role.Experts], some[Role.Attention]

    assert len(experts.measured_layers) == LAYERS
    assert (experts.measured_layers[0], experts.measured_layers[-1]) == (0, 9)
    assert len({unit.expert for unit in experts.units}) == EXPERTS
    assert len(attention.measured_layers) == attention.layers == 10
    assert experts.layers == 10


def test_of_a_small_model_everything_is_measured_unless_asked_otherwise(tmp_path: Path) -> None:
    table = judged(write_checkpoint(tmp_path, tiny_config("qwen3_moe", num_hidden_layers=4)))
    every, two = sampled(table.tensors, None), sampled(table.tensors, 2)

    matrices = sum(len(found) for found in table.tensors.values())
    assert sum(len(u.members) for one in every.values() for u in one.units) == matrices
    assert {one.measured_layers for one in two.values()} == {(0, 3)}
    assert len(two[Role.Experts].units) * 2 == len(every[Role.Experts].units)


def test_units_are_what_shares_a_scale(tmp_path: Path) -> None:
    table = judged(write_checkpoint(tmp_path, "qwen3_moe"))
    units = {unit.name: unit for unit in units_of(table.tensors[Role.Experts])}
    pair = units["model.layers.1.mlp.experts.3.gate_up_proj"]

    assert [member.name.split(".")[-2] for member in pair.members] == ["gate_proj", "up_proj"]
    assert (pair.layer, pair.expert) == (1, 3)


# Losses -------------------------------------------------------------------------------------------


def test_the_loss_by_weight_error_is_the_mean_over_the_weights_that_a_token_meets(
    tmp_path: Path,
) -> None:
    source = write_checkpoint(tmp_path, "qwen3_moe")
    table = judged(source)
    config = json.loads((source / "config.json").read_text())
    shares = token_shares(table.tensors, config)
    assert shares is not None
    some = sampled(table.tensors, None)
    errors = {
        unit.name: {Format.FP8: WeightError(4.0, 1.0 if unit.expert is None else 2.0)}
        for one in some.values()
        for unit in one.units
    }
    losses = weight_losses(some, errors, shares)

    weights = {
        role: sum(rows * columns for rows, columns in (m.shape for m in found))
        for role, found in table.tensors.items()
    }
    routed = config["num_experts_per_tok"] / config["num_experts"]
    met = {r: w * (routed if r is Role.Experts else 1.0) for r, w in weights.items()}
    assert sum(shares.values()) == pytest.approx(1.0)
    for role, share in shares.items():
        squared = 0.5 if role is Role.Experts else 0.25
        assert share == pytest.approx(met[role] / sum(met.values()))
        assert losses[role, Format.FP8] == pytest.approx(share * squared)


@pytest.mark.parametrize("picked", [None, 0, 9, "2", [2, 2]])
def test_experts_of_unknown_use_are_not_weighed_without_data(picked: Any, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path, tiny_config("qwen3_moe", num_experts_per_tok=picked))
    assert token_shares(judged(source).tensors, headers(source).config) is None

    with pytest.raises(RefusedInput, match="how many experts a token visits") as refused:
        prepare(headers(source), BASE, Wanted(budget_bytes=1_300_000))
    assert "give `--dataset FILE`" in refused.value.message


def test_experts_are_weighed_under_the_name_that_their_family_has(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path, "qwen3_moe")
    tensors, config = judged(source).tensors, headers(source).config
    shares = token_shares(tensors, config)
    picked = config.pop("num_experts_per_tok")

    assert shares is not None
    for name in EXPERTS_PER_TOKEN:
        assert token_shares(tensors, config | {name: picked}) == shares


def test_all_layers_count_where_some_were_measured() -> None:
    measured = [
        LayerDivergence(layer=n, role=Role.Mlp, format=Format.FP8, divergence=f"{n + 1}e-3")
        for n in (0, 4)
    ]
    losses = divergence_losses(measured, {Role.Mlp: 5})

    assert losses == {(Role.Mlp, Format.FP8): pytest.approx(5 * (1e-3 + 5e-3) / 2)}


# The table ----------------------------------------------------------------------------------------


def standings(table: Candidates, role: Role) -> dict[Format | None, Standing]:
    return {row.format: row.standing for row in table.rows if row.role is role}


def test_without_data_what_data_alone_can_judge_is_out(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path, "qwen3_5")
    without, given_ = judged(source), judged(source, data=True)

    assert standings(without, Role.Mlp)[Format.NVFP4] is Standing.NeedsData
    assert standings(given_, Role.Mlp)[Format.NVFP4] is Standing.Candidate
    assert standings(without, Role.LinearAttentionGate)[Format.FP8_DYNAMIC] is Standing.NeedsData
    assert standings(given_, Role.LinearAttentionGate)[Format.FP8_DYNAMIC] is Standing.Candidate


def test_what_a_server_cannot_load_is_out_unless_it_was_named(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path, "qwen3")
    named = judged(source, formats=(Format.FP8_BLOCK_A16,))

    assert standings(judged(source), Role.Mlp)[Format.FP8_BLOCK_A16] is Standing.NotLoadable
    assert standings(named, Role.Mlp) == {
        None: Standing.Candidate,
        Format.FP8_BLOCK_A16: Standing.Candidate,
    }


def test_a_shape_or_a_layout_that_a_format_cannot_take_is_told(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path, tiny_config("qwen3", intermediate_size=264))
    table = judged(source, BASE.model_copy(update={"checkpointFormat": CheckpointFormat.ModelOpt}))
    row = table.row(Role.Mlp, Format.NVFP4A16)

    assert row is not None
    assert row.standing is Standing.Refused
    assert "264 columns" in str(row.because)
    assert standings(table, Role.Attention)[Format.NVFP4A16] is Standing.Candidate
    assert standings(table, Role.Attention)[Format.FP8_BLOCK_A16] is Standing.Refused


@settings(max_examples=6)
@given(data=st.data())
def test_every_combination_weighs_what_its_plan_says(
    data: st.DataObject, weighed: tuple[Path, Recipe, Candidates]
) -> None:
    source, recipe, table = weighed
    formats = {
        role: data.draw(
            st.sampled_from(
                [
                    r.format
                    for r in table.rows
                    if r.role is role and r.standing is not Standing.Refused
                ]
            )
        )
        for role in table.tensors
    }
    if not any(formats.values()):
        return
    plan = plan_directory(source, with_precision(recipe, formats)).plan
    assert plan.refusal is None
    assert plan.output is not None
    rows = [table.row(role, fmt) for role, fmt in formats.items()]
    promised = table.fixed_bytes + sum(row.nbytes for row in rows if row is not None)
    assert promised == plan.output.bytes + plan.output.kvScaleBytes


@pytest.fixture(scope="module", params=list(CheckpointFormat))
def weighed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Recipe, Candidates]:
    """A source, a base recipe with calibrated KV scales, and its table."""
    source = write_checkpoint(tmp_path_factory.mktemp("weighed"), "qwen3_5_moe", experts="Fused")
    fields = {
        "name": "recipe",
        "precision": (),
        "checkpointFormat": request.param,
        "kvCache": {"format": "FP8", "scales": "Calibrated"},
    }
    recipe = Recipe.model_validate(fields)
    return source, recipe, judged(source, recipe, data=True)


def test_a_model_without_a_role_to_quantize_is_refused(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path, "llama")
    drop_tensors(source, "_proj.")
    with pytest.raises(RefusedInput, match="no tensor of a role that may be quantized") as raised:
        judged(source)
    assert raised.value.reason is Reason.NothingToQuantize


def test_a_budget_that_nothing_fits_has_a_reason_of_its_own(tmp_path: Path) -> None:
    checkpoint = headers(write_checkpoint(tmp_path, "qwen3"))
    with pytest.raises(RefusedInput, match="the smallest takes") as refused:
        prepare(checkpoint, BASE, Wanted(budget_bytes=1000))
    assert (refused.value.reason, refused.value.subject) == (Reason.BudgetTooSmall, "--budget-gb")


# The plot -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lossless(tmp_path_factory: pytest.TempPathFactory) -> SweepDocument:
    """A sweep of weights that are all zero, which every format keeps; drawn once, for imports."""
    folder = tmp_path_factory.mktemp("lossless")
    source = write_sparse(folder, tiny_config("qwen3", num_hidden_layers=1))
    with closing(open_source(source)) as opened:
        checkpoint = read_checkpoint(opened)
        prepared = prepare(checkpoint, BASE, Wanted(budget_bytes=400_000))
        document = propose(prepared, measure_weights(prepared, 1, lambda done: None), None)
    plot(document)
    return document


def test_a_plot_is_drawn_where_nothing_costs_anything(lossless: SweepDocument) -> None:
    assert {point.loss for point in lossless.front} == {"0"}
    assert lossless.proposed == lossless.front[0]
    picture = plot(lossless)
    assert b"budget, 400.00 kB" in picture
    assert "size of all tensors (kB, 10³ bytes)".encode() in picture


def test_equal_sweeps_give_equal_plots(lossless: SweepDocument) -> None:
    assert plot(lossless) == plot(lossless)
