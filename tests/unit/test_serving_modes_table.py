"""The table that says how a family is served in a mode.

We test these aspects: every row can be reached, is for families that exist, gives arguments that
an endpoint may have, and stands in the manual; modes that may be combined agree; modes that do not
agree are refused.
"""

from itertools import combinations

import pytest

from halftone.checkpoint.architectures import ARCHITECTURES
from halftone.checkpoint.serving_modes import (
    ConflictingModes,
    ModeKey,
    ModeRow,
    Need,
    find_row,
    merged,
    mode_rows,
)
from halftone.serve.arguments.settable import known_arguments
from halftone.spec.serving import ServingMode
from tests.conftest import ROOT
from tests.serving_goldens import documented_modes

FAMILIES = {architecture.name for architecture in ARCHITECTURES}
ROWS = [pytest.param(row, id=f"{row.mode}-{number}") for number, row in enumerate(mode_rows())]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_the_first_that_fits_something(row: ModeRow) -> None:
    draft = "any" if row.drafts == "any" else (row.drafts or [None])[0]
    key = ModeKey(
        family=(row.families or [None])[0],
        formats=frozenset(row.formats or ()),
        towers=bool(row.towers),
        draft=draft,
    )
    assert find_row(row.mode, key) is row


@pytest.mark.parametrize("row", ROWS)
def test_every_row_speaks_of_what_there_is(row: ModeRow) -> None:
    assert set(row.families or ()) <= FAMILIES
    assert row.arguments.keys() <= known_arguments()
    assert bool(row.sources) == bool(row.arguments)
    assert (Need.Context in row.needs) == ("max_model_len" in row.arguments)


def test_every_mode_has_a_row() -> None:
    assert {row.mode for row in mode_rows()} == set(ServingMode)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("draft", [None, "gemma4_assistant", "llama"])
def test_modes_that_may_be_combined_agree(family: str, draft: str | None) -> None:
    key = ModeKey(family=family, towers=True, draft=draft)
    found = {mode: row for mode in ServingMode if (row := find_row(mode, key)) is not None}
    assert ServingMode.Text in found
    for count in range(1, len(found) + 1):
        for chosen in combinations(found, count):
            if not {ServingMode.Text, ServingMode.Multimodal} <= set(chosen):
                arguments = merged(found[mode] for mode in chosen)
                assert all(found[mode].arguments.items() <= arguments.items() for mode in chosen)


def test_modes_that_disagree_are_refused_by_name() -> None:
    rows = [
        ModeRow(mode=mode, arguments={"max_num_seqs": number}, sources=())
        for number, mode in enumerate((ServingMode.Text, ServingMode.LongContext))
    ]
    with pytest.raises(
        ConflictingModes, match=r"'text' and 'longContext'.*`max_num_seqs`.*0 and 1"
    ):
        merged(rows)


def test_the_manual_shows_every_row() -> None:
    manual = (ROOT / "docs" / "serving-modes.md").read_text()
    assert documented_modes() in manual, "put what `documented_modes` gives in place of the table"


def test_a_draft_of_the_family_is_preferred_to_any_draft() -> None:
    key = ModeKey(family="gemma4_unified", towers=True, draft="gemma4_unified_assistant")
    row = find_row(ServingMode.Speculative, key)
    assert row is not None
    assert row.arguments["speculative_config"]["method"] == "mtp"
    assert find_row(ServingMode.Speculative, key.model_copy(update={"draft": None})) is None
