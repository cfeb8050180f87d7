"""Labels that kube-prometheus-stack gives whatever its monitors have Prometheus scrape.

    Job([address], by_pod_monitor("models", "chat-replica", "chat-worker-0", "metrics"))

Called by live tests of rules, dashboards and alerts, whose targets are processes of this machine.
"""


def by_pod_monitor(namespace: str, monitor: str, pod: str, port: str) -> dict[str, str]:
    """Of a pod that the PodMonitor `monitor` chooses, at the named port of its container."""
    return {
        "namespace": namespace,
        "pod": pod,
        "container": "main",
        "endpoint": port,
        "job": f"{namespace}/{monitor}",
    }


def by_service_monitor(namespace: str, service: str, pod: str, port: str) -> dict[str, str]:
    """Of a pod behind `service`, which a ServiceMonitor chooses."""
    return {
        "namespace": namespace,
        "service": service,
        "pod": pod,
        "container": "main",
        "endpoint": port,
        "job": service,
    }
