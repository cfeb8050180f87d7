"""What Prometheus scrapes: pages of metrics as vLLM and Ray write them, on loopback.

Called by tests of scaling's inputs and of what decides by them. A test changes an `Exported` or an
exporter's `failing`, and the next scrape sees it. Names and labels are those of vLLM 0.32 and
Ray 2.60, written out here apart from the package's own tables.

    a = Exported("a", running=2)
    with Exporter(ray_page, [a]) as exporter:
        exporter.address                    # 127.0.0.1:PORT
        a.running = 0
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Self

from tests.doubles.loopback import LoopbackHandler, LoopbackServer

_TTFT: Final = (
    "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 "
    "1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0 160.0 640.0 2560.0 +Inf"
)
_ITL: Final = (
    "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0 +Inf"
)

_GAUGES: Final = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")


@dataclass
class Exported:
    """One replica, as its engine counts. `has_gauges` is False of one that Ray calls idle."""

    name: str
    model: str = "qwen"
    running: float = 0
    waiting: float = 0
    kv_usage: float = 0
    stopped: float = 0  # finished, by what ended them
    cut: float = 0
    prompt_tokens: float = 0
    cached_tokens: float = 0
    generation_tokens: float = 0
    finished_prompt_tokens: float = 0
    finished_output_tokens: float = 0
    preemptions: float = 0
    first_tokens: float = 0  # all of them in less than 0.25 seconds
    has_gauges: bool = True

    def gauges(self) -> dict[str, float]:
        """By vLLM's names, without its prefix."""
        return dict(zip(_GAUGES, (self.running, self.waiting, self.kv_usage), strict=True))

    def counters(self) -> dict[tuple[str, str], float]:
        """By vLLM's names and labels of their own."""
        stop, length = ('finished_reason="stop"', 'finished_reason="length"')
        return {
            ("request_success_total", stop): self.stopped,
            ("request_success_total", length): self.cut,
            ("prompt_tokens_total", ""): self.prompt_tokens,
            ("prompt_tokens_cached_total", ""): self.cached_tokens,
            ("generation_tokens_total", ""): self.generation_tokens,
            ("request_prompt_tokens_sum", ""): self.finished_prompt_tokens,
            ("request_generation_tokens_sum", ""): self.finished_output_tokens,
            ("num_preemptions_total", ""): self.preemptions,
        }

    def buckets(self) -> Iterator[tuple[str, str, float]]:
        """Cumulative counts of both histograms."""
        for bound in _TTFT.split():
            count = self.first_tokens if float(bound) >= 0.25 else 0
            yield "time_to_first_token_seconds_bucket", f'le="{bound}"', count
        for bound in _ITL.split():
            yield "inter_token_latency_seconds_bucket", f'le="{bound}"', 0


def worked() -> Exported:
    """A replica that has answered one request and is at the next, so every counter is there."""
    return Exported(
        "a",
        running=1,
        stopped=1,
        prompt_tokens=9,
        generation_tokens=9,
        finished_prompt_tokens=9,
        finished_output_tokens=9,
        first_tokens=1,
    )


def native_page(replicas: Iterable[Exported]) -> str:
    """What vLLM's own server exports: all of it, idle or not."""
    lines = []
    for each in replicas:
        labels = f'engine="0",model_name="{each.model}"'
        lines += [f"vllm:{name}{{{labels}}} {value}" for name, value in each.gauges().items()]
        for (name, own), value in each.counters().items():
            lines.append(f"vllm:{name}{{{_joined(labels, own)}}} {value}")
        for name, own, value in each.buckets():
            lines.append(f"vllm:{name}{{{_joined(labels, own)}}} {value}")
    return _page(lines)


def ray_page(replicas: Iterable[Exported]) -> str:
    """What a node's agent exports: counters that counted, gauges that were set lately."""
    lines = ['ray_node_mem_used{NodeAddress="127.0.0.1",SessionName="s"} 1']
    for each in replicas:
        labels = f'engine="0",model_name="{each.model}",ReplicaId="{each.name}",WorkerId="w"'
        if each.has_gauges:
            gauges = each.gauges().items()
            lines += [f"ray_vllm_{name}{{{labels}}} {value}" for name, value in gauges]
        for (name, own), value in each.counters().items():
            if value:
                lines.append(f"ray_vllm_{name}{{{_joined(labels, own)}}} {value}")
        for name, own, value in each.buckets() if each.first_tokens else ():
            lines.append(f"ray_vllm_{name}{{{_joined(labels, own)}}} {value}")
    return _page(lines)


def _joined(labels: str, own: str) -> str:
    return f"{labels},{own}" if own else labels


def _page(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


class Exporter:
    """One target of Prometheus. `failing` makes it answer with status 500."""

    def __init__(self, page: Callable[[Iterable[Exported]], str], replicas: list[Exported]) -> None:
        self.replicas = replicas
        self.failing = False
        self._server = AnsweringServer(lambda _body: self._answer(page))

    def _answer(self, page: Callable[[Iterable[Exported]], str]) -> tuple[int, bytes]:
        return (500, b"") if self.failing else (200, page(self.replicas).encode())

    @property
    def address(self) -> str:
        """Host and port, as Prometheus has it in `instance`."""
        return self._server.origin.removeprefix("http://")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stop()


class AnsweringServer(LoopbackServer):
    """Answers everything with what a function of the request's body says; keeps the headers."""

    def __init__(self, answer: Callable[[bytes], tuple[int, bytes]]) -> None:
        super().__init__(_Answering)
        self.answer = answer
        self.asked: list[dict[str, str]] = []


class _Answering(LoopbackHandler):
    server: AnsweringServer

    def do_GET(self) -> None:  # noqa: N802
        """Answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(dict(self.headers))
        status, answer = self.server.answer(body)
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(answer)))
        if status in (301, 302, 307, 308):
            self.send_header("Location", "http://127.0.0.1:9/")
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET
