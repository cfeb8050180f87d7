"""The dashboards: that their files fit, and that what they ask exists and has an answer.

We test these aspects:
- the files are what their source makes, with the UIDs that links and people rely on;
- each panel says what it is, in which unit and what good looks like, and lies beside the others;
- every metric that is asked for is recorded by our rules, exported by us, or known to be another's,
  and labels that are chosen by, or named in a legend, are there;
- links between dashboards keep the time, and of the variables those that are the same over there;
- Prometheus takes every query, and has an answer to it in a cluster under load;
- Helm puts each file into a ConfigMap as it stands.
"""

import re
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest
import yaml

from halftone.scaling.inputs.names import NATIVE, RAY
from halftone.scaling.policy import Term
from halftone.telemetry import endpoint, scaling
from halftone.telemetry.operator import OperatorMetrics
from tests.contract.test_chart_monitoring import CHART, OPERATOR, helm, promtool
from tests.dashboard_series import INTERVAL, STEPS, all_series
from tools.dashboards.__main__ import FOLDER, generated
from tools.dashboards.filling import Asked, asked, filled, panels, read

BOARDS: Final = {board["uid"]: board for board in read(FOLDER)}
COLUMNS: Final = 24
LINK: Final = re.compile(r"/d/([\w-]+)\?((?:&?\${\w+:queryparam})+)")
# Grafana's names, and what it writes behind a number as it stands.
UNITS: Final = {
    *("short", "s", "percentunit", "percent", "reqps", "ops", "Bps"),
    *("si:tok/s", "suffix: a million", "decbytes"),
}
# Of others, beside what the rules read of vLLM and Ray.
CONSUMED: Final = {"DCGM_FI_DEV_GPU_UTIL", "ray_node_gpus_utilization"}
# Labels by which recorded series are told apart.
RECORDED: Final = {
    *("model_name", "replica", "source", "le", "status", "reason", "condition", "term", "kind"),
    *("stage", "result", "prometheus"),
}
# What a scrape adds.
TARGET: Final = {"namespace", "job", "instance", "pod"}
CLASSES: Final = re.compile(r"\b(green|red|orange|yellow|blue|purple)$")


def queries() -> list[tuple[Asked, str]]:
    """Every query with each choice of its variables."""
    return [
        (one, expression)
        for board in BOARDS.values()
        for one in asked(board)
        for expression in filled(board, one.expression)
    ]


QUERIES: Final = queries()


def selectors(expression: str) -> list[Any]:
    found: list[Any] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def exported() -> dict[str, set[str]]:
    """Every series of ours by its name, with its labels but those of a scrape."""
    found: dict[str, set[str]] = {}
    for names, suffix in ((endpoint.COUNTERS, "_total"), (endpoint.GAUGES, "")):
        for name, (_, labels) in names.items():
            found[f"ray_{name}{suffix}"] = set(labels)
    for name, (_, labels) in scaling.GAUGES.items():
        found[name] = found[f"ray_{name}"] = set(labels)
    metrics = OperatorMetrics()
    for metric in vars(metrics).values():
        for family in metric.describe() if hasattr(metric, "describe") else ():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
            for suffix in suffixes.get(family.type, ("",)):
                found[family.name + suffix] = {*metric._labelnames, "le"}
    return found


def recorded() -> set[str]:
    files = (yaml.safe_load(path.read_text()) for path in (CHART / "rules").glob("*.yaml"))
    rules = (rule for file in files for group in file["groups"] for rule in group["rules"])
    return {rule["record"] for rule in rules if "record" in rule}


def every_panel() -> Iterator[tuple[str, dict[str, Any]]]:
    for uid, board in BOARDS.items():
        for panel in panels(board):
            yield f"{uid}: {panel['title']}", panel


def test_generated_files_fit() -> None:
    there = {path: path.read_text() for path in FOLDER.iterdir()}
    assert there == generated()


def test_uids_are_those_that_people_have_links_to() -> None:
    assert set(BOARDS) == {"halftone-endpoint", "halftone-quantization", "halftone-operator"}
    assert all(board["tags"] == ["halftone"] for board in BOARDS.values())


def test_links_keep_what_means_the_same_over_there() -> None:
    variables = {
        uid: {each["name"]: each.get("query") for each in board["templating"]["list"]}
        for uid, board in BOARDS.items()
    }
    kept = {}
    for uid, board in BOARDS.items():
        for link in board["links"]:
            assert (link["type"], link["keepTime"], link["includeVars"]) == ("link", True, False)
            told = LINK.fullmatch(link["url"])
            assert told is not None, link["url"]
            there, names = told[1], re.findall(r"{(\w+):queryparam}", told[2])
            kept[uid, there] = names
            assert all(variables[uid][name] == variables[there][name] for name in names)
    assert kept.keys() == set(permutations(BOARDS, 2))
    assert all("datasource" in names for names in kept.values())
    namespaces = {pair for pair, names in kept.items() if "namespace" in names}
    assert namespaces == set(permutations(("halftone-quantization", "halftone-operator")))


def test_every_panel_says_what_it_is() -> None:
    for where, panel in every_panel():
        assert re.search(r"\b[Gg]ood: .+\.", panel["description"]), where
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, where
        assert panel["datasource"]["uid"] == "${datasource}", where
        assert panel["targets"], where
        assert all(target["expr"] for target in panel["targets"]), where
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters), where


def test_ids_are_unique() -> None:
    for board in BOARDS.values():
        rows = [panel for panel in board["panels"] if panel["type"] == "row"]
        ids = [panel["id"] for panel in (*panels(board), *rows)]
        assert len(set(ids)) == len(ids)
        titles = [row["title"] for row in rows]
        assert titles
        assert all(row["collapsed"] for row in rows)


def test_no_two_panels_lie_on_each_other() -> None:
    for uid, board in BOARDS.items():
        taken: dict[tuple[int, int], str] = {}
        every = [*board["panels"], *panels(board)]
        for panel in {panel["id"]: panel for panel in every}.values():
            place = panel["gridPos"]
            width = place.get("w", COLUMNS)
            assert place["x"] + width <= COLUMNS, (uid, panel["title"])
            for x in range(place["x"], place["x"] + width):
                for y in range(place["y"], place["y"] + place["h"]):
                    assert (x, y) not in taken, (uid, panel["title"], taken.get((x, y)))
                    taken[x, y] = panel["title"]


def test_colours_are_of_the_palette_that_has_light_and_dark() -> None:
    found = re.findall(r'"(?:c|iconC)olor": "([^"]+)"', "".join(generated().values()))
    assert found
    assert [colour for colour in found if not CLASSES.search(colour)] == []


def test_every_state_of_the_timeline_is_a_term() -> None:
    (panel,) = (one for _, one in every_panel() if one["title"] == "The term that binds")
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    assert [option["text"] for option in mapping["options"].values()] == [str(t) for t in Term]
    text = panel["targets"][0]["expr"]
    numbered = re.findall(r'(\d+) \* [^*]+?term="(\w+)"', text)
    assert dict(numbered) == {
        number: option["text"] for number, option in mapping["options"].items()
    }


def test_each_family_can_be_chosen() -> None:
    board = BOARDS["halftone-endpoint"]
    replica = "halftone:replica_requests_waiting{source=~'$family'}"
    chosen = [re.sub(r".*'(.*)'.*", r"\1", one) for one in filled(board, replica)]
    assert chosen == [".*", NATIVE.title, RAY.title]
    told = [one.expression for one in asked(board) if "$family" in one.expression]
    assert told
    assert all('source=~"$family"' in one for one in told)
    with pytest.raises(KeyError, match="familie"):
        filled(board, "a{source=~'$familie'}")


def test_titles_of_a_dashboard_differ() -> None:
    for board in BOARDS.values():
        titles = [panel["title"] for panel in panels(board)]
        assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("uid", sorted(BOARDS))
def test_every_metric_exists(uid: str) -> None:
    known = {*exported(), *recorded(), *CONSUMED}
    found = {
        selector.name: one.panel
        for one, expression in QUERIES
        if one.uid == uid
        for selector in selectors(expression)
    }
    assert found
    assert {name: panel for name, panel in found.items() if name not in known} == {}


def test_labels_that_are_chosen_by_are_exported() -> None:
    labels = exported()
    for one, expression in QUERIES:
        for selector in selectors(expression):
            chosen = {matcher.name for matcher in selector.matchers.matchers}
            if selector.name in labels:
                assert chosen <= labels[selector.name] | TARGET, (one, selector.name)
            if selector.name.startswith("halftone:"):
                known = RECORDED | TARGET
                assert chosen <= known, (one, selector.name)


def test_legends_name_labels_that_are_left() -> None:
    for where, panel in every_panel():
        for target in panel["targets"]:
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                grouped = re.search(rf"by \([^)]*\b{label}\b[^)]*\)", target["expr"])
                assert grouped or target["expr"].split("{")[0] in CONSUMED, (where, label)


def suite(expressions: list[str]) -> dict[str, Any]:
    """A suite of promtool that fails for every expression without an answer."""
    tests = [
        {
            "expr": f"count({expression}) > bool 0",
            "eval_time": f"{STEPS // 4}m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for expression in expressions
    ]
    return {
        "rule_files": [str(path) for path in sorted((CHART / "rules").glob("*.yaml"))],
        "evaluation_interval": INTERVAL,
        "tests": [{"interval": INTERVAL, "input_series": all_series(), "promql_expr_test": tests}],
    }


def answered(folder: Path, expressions: list[str]) -> list[str]:
    """What promtool says of those without an answer."""
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(suite(expressions)))
    found = promtool("test", "rules", path)
    told = found.stdout + found.stderr
    assert (found.returncode == 0) == ("SUCCESS" in told), told
    return (
        [] if found.returncode == 0 else re.findall(r"expr: ?\"?(.+?)\"?,? time:", told) or [told]
    )


def test_prometheus_answers_every_query_under_load(tmp_path: Path) -> None:
    assert answered(tmp_path, sorted({expression for _, expression in QUERIES})) == []


def test_a_query_for_a_metric_that_is_not_there_is_noticed(tmp_path: Path) -> None:
    assert answered(tmp_path, ["sum(halftone:model_replicas:count)", "sum(vllm:no_such)"]) != []


def test_helm_puts_each_file_into_a_config_map() -> None:
    options = ("--set", "dashboards.annotations.grafana_folder=Halftone")
    every = yaml.safe_load_all(helm(*OPERATOR, *options))
    maps = [one for one in every if one["kind"] == "ConfigMap"]
    held = {name: text for one in maps for name, text in one["data"].items()}
    files = {f"halftone-{path.name}": text for path, text in generated().items()}
    assert {name: text + "\n" for name, text in held.items()} == files
    assert {one["metadata"]["labels"]["grafana_dashboard"] for one in maps} == {"1"}
    assert {one["metadata"]["annotations"]["grafana_folder"] for one in maps} == {"Halftone"}


def test_helm_makes_none_where_they_are_off() -> None:
    every = yaml.safe_load_all(helm(*OPERATOR, "--set", "dashboards.enabled=false"))
    assert [one for one in every if one["kind"] == "ConfigMap"] == []
