"""How soon whoever is told of an alert hears of it, as docs/runbooks/README.md states it.

We test these aspects:
- each alert's time is what its rule, the charts' intervals and Alertmanager's wait make together;
- a rule that waits longer, or looks further back, changes the time;
- no rule reads through more groups of rules than that reckons with;
- what the page says of intervals and waits is what was reckoned with.
"""

import re

import pytest

from tests.contract.test_chart_alerts import FILES, alerts, groups
from tests.stated_times import (
    EVALUATIONS,
    GROUP_WAIT_S,
    RUNBOOKS,
    SCRAPES,
    scraped,
    seconds,
    stated,
    within_s,
    written,
)


def test_every_time_is_what_the_rules_make() -> None:
    assert stated() == {name: written(within_s(name)) for name in alerts()}


def test_no_time_is_shorter_than_the_rule_waits() -> None:
    assert [name for name, rule in alerts().items() if within_s(name) <= seconds(rule["for"])] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [(0.5, "30s"), (150, "2m30s"), (151, "3m"), (1246.8, "21m"), (3600, "60m")],
)
def test_times_are_rounded_up_to_half_a_minute(text: float, found: str) -> None:
    assert written(text).removeprefix("0m") == found


def test_a_share_of_a_window_counts_as_that_share() -> None:
    """14.4 times what an objective of 995 in 1000 allows, over an hour, and two minutes more."""
    assert within_s("RequestErrorBurn") == pytest.approx(14.4 * 0.005 * 3600 + 120 + 60 + 30)


def test_an_alert_that_there_is_not_has_no_time() -> None:
    with pytest.raises(LookupError, match="no alert Nothing"):
        within_s("Nothing")


def test_no_alert_reads_through_more_groups_than_is_reckoned_with() -> None:
    """A scrape, and one evaluation for each group: as many as the scrapes and evaluations here."""
    depth: dict[str, int] = {}
    for group in (group for name in ("scaling", "endpoint", "jobs") for group in groups(name)):
        here: dict[str, int] = {}
        for rule in group["rules"]:
            read = re.findall(r"halftone:\w+(?::\w+)?", rule["expr"])
            # Rules of one group run one after the other.
            before = [depth.get(each, here.get(each, 1) - 1) for each in read]
            here[rule.get("record") or rule["alert"]] = max(before, default=0) + 1
        depth |= here
    assert set(alerts()) <= set(depth)
    assert max(depth.values()) <= EVALUATIONS + SCRAPES - 1


def test_the_page_says_what_was_reckoned_with() -> None:
    text = " ".join((RUNBOOKS / "README.md").read_text().split())
    intervals = {group["interval"] for name in FILES for group in groups(name)}
    assert intervals == {"15s"}
    assert "every 15 seconds, the operator every 30" in text
    assert f"`group_wait` of {GROUP_WAIT_S:.0f} seconds" in text
    assert (scraped("endpoint"), scraped("jobs")) == ("15s", "30s")
