"""The variables that every process of Ray and vLLM needs for an endpoint, head and workers alike.

Called by `local` for its own Ray; the chart renders the same, and a contract test holds both
together. Pure: it imports neither ray nor vllm, and holds no secret.
"""

from typing import Final

from halftone.spec.serving import Endpoint, Routing

# What stands in front waits this much longer than an answer may take, so that the replica is the
# one who ends an answer that takes too long, with an error that its client understands.
PATIENCE_S: Final = 60
# A proxy that is reloaded lets its old process finish what it carries.
_HARD_STOP: Final = "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"
_TIMEOUTS: Final = (
    _HARD_STOP,
    "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S",
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S",
)
_FIXED: Final = {
    # Answers go from vLLM's own HTTP server through HAProxy, not through Ray's Python proxy.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # A busy machine is slow to answer. Ray would start HAProxy anew for it, and cut what it
    # carries; HAProxy would refuse a request whose replica was not chosen in time.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_HAPROXY_INGRESS_REQUEST_ROUTER_TIMEOUT_S": "30",
    # Ray's ten seconds below a scrape of fifteen make counters grow by turns, which looks like
    # bursts to whoever scales by them.
    "RAY_metrics_report_interval_ms": "5000",
    # Ray would let everything else on the machine go before its workers.
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
# A request whose replica ends before it gave a byte is asked once more, of another replica. Once,
# so that a request which ends its replica ends two at most. HAProxy can repeat what is in its
# buffer whole, and copies that buffer for every request: 64 KiB cost nothing to be seen. A replica
# that refuses a connection is out until its health check passes, within a second; the one retry
# would not be enough for Ray's three refusals before it goes elsewhere.
_ONE_RETRY: Final = {
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_RETRIES": "1",
    "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
}


def longest_wait_s(endpoint: Endpoint) -> int:
    """Seconds that everything in front of an answer waits, and that a replica may take to drain."""
    return endpoint.limits.maxRequestSeconds + PATIENCE_S


def environment(endpoint: Endpoint) -> dict[str, str]:
    """Variables by name, for `ray start` on the head and on every worker.

    The same object gives the same variables. Whoever starts the processes may add ports and paths.
    """
    variables = dict(_FIXED)
    variables |= dict.fromkeys(_TIMEOUTS, str(longest_wait_s(endpoint)))
    if endpoint.routing is Routing.Prefix:
        # The router looks at the prompt, so HAProxy hands it the body, out of a buffer of 8 MiB. To
        # copy that takes 20 ms of a core, so only what no replica accepted goes to another one.
        variables["RAY_SERVE_INGRESS_REQUEST_ROUTER_FORWARD_BODY"] = "1"
    else:
        variables |= _ONE_RETRY
    if endpoint.compileCacheDirectory is not None:
        # torch.compile's and Triton's caches lie below vLLM's.
        folder = endpoint.compileCacheDirectory.rstrip("/")
        variables["VLLM_CACHE_ROOT"] = folder
        variables["TRITON_CACHE_DIR"] = f"{folder}/triton"
    return variables
