"""We test these aspects of an endpoint on this machine, without Ray:

- processes with a mark are found and ended, also those that will not end, and no others;
- when whoever waits for them is killed, they go too, with their directory;
- the end of a process that is held is noticed, with the signal that ended it, also where it had
  ended before, or before it was seen;
- the live line: rates between two readings, quantiles as Prometheus estimates them, idle replicas;
- what Ray Serve says of a failed replica: our sentence, else its last line.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from halftone.serve.local import live
from halftone.serve.local.cluster import State, told
from halftone.serve.local.leftovers import MARK, end, marked
from halftone.serve.local.lifelines import Lifelines

STUBBORN = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(); "
SLEEP = "import time; time.sleep(600)"


def start(code: str, mark: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", f"print(flush=True); {code}"],
        stdout=subprocess.PIPE,
        env={**os.environ, MARK: mark},
    )
    assert process.stdout is not None
    process.stdout.readline()  # it runs our code now
    return process


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    process = start(SLEEP, "somebody-else")
    with process:
        yield process
        process.kill()


@pytest.mark.timeout(90)
def test_marked_processes_end_and_no_others(other: subprocess.Popen[bytes]) -> None:
    mark = f"mark-{os.getpid()}"
    ours = [start(SLEEP, mark), start(STUBBORN + SLEEP, mark)]
    assert set(marked(mark)) == {process.pid for process in ours}
    end(mark)
    for process in ours:
        with process:
            assert process.wait() < 0
    assert marked(mark) == {}
    assert other.poll() is None


@pytest.mark.timeout(90)
def test_when_their_owner_is_killed_they_go_too(tmp_path: Path) -> None:
    mark = f"owner-{os.getpid()}"
    directory = tmp_path / "session"
    directory.mkdir()
    owner_code = (
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-m', 'halftone.serve.local.leftovers', {mark!r}, "
        f"{str(directory)!r}], stdin=subprocess.PIPE, start_new_session=True)\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        "print(child.pid, flush=True)\n"
        f"{SLEEP}\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", owner_code],
        stdout=subprocess.PIPE,
        env={**os.environ, MARK: mark},
    )
    with owner:
        assert owner.stdout is not None
        child = os.pidfd_open(int(owner.stdout.readline()))
        owner.send_signal(signal.SIGKILL)
    try:
        # Readable when the process is gone.
        poll = select.poll()
        poll.register(child)
        assert poll.poll(60_000)
        while directory.exists():  # the test's own limit says when it stays
            os.sched_yield()
    finally:
        os.close(child)


@pytest.mark.timeout(90)
def test_the_end_of_a_process_is_noticed(other: subprocess.Popen[bytes]) -> None:
    with closing(Lifelines()) as lines, start(SLEEP, "held") as held:
        lines.hold(other.pid, "other")
        lines.hold(held.pid, "held")
        assert lines.ended() is None
        held.kill()
        assert lines.ended(wait_s=60) == "held (SIGKILL)"
        assert held.wait() == -signal.SIGKILL  # how it ended is still there for its parent
        assert lines.ended() == "held"


@pytest.mark.timeout(90)
def test_a_process_that_has_ended_already_counts_as_such() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with closing(Lifelines()) as lines:
        lines.hold(gone.pid, "gone")
        assert lines.names == {"gone"}
        assert lines.ended(wait_s=60) == "gone"


def test_a_process_that_was_never_seen_counts_as_ended(other: subprocess.Popen[bytes]) -> None:
    with closing(Lifelines()) as lines:
        lines.hold(other.pid, "other")
        lines.lose("unseen")
        assert lines.names == {"other", "unseen"}
        assert lines.ended() == "unseen"


EXPOSITION = """# TYPE ray_vllm_generation_tokens_total counter
ray_vllm_generation_tokens_total{{WorkerId="a"}} {tokens}
ray_vllm_generation_tokens_total{{WorkerId="b"}} 50
# TYPE ray_vllm_num_requests_running gauge
ray_vllm_num_requests_running{{WorkerId="a"}} 3
ray_vllm_num_requests_running{{WorkerId="b"}} 1
# TYPE ray_vllm_num_requests_waiting gauge
ray_vllm_num_requests_waiting{{WorkerId="a"}} 2
# TYPE ray_vllm_kv_cache_usage_perc gauge
ray_vllm_kv_cache_usage_perc{{WorkerId="a"}} 0.25
ray_vllm_kv_cache_usage_perc{{WorkerId="b"}} 0.5
# TYPE ray_vllm_time_to_first_token_seconds histogram
ray_vllm_time_to_first_token_seconds_bucket{{le="0.1"}} {fast}
ray_vllm_time_to_first_token_seconds_bucket{{le="0.2"}} {all}
ray_vllm_time_to_first_token_seconds_bucket{{le="+Inf"}} {all}
ray_vllm_time_to_first_token_seconds_count {all}
ray_vllm_time_to_first_token_seconds_sum 1
"""


def reading(at: float, tokens: int, fast: int, total: int) -> live.Reading:
    return live.read(EXPOSITION.format(tokens=tokens, fast=fast, all=total), at)


def test_the_line_is_what_happened_between_two_readings() -> None:
    line = live.line(reading(10, 100, 5, 5), reading(20, 300, 10, 15))
    # 200 tokens in 10 s; of ten first tokens five came within 0.1 s, five in the next 0.1 s.
    assert line == ("20.0 tok/s · TTFT p50 100 ms p95 190 ms · KV 50 % · 4 running, 2 waiting")


def test_replicas_at_rest_export_nothing() -> None:
    idle = live.read("", 0)
    assert live.line(idle, live.read("", 1)) == (
        "0.0 tok/s · TTFT p50 - p95 - · KV 0 % · 0 running, 0 waiting"
    )


def test_new_replicas_count_from_nothing() -> None:
    line = live.line(reading(10, 900, 90, 90), reading(11, 10, 4, 4))
    assert line.startswith("0.0 tok/s · TTFT p50 50 ms")


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ({}, 0.5, None),
        ({1.0: 0.0, float("inf"): 0.0}, 0.5, None),
        ({1.0: 4.0, float("inf"): 4.0}, 0.5, 0.5),
        ({1.0: 0.0, 2.0: 4.0, float("inf"): 4.0}, 0.25, 1.25),
        ({1.0: 1.0, float("inf"): 4.0}, 0.95, 1.0),  # beyond the last bound it knows no more
    ],
)
def test_quantiles(buckets: dict[float, float], share: float, expected: float | None) -> None:
    assert live.quantile(buckets, share) == expected


def test_our_sentence_is_found_in_a_traceback() -> None:
    trace = (
        "The deployment failed 3 times.\nTraceback:\n  File x\nhalftone.spec.errors.CheckFailed: "
    )
    state = State("DEPLOY_FAILED", "", {"endpoint": trace + "'a' differs; fetch it anew."})
    assert told(state) == "'a' differs; fetch it anew."
    assert told(State("DEPLOY_FAILED", "first\nlast one\n", {})) == "last one"
    assert told(State("UNHEALTHY", "", {})) == "Ray Serve gives no reason."
