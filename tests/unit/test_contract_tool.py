"""What PromQL expressions need, as `tools.promql` and `tools.expressions` read it.

We test these aspects:
- labels come from matchers, aggregations, matching, `label_replace`, and bounds of buckets;
- what a rule of ours records is looked through, down to what is scraped;
- names in a pattern are all of its names; a pattern that may be anything is refused;
- a dashboard's variables are put in, lists with each word, and folded rows are read;
- an expression that is none, a series that no rule records, and a metric of nobody are refused.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tools.contract import Broken, contract
from tools.expressions import Expression, of_dashboards, of_rules
from tools.promql import UnreadableExpression, names_in, needed


@pytest.mark.parametrize(
    ("expression", "labels"),
    [
        ("vllm:a", {"vllm:a": ""}),
        ('a{b="c", d!~"e", f=""}', {"a": "b d"}),
        ("sum by (b) (rate(a[5m]))", {"a": "b"}),
        ("sum without (b) (a)", {"a": ""}),
        ("sum by (c) (sum by (b, c) (a))", {"a": "b c"}),
        ("topk by (b) (2, a)", {"a": "b"}),
        ("sum by (c) (topk(scalar(z), a))", {"a": "c", "z": ""}),
        ("histogram_quantile(0.9, sum by (le, b) (rate(a[5m])))", {"a": "b le"}),
        ("histogram_quantile(0.9, a)", {"a": "le"}),
        ("a * on (b) group_left (c) d", {"a": "b", "d": "b c"}),
        ("a * on (b) group_right (c) d", {"a": "b c", "d": "b"}),
        ("sum by (e, c) (a * on (b) group_left (c) d)", {"a": "b e", "d": "b c"}),
        ("sum by (e, b) (a / ignoring (b) d)", {"a": "e", "d": ""}),
        ("a and on (b) d", {"a": "b", "d": "b"}),
        ("sum by (e) (a or on (b) d)", {"a": "b e", "d": "b e"}),
        ("sum by (e) (a unless on (b) d)", {"a": "b e", "d": "b"}),
        ('sum by (b) (label_replace(a, "b", "$1", "c", "(.+)"))', {"a": "c"}),
        ('sum by (b) (label_replace(a, "b", "x", "", ""))', {"a": ""}),
        ('sum by (b, e) (label_join(a, "b", "-", "c", "d"))', {"a": "c d e"}),
        ("absent(a) or vector(0)", {"a": ""}),
        ("max_over_time((sum by (b) (-a))[1h:1m] offset 5m)", {"a": "b"}),
        ('{__name__=~"(ray_)?a|b_(c|d)"}', {"a": "", "ray_a": "", "b_c": "", "b_d": ""}),
    ],
)
def test_labels_of_an_expression(expression: str, labels: dict[str, str]) -> None:
    found = {name: " ".join(sorted(each)) for name, each in needed(expression, {}).items()}
    assert found == labels


def test_recorded_series_are_looked_through() -> None:
    recorded = {
        "halftone:a:sum": 'sum by (b, c) (label_replace(a, "c", "$1", "d", "(.+)"))',
        "halftone:again": "halftone:a:sum or halftone:again offset 5m",
    }
    assert needed('sum by (b) (halftone:again{c="x"})', recorded) == {"a": {"b", "d"}}


@pytest.mark.parametrize(
    "text",
    [
        "sum by (b) (a)",
        "sum by (b) (a) / sum by (b) (z)",
        "max by (b) (a) or 0 * halftone:other",
        "clamp_min(sum by (b) (a), 0) unless sum by (c) (z)",
    ],
)
def test_a_label_that_a_rule_does_not_record_is_refused(text: str) -> None:
    recorded = {"halftone:a:sum": text, "halftone:other": "count by (b) (z)"}
    assert "a" in needed("sum by (b) (halftone:a:sum)", recorded)
    with pytest.raises(UnreadableExpression, match=r"`halftone:a:sum` is recorded without .* `c`"):
        needed("sum by (b, c) (halftone:a:sum)", recorded)


def test_a_label_that_a_rule_may_record_is_not(tmp_path: Path) -> None:
    recorded = {
        "halftone:a": 'label_replace(sum by (b) (a), "c", "x", "", "") or halftone:a offset 5m',
        "halftone:z": "sum without (b) (z)",
    }
    found = needed("sum by (c) (halftone:a) + on (c) halftone:z", recorded)
    assert found == {"a": {"b"}, "z": {"c"}}


@pytest.mark.parametrize(
    "expression", ["sum by (", '{job="a"}', '{__name__=~"vllm:.*"}', 'a{b="c" or d="e"}']
)
def test_an_expression_that_may_need_anything_is_refused(expression: str) -> None:
    with pytest.raises(UnreadableExpression):
        needed(expression, {})


def test_names_of_a_pattern() -> None:
    assert list(names_in("a|(b|c)_d(_e)?")) == ["a", "b_d_e", "b_d", "c_d_e", "c_d"]


def panel(title: str, *expressions: str) -> dict[str, Any]:
    return {"title": title, "targets": [{"expr": each} for each in expressions]}


def test_a_dashboard_is_read_as_a_panel_asks(tmp_path: Path) -> None:
    board = {
        "title": "Board",
        "panels": [
            panel("Seen", "rate(${family}a[$__rate_interval]) * $__range_s", 'b{m=~"$model"}'),
            {"title": "Row", "panels": [panel("Folded", "c[[family]]")]},
        ],
        "templating": {
            "list": [
                {"name": "family", "type": "custom", "query": "Own : x_, Ray : y_"},
                {
                    "name": "model",
                    "type": "query",
                    "query": {"query": 'label_values(d{e=~"$family"}, model_name)'},
                },
                {"name": "source", "type": "datasource", "query": "prometheus"},
            ]
        },
        "annotations": {"list": [{"name": "Swap", "expr": "e > 0"}, {"name": "Built in"}]},
    }
    (tmp_path / "board.json").write_text(json.dumps(board))
    found = [
        (each.user.removeprefix("panel Board: "), each.text) for each in of_dashboards(tmp_path)
    ]
    assert found == [
        ("Seen", "rate(x_a[5m]) * 3600"),
        ("Seen", "rate(y_a[5m]) * 3600"),
        ("Seen", 'b{m=~"any"}'),
        ("Folded", "cx_"),
        ("Folded", "cy_"),
        ("variable model", 'group by (model_name) (d{e=~"x_"})'),
        ("variable model", 'group by (model_name) (d{e=~"y_"})'),
        ("annotation Swap", "e > 0"),
    ]


def test_rules_are_read_with_what_they_make(tmp_path: Path) -> None:
    made = "{record: 'halftone:a', expr: b}, {record: 'halftone:e', expr: f, labels: {g: h}}"
    (tmp_path / "rules.yaml").write_text(
        f"groups: [{{name: g, rules: [{made}, {{alert: C, expr: d}}]}}]"
    )
    assert list(of_rules(tmp_path)) == [
        Expression("rule halftone:a", "b", "halftone:a"),
        Expression("rule halftone:e", 'label_replace(f, "g", "h", "", "")', "halftone:e"),
        Expression("alert C", "d"),
    ]


def test_who_reads_a_recorded_series_needs_what_is_behind_it() -> None:
    told = contract(
        [
            Expression("rule halftone:a", "sum by (model_name) (vllm:a)", "halftone:a"),
            Expression("rule halftone:b", "halftone:a / vllm:b", "halftone:b"),
            Expression("alert C", "halftone:b > 1"),
        ]
    )
    users = {each["name"]: each["neededBy"] for each in told["metrics"]}
    assert users["vllm:a"] == ["alert C", "rule halftone:a"]
    assert users["vllm:b"] == ["alert C", "rule halftone:b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sum(", "alert A: `sum(` is no PromQL"),
        ("halftone:nobody", "alert A: no rule records `halftone:nobody`."),
        ("strange_metric", "alert A: nobody says whose `strange_metric` is; add a row to SOURCES"),
    ],
)
def test_what_no_contract_can_be_made_of_is_refused(text: str, said: str) -> None:
    with pytest.raises(Broken) as caught:
        contract([Expression("alert A", text)])
    assert str(caught.value).startswith(said)
