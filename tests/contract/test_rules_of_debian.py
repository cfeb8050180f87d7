"""The chart's rules and their suites, by the Prometheus 2.42 of Debian 12.

We test these aspects:
- 2.42 takes every file of rules, and every suite passes it, but for what is listed with a reason;
- what was adapted for it is as strict as the suite: it passes Prometheus 3 as it stands, and a
  value, a label or a rule that is wrong fails it;
- what obtains Debian's promtool names what is missing, and refuses another version.

The same suites as they are, and by Prometheus 3, are test_chart_alerts.py's and
test_chart_monitoring.py's.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.conftest import ROOT
from tests.older_suites import adapted
from tests.servers.prometheus import built
from tools import debian

CHART: Final = ROOT / "charts" / "halftone-monitoring"
RULES: Final = sorted((CHART / "rules").glob("*.yaml"))
SUITES: Final = sorted((CHART / "tests").glob("*.yaml"))

# A window of Prometheus 2 holds the sample at its left end, too, which one of Prometheus 3 does
# not. What grows all the time has the same rate in both. What jumps in a window that samples fill
# is spread over one more of them in 2.42. By suite and time: the series, or the alert with what is
# said of it, as 3 has it and as 2.42 has it.
OTHERWISE: Final[dict[tuple[str, str], dict[str, tuple[Any, Any]]]] = {
    ("endpoint", "1h5m"): {
        "halftone:model_answers:rate1h|qwen": (1.033898305084746, 1.0333333333333334),
        "halftone:model_answers_failed:ratio_rate1h|qwen": (
            0.03224043715846994,
            0.03225806451612903,
        ),
    },
    ("endpoint", "1h20m"): {
        "halftone:model_first_tokens_in_time:ratio_rate1h|qwen": (0.6610169491525424, 2 / 3),
        "halftone:model_first_tokens_in_time:ratio_rate30m|qwen": (0.3103448275862069, 1 / 3),
    },
    ("endpoint", "1h30m"): {"TimeToFirstTokenBurn|qwen": ("50.85%", "50%")},
}


def old_promtool() -> Path:
    """Debian's; its absence fails the test."""
    path = debian.program("promtool")
    if not path.exists():
        pytest.fail(f"{path} is missing; fetch it with `make debian-tools`, on Debian 12")
    return path


def run(program: Path, *words: str | Path) -> tuple[int, str]:
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def suite(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def written(folder: Path, told: dict[str, Any]) -> Path:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


def as_older(name: str, told: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Put what 2.42 has otherwise into a suite; returns the rows of OTHERWISE that were there."""
    used = set()
    for test in told["tests"]:
        for case in (*test.get("promql_expr_test", ()), *test.get("alert_rule_test", ())):
            rows = OTHERWISE.get((name, case["eval_time"]), {})
            for row, (now, before) in rows.items():
                series, _, model = row.partition("|")
                for each in case.get("exp_samples", ()):
                    labels = each["labels"]
                    if labels.startswith(f'{series}{{model_name="{model}"'):
                        assert each["value"] == now, labels
                        each["value"] = before
                        used.add((name, case["eval_time"], row))
                for each in case.get("exp_alerts", ()):
                    about = (case["alertname"], each["exp_labels"].get("model_name"))
                    text = each["exp_annotations"]["description"]
                    if about == (series, model) and text.startswith(f"{now} "):
                        each["exp_annotations"]["description"] = text.replace(now, before, 1)
                        used.add((name, case["eval_time"], row))
    return used


def test_debians_promtool_is_the_one_that_we_say() -> None:
    code, said = run(old_promtool(), "--version")
    assert code == 0
    assert said.startswith("promtool, version 2.42.")


@pytest.mark.parametrize("path", RULES, ids=lambda path: str(path.stem))
def test_it_takes_the_rules(path: Path) -> None:
    rules = [rule for group in suite(path)["groups"] for rule in group["rules"]]
    code, said = run(old_promtool(), "check", "rules", "--lint=all", "--lint-fatal", path)
    assert code == 0, said
    assert f"{len(rules)} rules found" in said


@pytest.mark.parametrize("path", SUITES, ids=lambda path: str(path.stem))
def test_the_suite_passes_it(tmp_path: Path, path: Path) -> None:
    told = suite(path)
    used = as_older(path.stem, told)
    rows = {(*key, row) for key, rows in OTHERWISE.items() for row in rows if key[0] == path.stem}
    assert used == rows
    code, said = run(old_promtool(), "test", "rules", written(tmp_path, adapted(told, path.parent)))
    assert code == 0, said


@pytest.mark.parametrize("path", SUITES, ids=lambda path: str(path.stem))
def test_what_was_adapted_passes_prometheus_3_as_it_stands(tmp_path: Path, path: Path) -> None:
    told = written(tmp_path, adapted(suite(path), path.parent))
    code, said = run(built("promtool"), "test", "rules", told)
    assert code == 0, said


SMALL: Final = {
    "rule_files": [],
    "evaluation_interval": "1m",
    "fuzzy_compare": True,
    "tests": [
        {
            "interval": "1m",
            "input_series": [
                {"series": 'up{job="a"}', "values": "0.3+0x5"},
                {"series": 'up{job="b"}', "values": "1+0x5"},
            ],
            "promql_expr_test": [
                {
                    "expr": "up",
                    "eval_time": "5m",
                    "exp_samples": [
                        {"labels": 'up{job="a"}', "value": 0.3},
                        {"labels": 'up{job="b"}', "value": 1},
                    ],
                }
            ],
        }
    ],
}


@pytest.mark.parametrize(
    ("before", "after", "passes"),
    [
        ("value: 0.3", "value: 0.30000000000001", True),
        ("value: 0.3", "value: 0.3001", False),
        ("value: 1\n", "value: -1\n", False),
        ('labels: up{job="b"}', 'labels: up{job="c"}', False),
        ('labels: up{job="b"}', 'labels: down{job="b"}', False),
        ('labels: up{job="b"}', "labels: '{job=\"b\"}'", False),
        ("expr: up", 'expr: up{job="a"}', False),
        ("expr: up", "expr: up or vector(7)", False),
    ],
)
def test_what_was_adapted_is_as_strict(
    tmp_path: Path, before: str, after: str, passes: bool
) -> None:
    text = yaml.safe_dump(SMALL)
    assert before in text
    path = written(tmp_path, adapted(yaml.safe_load(text.replace(before, after)), tmp_path))
    code, said = run(old_promtool(), "test", "rules", path)
    assert (code == 0) == passes, said


@pytest.mark.parametrize("value", [".inf", ".nan"])
def test_what_cannot_be_compared_is_refused(tmp_path: Path, value: str) -> None:
    text = yaml.safe_dump(SMALL).replace("value: 0.3", f"value: {value}")
    with pytest.raises(ValueError, match="cannot be compared"):
        adapted(yaml.safe_load(text), tmp_path)


# In each file of rules, something that its suite looks at.
WORSE: Final = {
    "endpoint": ('status=~"5.."', 'status=~"[45].."'),
    "jobs": ('{stage=~"plan|target|clean-up"} > 1800', "> 1800"),
    "scaling": (
        "max by (model_name, namespace, replica)",
        "sum by (model_name, namespace, replica)",
    ),
}


@pytest.mark.parametrize("name", sorted(WORSE))
def test_a_worse_rule_fails_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "rules").mkdir()
    for path in RULES:
        text = path.read_text()
        if path.stem == name:
            assert WORSE[name][0] in text
            text = text.replace(*WORSE[name])
        (tmp_path / "rules" / path.name).write_text(text)
    told = suite(CHART / "tests" / f"{name}.yaml")
    as_older(name, told)
    path = written(tmp_path, adapted(told, tmp_path / "tests"))
    code, said = run(old_promtool(), "test", "rules", path)
    assert code != 0
    assert "FAILED" in said


def obtained(folder: Path, **programs: str) -> tuple[int, str]:
    """What the tool does where these shell scripts are all of PATH but the usual programs."""
    path = folder / "path"
    path.mkdir()
    for name, script in {"sh": None, "touch": None, "mkdir": None, **programs}.items():
        if script is None:
            (path / name).symlink_to(Path("/bin") / name)
        else:
            (path / name).write_text(f"#!/bin/sh\n{script}\n")
            (path / name).chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "tools.debian"],
        cwd=ROOT,
        env={**os.environ, "PATH": str(path), "HALFTONE_TOOLS_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_without_apt_it_says_where_the_program_comes_from(tmp_path: Path) -> None:
    code, said = obtained(tmp_path)
    assert code == 1
    assert "apt-get and dpkg-deb are not here; run it on Debian 12" in said


def test_where_apt_fails_it_passes_on_what_that_says(tmp_path: Path) -> None:
    code, said = obtained(tmp_path, **{"apt-get": "echo no mirror >&2; exit 100", "dpkg-deb": ""})
    assert code == 1
    assert "no mirror" in said
    assert "`apt-get --quiet --yes update` failed" in said


@pytest.mark.parametrize(
    ("unpacks", "told"),
    [
        (
            'mkdir -p "$3/usr/bin"; p="$3/usr/bin/promtool"; '
            'printf "#!/bin/sh\\necho promtool, version 2.53.1" > "$p"; chmod +x "$p"',
            "says 'promtool, version 2.53.1'",
        ),
        ("", "says 'nothing'"),
    ],
)
def test_another_version_is_refused(tmp_path: Path, unpacks: str, told: str) -> None:
    apt = 'for word in "$@"; do [ "$word" = download ] && touch prometheus_1_all.deb; done; exit 0'
    unpacks = f"PATH=$PATH:/bin:/usr/bin\n{unpacks}"
    code, said = obtained(tmp_path, **{"apt-get": apt, "dpkg-deb": unpacks})
    assert code == 1
    assert told in said
    assert "we hold ourselves to 2.42" in said
    assert [each.name for each in (tmp_path / "cache").rglob("promtool")] == []
