"""How long a replica takes from the ask until it is ready, as it is measured.

We test these aspects:
- leads are measured in the order of the asks, and the 90th percentile is one that was seen
- the prior counts until three were measured, and what was outstanding at the start is not counted
- an ask that is taken back is none, and a replica that dies is asked for when it is missed
"""

import pytest

from halftone.scaling.acting.lead_time import LeadTimes

# Looks as (time, wanted, ready) and the leads that they give.
LOOKS = {
    "one replica that was asked for once": (
        [(0, 1, 1), (10, 2, 1), (60, 2, 1), (110, 2, 2)],
        [100],
    ),
    "two asks in turn come ready in turn": (
        [(0, 1, 1), (10, 2, 1), (30, 3, 1), (100, 3, 2), (160, 3, 3)],
        [90, 130],
    ),
    "several at once": ([(0, 1, 1), (10, 4, 1), (70, 4, 4)], [60, 60, 60]),
    "nobody knows when the first ones were asked for": ([(0, 3, 1), (50, 3, 3)], []),
    "after those whose ask nobody knows": ([(0, 2, 1), (5, 3, 1), (50, 3, 2), (65, 3, 3)], [60]),
    "the last ask is taken back first": (
        [(0, 1, 1), (10, 2, 1), (20, 3, 1), (30, 2, 1), (110, 2, 2)],
        [100],
    ),
    "what was taken back is not measured": ([(0, 1, 1), (10, 2, 1), (20, 1, 1), (90, 1, 1)], []),
    "a replica that was away says nothing of it": ([(0, 2, 2), (10, 2, 1), (20, 2, 2)], []),
    "one more for a moment, as in a rollout": ([(0, 2, 2), (10, 2, 3), (20, 2, 2)], []),
}


@pytest.mark.parametrize("case", LOOKS)
def test_leads_are_those_of(case: str) -> None:
    looks, wanted = LOOKS[case]
    leads = LeadTimes()
    for time_s, asked, ready in looks:
        leads.observe(time_s, asked, ready)
    assert list(leads.measured) == wanted


def measured(*seconds: float) -> LeadTimes:
    leads = LeadTimes()
    now = 0.0
    leads.observe(now, 0, 0)
    for number, each in enumerate(seconds):
        leads.observe(now, number + 1, number)
        now += each
        leads.observe(now, number + 1, number + 1)
    return leads


def test_the_prior_counts_until_there_are_enough() -> None:
    assert measured().lead_s(300) == 300
    assert measured(100, 120).lead_s(300) == 300
    assert measured(100, 400).lead_s(300) == 400
    assert measured(100, 120, 110).lead_s(300) == 120


def test_the_lead_is_the_ninetieth_percentile_of_the_last_twenty() -> None:
    assert measured(*range(1, 11)).lead_s(0) == 9
    assert measured(*[900] * 5, *range(1, 21)).lead_s(0) == 18
