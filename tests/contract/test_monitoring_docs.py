"""The configurations in docs/monitoring.md: taken by the programs that they are for.

We test these aspects:
- both Prometheus take each configuration, with the chart's rules beside it. Neither is built with
  what finds pods of Kubernetes, ours because such clients would take most of its build. So that
  line is read as YAML alone, and a file stands for it;
- of the pods that our charts make, the relabelling keeps just the ports that monitors scrape;
- Alertmanager takes its configuration, and tells the pager of every critical alert of the chart and
  the chat of every other;
- what one alert mutes is an alert of the chart, and about the same model.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.cluster import chart, endpoint_chart, monitoring_chart
from tests.cluster.endpoint_variants import AUTOSCALED, GATEWAY, MONITORED, STANDALONE
from tests.conftest import ROOT
from tests.contract.test_chart import ALL
from tests.servers.prometheus import built
from tools import debian

RULES: Final = sorted((ROOT / "charts" / "halftone-monitoring" / "rules").glob("*.yaml"))
TEXT: Final = (ROOT / "docs" / "monitoring.md").read_text()


def documented(name: str) -> list[str]:
    """The YAML blocks of the document that begin with a file's name."""
    return re.findall(rf"(?s)```yaml\n# {re.escape(name)}\n(.+?)```", TEXT)


def alerts() -> dict[str, dict[str, Any]]:
    """Every alert of the chart, by its name."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    rules = [rule for group in groups for rule in group["rules"]]
    return {rule["alert"]: rule for rule in rules if "alert" in rule}


def run(program: Path, *words: str | Path) -> tuple[int, str]:
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def beside_rules(tmp_path: Path) -> Path:
    """A folder with the chart's rules."""
    for path in RULES:
        shutil.copy(path, tmp_path)
    return tmp_path


# What finds targets, and what stands for it here.
PODS: Final = "kubernetes_sd_configs: [{role: pod}]"
FILE: Final = "file_sd_configs: [{files: [pods.json]}]"


def test_prometheus_takes_its_configurations(beside_rules: Path) -> None:
    older = debian.program("promtool")
    if not older.exists():
        pytest.fail(f"{older} is missing; fetch it with `make debian-tools`, on Debian 12")
    texts = documented("prometheus.yml")
    assert [PODS in text for text in texts] == [True, False]
    path = beside_rules / "prometheus.yml"
    for text in (each.replace(PODS, FILE) for each in texts):
        assert yaml.safe_load(text)["alerting"]["alertmanagers"]
        for promtool in (older, built("promtool")):
            path.write_text(text)
            code, said = run(promtool, "check", "config", "--lint=all", path)
            assert code == 0, said
            assert f"{len(RULES)} rule files found" in said
            path.write_text(
                text.replace("source_labels", "source_label").replace("_files", "_file")
            )
            assert run(promtool, "check", "config", path)[0] != 0


Object = dict[str, Any]
# What each chart makes where its monitors are switched on.
CHARTS: Final[dict[str, Callable[[], list[Object]]]] = {
    "operator": lambda: chart.render("jobs", *ALL),
    "ray": lambda: endpoint_chart.render("team", *GATEWAY, *MONITORED),
    "standalone": lambda: endpoint_chart.render("team", *STANDALONE, *AUTOSCALED, *MONITORED),
    "doctor": lambda: monitoring_chart.render("monitoring", *monitoring_chart.DOCTOR),
}


def pods(found: Any) -> Iterator[Object]:
    """Pods, and templates of pods, wherever they stand."""
    if isinstance(found, dict):
        if "containers" in (found.get("spec") or {}):
            yield found
        for inner in found.values():
            yield from pods(inner)
    elif isinstance(found, list):
        for inner in found:
            yield from pods(inner)


def ports(pod: Object) -> Iterator[str]:
    for container in pod["spec"]["containers"]:
        yield from (port["name"] for port in container.get("ports", ()))


def monitored(objects: list[Object], pod: Object) -> set[str]:
    """The ports of a pod that monitors scrape."""
    labels = pod["metadata"]["labels"].items()
    found = set()
    for each in objects:
        spec = each.get("spec") or {}
        if each["kind"] == "PodMonitor" and spec["selector"]["matchLabels"].items() <= labels:
            found |= {endpoint["port"] for endpoint in spec["podMetricsEndpoints"]}
        # A ServiceMonitor of ours has the one Service of its chart, with its one port.
        if each["kind"] == "ServiceMonitor":
            (service,) = (one for one in objects if one["kind"] == "Service")
            if service["spec"]["selector"].items() <= labels:
                found |= {port["targetPort"] for port in service["spec"]["ports"]}
    return found


def is_kept(rules: list[Object], pod: Object, port: str) -> bool:
    """Whether Prometheus scrapes it: a pattern fits a whole value. Other labels are a KeyError."""
    words = {f"pod_label_{label}": text for label, text in pod["metadata"]["labels"].items()}
    words |= {"pod_container_port_name": port, "namespace": "n", "pod_name": "p"}
    meta = {f"__meta_kubernetes_{re.sub('[^a-z0-9_]', '_', k)}": v for k, v in words.items()}
    keeping = [rule for rule in rules if rule.get("action") == "keep"]
    values = [(rule, ";".join(meta[name] for name in rule["source_labels"])) for rule in keeping]
    return all(re.fullmatch(rule["regex"], value) for rule, value in values)


def labelled(rules: list[Object], sources: str, target: str) -> set[tuple[str, str]]:
    """Which of Kubernetes' labels becomes which of a series'."""
    return {(rule[sources][0], rule[target]) for rule in rules if target in rule}


@pytest.mark.parametrize("name", sorted(CHARTS))
def test_pods_are_found_as_monitors_find_them(name: str) -> None:
    (text,) = (each for each in documented("prometheus.yml") if PODS in each)
    (job,) = yaml.safe_load(text)["scrape_configs"]
    objects = CHARTS[name]()
    assert any(monitored(objects, pod) for pod in pods(objects))
    for pod in pods(objects):
        kept = {port for port in ports(pod) if is_kept(job["relabel_configs"], pod, port)}
        assert kept == monitored(objects, pod), pod["metadata"]["labels"]


def test_series_get_the_labels_that_monitors_give_them() -> None:
    (text,) = (each for each in documented("prometheus.yml") if PODS in each)
    (job,) = yaml.safe_load(text)["scrape_configs"]
    documented_ones = labelled(job["relabel_configs"], "source_labels", "target_label")
    monitors = [each for make in CHARTS.values() for each in make() if each["kind"] == "PodMonitor"]
    given = {
        pair
        for monitor in monitors
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
        for pair in labelled(endpoint.get("relabelings", []), "sourceLabels", "targetLabel")
    }
    assert given
    assert given <= documented_ones
    # What the operator of Prometheus gives by itself.
    assert {target for _, target in documented_ones - given} == {"namespace", "pod"}


@pytest.fixture
def alertmanager_yml(tmp_path: Path) -> Path:
    (text,) = documented("alertmanager.yml")
    path = tmp_path / "alertmanager.yml"
    path.write_text(text)
    return path


def test_alertmanager_takes_its_configuration(alertmanager_yml: Path) -> None:
    code, said = run(built("amtool"), "check-config", alertmanager_yml)
    assert code == 0, said
    assert "- 2 receivers" in said
    alertmanager_yml.write_text(
        alertmanager_yml.read_text().replace("receiver: pager", "receiver: page")
    )
    assert run(built("amtool"), "check-config", alertmanager_yml)[0] != 0


def test_severity_decides_who_is_told(alertmanager_yml: Path) -> None:
    severities = {name: rule["labels"]["severity"] for name, rule in alerts().items()}
    assert set(severities.values()) == {"critical", "warning"}
    for name, severity in severities.items():
        code, said = run(
            *(built("amtool"), "config", "routes", "test"),
            *(f"--config.file={alertmanager_yml}", f"alertname={name}", f"severity={severity}"),
        )
        assert (code, said.strip()) == (0, "pager" if severity == "critical" else "chat"), name


def test_what_is_muted_is_an_alert_about_the_same_model_or_an_application_beside_it() -> None:
    (text,) = documented("alertmanager.yml")
    for rule in yaml.safe_load(text)["inhibit_rules"]:
        (source,), (target, *more) = rule["source_matchers"], rule["target_matchers"]
        for matcher in (source, target):
            name = re.fullmatch(r'alertname="(\w+)"', matcher)
            assert name is not None
            assert name[1] in alerts()
        # Of Serve's own judgement nobody knows the model.
        assert more in ([], ['application=~".+"'])
        assert rule["equal"] == ["namespace"] + ["model_name"] * (not more)
