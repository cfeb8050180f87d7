"""Whether somebody else sets the same count, and when we may again.

We test these aspects:
- a count that is ours, also one of which we never heard that it was set, is no conflict
- an edit stands until it is wanted for five minutes on end, or until it is cleared
- another scaler is a conflict as long as it is there, and 0 is how people stop an endpoint
- whoever takes over goes on where the note of the one before ends
"""

import pytest

from halftone.scaling.acting.conflicts import AGREED_S, Conflicts


def after(count: int) -> Conflicts:
    """We have set `count`."""
    conflicts = Conflicts()
    conflicts.have_set(count)
    return conflicts


def test_the_count_that_is_there_at_first_is_taken_as_ours() -> None:
    conflicts = Conflicts()
    assert conflicts.judge(0, seen=3, wanted=5, rivals=()) is None
    assert conflicts.last_set == 3


def test_a_count_whose_setting_was_never_confirmed_is_ours() -> None:
    conflicts = after(3)
    conflicts.try_to_set(5)
    assert conflicts.judge(0, seen=5, wanted=6, rivals=()) is None
    assert conflicts.judge(1, seen=3, wanted=6, rivals=()) is not None


def test_an_edit_stands_and_says_both_counts() -> None:
    conflicts = after(3)
    found = conflicts.judge(0, seen=7, wanted=4, rivals=())
    assert found is not None
    assert found.kind == "Edited"
    assert "set 7 replicas where 3 were set" in found.sentence
    assert conflicts.judge(10 * AGREED_S, seen=7, wanted=4, rivals=()) is not None


def test_it_ends_when_the_edit_was_wanted_for_long_enough() -> None:
    conflicts = after(3)
    assert conflicts.judge(0, seen=7, wanted=7, rivals=()) is not None
    assert conflicts.judge(AGREED_S - 1, seen=7, wanted=7, rivals=()) is not None
    assert conflicts.judge(AGREED_S, seen=7, wanted=7, rivals=()) is None
    assert conflicts.judge(AGREED_S + 5, seen=7, wanted=8, rivals=()) is None


@pytest.mark.parametrize("wanted", [6, None])
def test_agreement_begins_anew_when_it_was_interrupted(wanted: int | None) -> None:
    conflicts = after(3)
    for time_s, wished in ((0, 7), (200, wanted), (250, 7), (AGREED_S + 100, 7)):
        assert conflicts.judge(time_s, seen=7, wanted=wished, rivals=()) is not None
    assert conflicts.judge(250 + AGREED_S, seen=7, wanted=7, rivals=()) is None


def test_it_ends_at_once_when_the_count_is_ours_again_or_it_is_cleared() -> None:
    conflicts = after(3)
    assert conflicts.judge(0, seen=7, wanted=4, rivals=()) is not None
    assert conflicts.judge(5, seen=3, wanted=4, rivals=()) is None
    assert conflicts.judge(10, seen=7, wanted=4, rivals=()) is not None
    conflicts.clear()
    assert conflicts.judge(15, seen=7, wanted=4, rivals=()) is None


def test_another_scaler_is_a_conflict_as_long_as_it_is_there() -> None:
    conflicts = after(3)
    found = conflicts.judge(0, seen=3, wanted=3, rivals=("the HorizontalPodAutoscaler 'cpu'",))
    assert found is not None
    assert found.kind == "Rival"
    assert "the HorizontalPodAutoscaler 'cpu' scales the same target" in found.sentence
    assert conflicts.judge(5, seen=3, wanted=3, rivals=()) is None


def test_zero_is_how_people_stop_an_endpoint() -> None:
    conflicts = Conflicts()
    found = conflicts.judge(0, seen=0, wanted=2, rivals=())
    assert found is not None
    assert "which stops scaling" in found.sentence
    assert conflicts.judge(10 * AGREED_S, seen=0, wanted=2, rivals=()) is not None


def test_whoever_takes_over_goes_on_where_the_note_ends() -> None:
    former = after(3)
    former.try_to_set(5)
    assert former.note == "3,5"
    for seen, is_ours in ((3, True), (5, True), (4, False)):
        conflicts = Conflicts()
        conflicts.take_over(former.note)
        assert (conflicts.judge(0, seen=seen, wanted=6, rivals=()) is None) is is_ours


@pytest.mark.parametrize("note", [None, "", "three", "3;5", "²", "3,-1"])
def test_a_note_that_says_nothing_takes_what_is_there(note: str | None) -> None:
    conflicts = Conflicts()
    conflicts.take_over(note)
    assert conflicts.judge(0, seen=9, wanted=6, rivals=()) is None
    assert conflicts.note == "9"
