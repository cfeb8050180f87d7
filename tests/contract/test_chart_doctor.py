"""`halftone doctor` in the chart `halftone-monitoring`: its pod, its test, and whom they are for.

We test these aspects:
- nothing of it is rendered until it is switched on, and it needs an address and a registry;
- what a value changes is in the golden files, and values that cannot be are refused;
- both pods are as Pod Security "restricted" wants them, without a token of the cluster;
- what both pods run are commands that `halftone doctor` takes: the test fails where a metric is
  missing, and says which; the other exports `halftone_metric_contract_ok`;
- they need no module that the operator's image does not have;
- monitor and policy choose the doctor's pod alone, and the port that is there;
- notes and documents tell how to switch it on.
"""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from halftone import __version__
from halftone.telemetry.contract import Source
from tests.api.goldens import agrees_with_golden
from tests.cluster.monitoring_chart import (
    CHART,
    DOCTOR,
    OPERATOR,
    WHOLE,
    Object,
    helm,
    of_kind,
    pod_specs,
    render,
)
from tests.conftest import ROOT
from tests.doubles.exporters import AnsweringServer
from tests.expositions import Answers, scraped
from tests.images_modules import only_what_the_operators_image_has
from tools import charts
from tools.servers import program

KV: Final = "vllm:kv_cache_usage_perc"
VARIANTS: Final = {"default": DOCTOR, "whole": WHOLE}
OTHERS: Final = ("PrometheusRule", "ConfigMap")


@pytest.fixture
def answers() -> Iterator[tuple[Answers, str]]:
    """A Prometheus that has what vLLM's own server exports, and its address."""
    found = Answers(scraped(Source.VllmServer, Source.Prometheus))
    server = AnsweringServer(found)
    server.start()
    yield found, server.origin
    server.stop()


def refusal(*options: str) -> str:
    with pytest.raises(RuntimeError) as error:
        render("team", *options)
    return str(error.value)


def test_helm_finds_nothing_to_complain_about() -> None:
    for options in ((), DOCTOR, WHOLE):
        assert "[WARNING]" not in helm("lint", "--strict", *options)
    assert charts.check(CHART) == []


def test_without_a_wish_there_is_nothing_of_it() -> None:
    assert {one["kind"] for one in render("team")} == set(OTHERS)
    ready = (
        "--set",
        "doctor.prometheusUrl=http://p:9090,image.registry=r.test,podMonitor.interval=1s",
    )
    assert render("team", *ready, "--set", "networkPolicy.enabled=true") == render("team")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_its_snapshot(variant: str) -> None:
    objects = render("team", *VARIANTS[variant], "--set", "dashboards.enabled=false")
    kept = [one for one in objects if one["kind"] not in OTHERS]
    text = yaml.safe_dump_all(kept).replace(__version__, "<version>")
    assert agrees_with_golden(f"charts/monitoring-doctor-{variant}.yaml", text)
    assert all(one["metadata"]["namespace"] == "team" for one in kept)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "doctor.prometheusUrl="), "`doctor.enabled` needs `doctor.prometheusUrl`"),
        (("--set", "image.registry="), "`doctor.enabled` needs `image.registry`"),
        (
            ("--set", "image.registry=https://r.test"),
            "without `https://` and without a '/' at its end; it is 'https://r.test'",
        ),
        (("--set", "doctor.prometheusUrl=prometheus:9090"), "doctor/prometheusUrl"),
        (("--set", "doctor.prometheusUrl=http://me:secret@p:9090"), "doctor/prometheusUrl"),
        (("--set", "doctor.without={vlm}"), "doctor/without/0"),
        (("--set", "doctor.intervalSeconds=0"), "doctor/intervalSeconds"),
        (("--set", "doctor.interval=5"), "additional properties 'interval' not allowed"),
        (("--set", "rules.selector.na-me=a"), "'na-me', which is no name of a label"),
    ],
)
def test_values_that_cannot_be_are_refused(options: tuple[str, ...], said: str) -> None:
    assert said in refusal(*DOCTOR, *options)


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_pods_are_restricted_and_know_nothing_of_the_cluster(variant: str) -> None:
    for pod in pod_specs(render("team", *VARIANTS[variant])).values():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()
        assert {kind for one in spec.get("volumes", ()) for kind in one} <= {
            *("name", "secret", "configMap"),
        }
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert all(one["readOnly"] for one in container.get("volumeMounts", ()))


def test_secrets_and_certificates_are_where_the_command_looks() -> None:
    for pod in pod_specs(render("team", *WHOLE)).values():
        (container,) = pod["spec"]["containers"]
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        files = {
            f"{mounts[volume['name']]}/{item['path']}": item["key"]
            for volume in pod["spec"]["volumes"]
            for item in (volume.get("secret") or volume["configMap"])["items"]
        }
        told = dict(each.split("=", 1) for each in container["args"])
        assert files[told["--prometheus-token-file"]] == "bearer"
        assert files[told["--prometheus-ca-file"]] == "all.pem"


def command(component: str, *options: str) -> list[str]:
    """What a pod runs, in this environment's Python without what the image lacks."""
    pod = pod_specs(render("team", *DOCTOR, *options))[component]
    (container,) = pod["spec"]["containers"]
    words: list[str] = [*container["command"], *container["args"]]
    assert words[:3] == ["python", "-m", "halftone"]
    return [*only_what_the_operators_image_has(), *words[3:]]


def test_alerts_that_nobody_wants_are_not_looked_for() -> None:
    assert "--without=alerts" not in command("test")
    for component in ("test", "doctor"):
        assert "--without=alerts" in command(component, "--set", "alerts.enabled=false")


def test_the_test_of_helm_passes_where_all_is_there_and_names_what_is_not(
    answers: tuple[Answers, str],
) -> None:
    there, url = answers
    words = command("test", "--set", f"doctor.prometheusUrl={url},rules.selector.namespace=models")
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    asked = [query for query in there.queries if "vllm:" in query]
    assert all('namespace="models"' in query for query in asked)
    del there.metrics[KV]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert KV in found.stdout
    assert KV in found.stderr


def test_the_doctor_exports_what_it_finds_on_the_port_of_its_pod(
    answers: tuple[Answers, str],
) -> None:
    there, url = answers
    del there.metrics[KV]
    words = command("doctor", "--set", f"doctor.prometheusUrl={url}")
    place = words.index("--metrics-port=9464")
    words[place] = "--metrics-port=0"  # another's, here
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        port = re.search(r"metrics on port (\d+)", process.stderr.readline())
        assert port is not None
        assert KV in process.stderr.readline()
        page = page_of(f"http://127.0.0.1:{port[1]}/metrics")
        host = re.escape(urlsplit(url).netloc)
        assert re.search(rf'contract_ok{{family="vllm",prometheus="{host}"}} 0\.0', page)
    finally:
        process.send_signal(signal.SIGTERM)
        process.stderr.close()
        assert process.wait(30) == 0


def page_of(url: str) -> str:
    script = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=10).read().decode())"
    return subprocess.check_output([sys.executable, "-c", script], text=True)


def test_what_the_image_lacks_cannot_be_imported_here() -> None:
    words = [*only_what_the_operators_image_has("numpy"), "doctor", "--help"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "numpy is not in the operator's image" in found.stderr


def chosen(labels: dict[str, str], selector: Object) -> bool:
    wanted: dict[str, str] = selector["matchLabels"]
    return wanted.items() <= labels.items()


@pytest.mark.parametrize("variant", VARIANTS)
def test_monitor_and_policy_choose_the_doctors_pod_alone(variant: str) -> None:
    objects = render("team", *VARIANTS[variant])
    pods = pod_specs(objects)
    (deployment,), (monitor,) = of_kind(objects, "Deployment"), of_kind(objects, "PodMonitor")
    policies = of_kind(objects, "NetworkPolicy")
    selectors = [deployment["spec"]["selector"], monitor["spec"]["selector"]]
    selectors += [one["spec"]["podSelector"] for one in policies]
    for selector in selectors:
        assert chosen(pods["doctor"]["metadata"]["labels"], selector)
        assert not chosen(pods["test"]["metadata"]["labels"], selector)
    # By which a Prometheus without the operator finds it: docs/monitoring.md.
    assert pods["doctor"]["metadata"]["labels"]["app.kubernetes.io/part-of"] == "halftone"
    (container,) = pods["doctor"]["spec"]["containers"]
    (port,) = container["ports"]
    (scraped_at,) = monitor["spec"]["podMetricsEndpoints"]
    assert scraped_at["port"] == port["name"] == "metrics"
    assert f"--metrics-port={port['containerPort']}" in container["args"]
    assert {container[kind]["httpGet"]["port"] for kind in ("livenessProbe", "readinessProbe")} == {
        "metrics"
    }
    for policy in policies:
        assert [each["port"] for each in policy["spec"]["ingress"][0]["ports"]] == ["metrics"]


@pytest.mark.parametrize(
    ("url", "more", "ports"),
    [
        ("http://prometheus", (), [80]),
        ("https://prometheus/a/path", (), [443]),
        ("http://prometheus.monitoring:9090/", (), [9090]),
        ("http://prometheus", ("--set", "networkPolicy.prometheusPorts={9090,9091}"), [9090, 9091]),
    ],
)
def test_the_policy_lets_it_ask_prometheus_and_names_alone(
    url: str, more: tuple[str, ...], ports: list[int]
) -> None:
    options = ("--set", f"networkPolicy.enabled=true,doctor.prometheusUrl={url}")
    (policy,) = of_kind(render("team", *DOCTOR, *options, *more), "NetworkPolicy")
    (egress,) = policy["spec"]["egress"]
    assert [each["port"] for each in egress["ports"]] == [*ports, 53, 53]
    assert "from" not in policy["spec"]["ingress"][0]


def test_without_a_monitor_the_pod_is_still_there() -> None:
    objects = render("team", *DOCTOR, "--set", "podMonitor.enabled=false")
    assert of_kind(objects, "PodMonitor") == []
    assert len(of_kind(objects, "Deployment")) == 1


def test_the_notes_say_how_to_see_whether_all_is_there(tmp_path: Path) -> None:
    chart = Path(shutil.copytree(CHART, tmp_path / "chart"))
    # Nobody tells `helm install` of a Prometheus operator that is not there.
    (chart / "templates" / "rules.yaml").unlink()

    def notes(*options: str) -> str:
        words = ("--dry-run=client", "--namespace", "team", *options)
        return helm("install", *words, chart=chart).partition("NOTES:\n")[2]

    off, on = notes(), notes(*DOCTOR)
    assert "`doctor.enabled` is false" in off
    assert "helm test" not in off
    assert "helm test -n team seen" in on
    assert "kubectl logs -n team deployment/seen-doctor" in on


def test_the_documents_command_switches_it_on() -> None:
    text = (ROOT / "docs" / "doctor.md").read_text().replace("\\\n", " ")
    commands = [
        shlex.split(line)
        for line in text.splitlines()
        if line.strip().startswith("helm upgrade monitoring") and "doctor.enabled=true" in line
    ]
    assert commands
    for words in commands:
        options = [word for word in words[4:] if word != "--reuse-values"]
        found = subprocess.run(
            [str(program("helm")), "template", *words[2:4], *options, *OPERATOR],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "name: monitoring-doctor" in found.stdout, found.stderr
        assert "release: prometheus" in found.stdout


def test_an_image_is_named_by_tag_or_digest() -> None:
    def image(*options: str) -> Any:
        pods = pod_specs(render("team", *DOCTOR, *options)).values()
        (name,) = {pod["spec"]["containers"][0]["image"] for pod in pods}
        return name

    registry = "registry.test/halftone"
    assert image() == f"{registry}/halftone-operator:{__version__}"
    assert image("--set", "image.tag=1.2") == f"{registry}/halftone-operator:1.2"
    assert image("--set", "images.doctor=mine:3") == f"{registry}/mine:3"
    digest = f"mine@sha256:{'b' * 64}"
    assert image("--set", f"images.doctor={digest}") == f"{registry}/{digest}"


def test_words_of_families_are_the_contracts() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    contract = json.loads((ROOT / "src/halftone/telemetry/contract.json").read_text())
    known = {need["family"] for need in contract["metrics"]}
    assert known <= set(schema["definitions"]["metricFamily"]["enum"])
