"""An alert's way: a rule of a real Prometheus, a real Alertmanager, and whom that tells.

We test these aspects:
- an alert is at Alertmanager with its labels, its annotations, and where it came from;
- the receiver of its route is told that it fires, and that it has ended.

Which of our own alerts fire when, promtool and the live proofs say; this holds the way they go.
"""

from pathlib import Path

import yaml

from tests.doubles.exporters import Exported, Exporter, native_page
from tests.doubles.webhook import Webhook
from tests.servers.alertmanager import Alertmanager
from tests.servers.ports import free_port
from tests.servers.prometheus import Job, Prometheus

RULE = {
    "alert": "NobodyThere",
    "expr": 'up{job="endpoint"} == 0',
    "labels": {"severity": "critical"},
    "annotations": {"summary": "{{ $labels.instance }} of {{ $labels.namespace }} is gone."},
}


def test_an_alert_reaches_whoever_is_told(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "here", "rules": [RULE]}]}))
    nobody = f"127.0.0.1:{free_port()}"
    jobs = {"endpoint": Job([nobody], {"namespace": "models"})}
    with (
        Exporter(native_page, [Exported("a")]) as exporter,
        Webhook() as webhook,
        Alertmanager(tmp_path, webhook.url) as alertmanager,
        Prometheus(tmp_path, jobs, [rules], alertmanagers=[alertmanager.address]) as prometheus,
    ):
        alert = alertmanager.until("NobodyThere", namespace="models")
        assert alert["labels"] == {
            "alertname": "NobodyThere",
            "severity": "critical",
            "job": "endpoint",
            "instance": nobody,
            "namespace": "models",
        }
        assert alert["annotations"] == {"summary": f"{nobody} of models is gone."}
        assert "/graph?g0.expr=up%7Bjob%3D%22endpoint%22%7D+%3D%3D+0" in alert["generatorURL"]
        assert alert["receivers"] == [{"name": "tests"}]
        assert webhook.until("NobodyThere", "firing")["annotations"] == alert["annotations"]
        assert webhook.told("NobodyThere", "resolved") == []

        prometheus.scrape("endpoint", [exporter.address])
        assert webhook.until("NobodyThere", "resolved")["labels"] == alert["labels"]
        alertmanager.until_quiet("NobodyThere")
