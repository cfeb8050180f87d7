"""What dashboards show where there is little to show, and where there is much of one name.

We test these aspects:
- while nobody asks for anything no panel shows NaN or infinity, which a division by 0 or a quantile
  of nothing would make; one that divides by what may be 0 would be noticed;
- replicas of a model that is served in two namespaces are added up, whichever namespaces are
  chosen, and each is counted once though two jobs scrape it;
- replicas that one endpoint has too many do not make up for those that another one lacks.
"""

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.contract.test_chart_monitoring import CHART, promtool
from tests.contract.test_dashboards import BOARDS, QUERIES
from tests.dashboard_series import INTERVAL, STEPS, all_series, idle
from tools.dashboards.filling import filled, panels

Series = list[dict[str, str]]
AT: Final = f"{STEPS // 4}m"
ENDPOINT: Final = BOARDS["halftone-endpoint"]
TWICE: Final = "shared"  # a model that two namespaces serve
# Of its endpoints: (wanted, ready, starting, the most), of which b shrinks.
COUNTS: Final = {"a": (3, 1, 2, 8), "b": (2, 4, 0, 5)}
# By what is chosen, what the panel of replicas shows of it, and what is missing.
CHOSEN: Final = {
    ".*": ((5, 5, 2, 13), 2),
    "a|b": ((5, 5, 2, 13), 2),
    "a": ((3, 1, 2, 8), 2),
    "b": ((2, 4, 0, 5), 0),
}
LEGENDS: Final = ("wanted", "ready", "starting", "most")


def promtool_says(folder: Path, series: Series, tests: list[dict[str, Any]]) -> str:
    """What promtool says of a suite; nothing where all is as it should be."""
    suite = {
        "rule_files": [str(path) for path in sorted((CHART / "rules").glob("*.yaml"))],
        "evaluation_interval": INTERVAL,
        "tests": [{"interval": INTERVAL, "input_series": series, "promql_expr_test": tests}],
    }
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(suite))
    found = promtool("test", "rules", path)
    return "" if found.returncode == 0 else found.stdout + found.stderr


def no_numbers(folder: Path, expressions: list[str]) -> str:
    """What promtool says of those that have a series which is no number while all is idle."""
    tests = [
        {"expr": f"count(0 * ({each}) != 0)", "eval_time": AT, "exp_samples": []}
        for each in expressions
    ]
    return promtool_says(folder, idle(all_series()), tests)


def test_while_all_is_idle_each_panel_shows_numbers_or_nothing(tmp_path: Path) -> None:
    assert no_numbers(tmp_path, sorted({expression for _, expression in QUERIES})) == ""


@pytest.mark.parametrize(
    "expression",
    [
        "halftone:model_replicas:count / halftone:model_generation_tokens:rate2m",
        "histogram_quantile(0.5, halftone:model_time_to_first_token_seconds_bucket:rate5m)",
    ],
)
def test_a_division_by_nothing_would_be_noticed(tmp_path: Path, expression: str) -> None:
    assert "FAILED" in no_numbers(tmp_path, [expression])


def titled(title: str) -> dict[str, Any]:
    (found,) = (panel for panel in panels(ENDPOINT) if panel["title"] == title)
    return found


def asked(panel: dict[str, Any], namespaces: str) -> dict[str, str]:
    """Its queries by the first word of their legends, with the namespaces that are chosen."""
    found = {}
    for target in panel["targets"]:
        (expression,) = filled(ENDPOINT, target["expr"].replace("$namespace", namespaces))
        found[target["legendFormat"].split()[0]] = expression
    return found


def two_endpoints() -> Series:
    """`TWICE` in two namespaces, with two replicas each that two jobs scrape."""
    found: Series = []
    for namespace, counts in COUNTS.items():
        target = f'model="{TWICE}", namespace="{namespace}", job="ray", instance="head:1"'
        names = ("desired", "ready", "starting", "max")
        for name, value in zip(names, counts, strict=True):
            series = f"ray_halftone_scaling_{name}_replicas{{{target}}}"
            found.append({"series": series, "values": f"{value}x{STEPS}"})
        for job in ("pods", "file"):
            for number in (1, 2):
                labels = (
                    f'namespace="{namespace}", job="{job}", instance="n:1", '
                    f'WorkerId="{namespace}{number}"'
                )
                running = f'ray_vllm_num_requests_running{{model_name="{TWICE}", {labels}}}'
                limit = f'ray_halftone_endpoint_requests_limit{{model="{TWICE}", {labels}}}'
                found += [
                    {"series": each, "values": f"{value}x{STEPS}"}
                    for each, value in ((running, 1), (limit, 64))
                ]
    return found


@pytest.mark.parametrize("namespaces", sorted(CHOSEN))
def test_replicas_of_a_model_are_added_up_over_namespaces(tmp_path: Path, namespaces: str) -> None:
    shown, missing = CHOSEN[namespaces]
    of_both = namespaces in (".*", "a|b")
    replicas = asked(titled("Replicas"), namespaces)
    (missed,) = asked(titled("Replicas missing"), namespaces).values()
    room = asked(titled("Room in replicas"), namespaces)
    wanted = {
        **dict(zip((replicas[legend] for legend in LEGENDS), shown, strict=True)),
        replicas["scraped"]: 4 if of_both else 2,
        room["limit"]: 256 if of_both else 128,
    }
    tests = [
        {
            "expr": f"sum({expression})",
            "eval_time": AT,
            "exp_samples": [{"labels": "{}", "value": value}],
        }
        for expression, value in {**wanted, missed: missing}.items()
    ]
    each = [
        {
            "expr": f"count({expression})",
            "eval_time": AT,
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for expression in wanted
    ]
    assert promtool_says(tmp_path, two_endpoints(), tests + each) == ""


def test_terms_are_shown_of_each_endpoint(tmp_path: Path) -> None:
    """A count can be added up, what decided it cannot."""
    target = 'term="{}", model="{}", namespace="{}", job="ray", instance="head:1"'
    series = [
        {
            "series": f"ray_halftone_scaling_decision_info{{{target.format(term, TWICE, place)}}}",
            "values": f"1x{STEPS}",
        }
        for term, place in (("Rate", "a"), ("Floor", "b"))
    ]
    (expression,) = asked(titled("The term that binds"), ".*").values()
    tests = [
        {
            "expr": f"count({expression})",
            "eval_time": AT,
            "exp_samples": [{"labels": "{}", "value": 2}],
        }
    ]
    assert promtool_says(tmp_path, series, tests) == ""
