"""Pods of others that the chart `halftone-monitoring` has scraped.

We test these aspects:
- each gets a PodMonitor with the release's labels and interval, in its own namespaces;
- two are told apart, none is the doctor's, and without any there is none;
- a name that is there twice, or is the doctor's, is refused;
- what lacks a port, a label or a name, or has what there is not, is refused by its place.
"""

import json
from typing import Any

import pytest

from tests.cluster.monitoring_chart import DOCTOR, helm, of_kind, render

VLLM = {"name": "vllm", "port": "http", "matchLabels": {"app": "vllm"}, "namespaces": ["models"]}
SCALER = {"name": "autoscale", "port": "metrics", "matchLabels": {"app": "autoscale"}}


def said(*scrapes: dict[str, Any]) -> tuple[str, str]:
    return ("--set-json", f"scrapes={json.dumps(scrapes)}")


def test_each_has_a_monitor() -> None:
    labels = ("--set", "podMonitor.labels.release=prometheus,podMonitor.interval=20s")
    vllm, scaler = of_kind(render("team", *said(VLLM, SCALER), *labels), "PodMonitor")
    assert vllm["metadata"]["labels"]["release"] == "prometheus"
    assert [each["metadata"]["name"] for each in (vllm, scaler)] == ["seen-vllm", "seen-autoscale"]
    assert vllm["spec"] == {
        "namespaceSelector": {"matchNames": ["models"]},
        "selector": {"matchLabels": {"app": "vllm"}},
        "podMetricsEndpoints": [{"port": "http", "interval": "20s"}],
    }
    assert "namespaceSelector" not in scaler["spec"]


def test_the_doctor_has_its_own_and_none_is_there_unasked() -> None:
    assert of_kind(render("team"), "PodMonitor") == []
    names = [
        each["metadata"]["name"]
        for each in of_kind(render("team", *DOCTOR, *said(VLLM)), "PodMonitor")
    ]
    assert len(set(names)) == 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({**VLLM, "port": 8000}, "/scrapes/0/port"),
        ({**VLLM, "matchLabels": {}}, "/scrapes/0/matchLabels"),
        ({**VLLM, "name": "No Name"}, "/scrapes/0/name"),
        ({**VLLM, "path": "/metrics"}, "/scrapes/0"),
        ({"name": "vllm", "port": "http"}, "/scrapes/0"),
    ],
)
def test_what_cannot_be_is_refused_by_its_place(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(RuntimeError, match=told):
        helm("template", *said(wrong))


@pytest.mark.parametrize(
    "scrapes", [(VLLM, {**SCALER, "name": "vllm"}), ({**VLLM, "name": "doctor"},)]
)
def test_a_name_is_there_once(scrapes: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(RuntimeError, match="more than once, or the doctor has it"):
        render("team", *said(*scrapes))
