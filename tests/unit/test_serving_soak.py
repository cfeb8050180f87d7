"""What the soak of an endpoint judges: an hour in which nothing happened proves nothing.

We test these aspects:
- a replica is to be killed every five minutes, and Prometheus to go twice, not at once with a kill
- failures within the budget count only if all of that happened
- growth of memory counts only if a replica is among the processes that lived long enough
- a process whose number another one has by now is no replica; one that is called otherwise while
  it works is still the same
- an hour without kills is judged by its last third, and by what was answered
- what looks beside a block and breaks off fails the block
"""

import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import serving_memory, serving_soak
from benchmarks.beside import Beside
from benchmarks.held_replicas import HeldReplicas
from benchmarks.memory_watch import MemoryWatch, Slope
from benchmarks.open_loop import Answer, Answers
from benchmarks.serving_soak import Killed
from halftone.serve.local.leftovers import MARK


def test_kills_and_restarts_of_an_hour() -> None:
    kills, restarts = serving_soak.planned(3600)
    assert kills == list(range(300, 3600, 300))
    assert len(restarts) == 2
    assert not set(restarts) & set(kills)
    assert serving_soak.planned(300) == ([], [])


def trouble(killed: int, restarts: int) -> Any:
    return SimpleNamespace(killed=[Killed(300.0, 1)] * killed, restarts=restarts)


def answers(failed: int) -> Answers:
    good = Answer(0.0, 0.1, 0.01)
    rows = [good] * (1000 - failed) + [Answer(0.0, failure="cut")] * failed
    return Answers(0.0, tuple(rows))


def test_the_budget_holds_only_where_there_was_trouble() -> None:
    def met(failed: int, killed: int, restarts: int) -> bool:
        return serving_soak._requests(answers(failed), trouble(killed, restarts), 3600).met

    assert met(5, 11, 2)
    assert not met(6, 11, 2)
    assert not met(0, 10, 2)
    assert not met(0, 11, 1)


def row(title: str, slope: float) -> dict[str, object]:
    return {"title": title, "megabytes": 500.0, "megabytes_an_hour": slope}


def test_memory_is_judged_by_the_steepest_and_with_a_replica_among_them() -> None:
    replica, other = row("ray::ServeReplica:halftone:EndpointServer", 3.0), row("raylet", 20.0)
    found = serving_soak._memory([other, replica])
    assert found.met
    assert found.measured == "20 MB (raylet; 2 processes, 1 of them replicas)"
    assert not serving_soak._memory([other]).met
    assert not serving_soak._memory([]).met
    assert not serving_soak._memory([row("raylet", 101.0), replica]).met


def test_a_number_that_another_process_has_by_now_is_no_replica(tmp_path: Path) -> None:
    held = HeldReplicas(0.5)
    held._held = {os.getpid(): tmp_path, 1: tmp_path}
    held._since = {os.getpid(): "0", 1: None}
    assert held.alive() == []


def test_a_process_that_changes_its_title_has_one_line(tmp_path: Path) -> None:
    mark = f"of-this-test-{os.getpid()}"
    script = "read -r; exec -a ray::EndpointServer sleep 60"
    process = subprocess.Popen(
        ["bash", "-c", script], env={**os.environ, MARK: mark}, stdin=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    watch = MemoryWatch(mark)
    try:
        watch._look(700.0)
        print(file=process.stdin, flush=True)
        while b"ray::" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        for at in range(710, 1500, 10):
            watch._look(float(at))
    finally:
        process.kill()
        process.communicate()
    (line,) = watch.slopes(880.0)
    assert line.title == "ray::EndpointServer"
    assert line.megabytes < 100
    assert line.minutes == round((1490 - 880) / 60, 1)
    assert watch.slopes(1500.0) == []  # too few looks for a line
    assert watch.slopes(0.0) == [line]  # what is new is left out
    (first,) = watch.slopes(880.0, before_s=1490.0)
    assert first.minutes == 10.0
    assert watch.slopes(0.0, before_s=1400.0) == []


def test_an_hour_without_kills_is_judged_by_its_last_third_with_the_engine_in_it() -> None:
    filling = [Slope("VLLM::EngineCore", 1500.0, 400.0, 17.0)]
    full = [Slope("raylet", 40.0, 9.0, 20.0), Slope("VLLM::EngineCore", 1540.0, 4.0, 20.0)]

    def met(last: list[Slope], failed: int = 0, asked: int = 1000) -> bool:
        return serving_memory._row([filling, full, last], 3600, failed, asked).met

    assert met(full)
    assert not met(filling)
    assert not met(full[:1])
    assert not met([])
    assert met(full, 4)
    assert not met(full, 5)  # who answers nothing needs no memory
    assert not met(full, 0, 0)
    said = serving_memory._row([filling, full, full], 3600, 1, 10).measured
    assert said == ("9 MB of 2 processes; the engine in thirds: 400, 4, 4; 1 of 10 requests failed")


class Breaking(Beside):
    def _run(self) -> None:
        raise ConnectionError("the endpoint is gone")


def test_what_was_seen_in_part_is_no_result() -> None:
    with pytest.raises(ConnectionError, match="gone"), Breaking():
        pass
    with pytest.raises(ValueError, match="first"), Breaking():
        raise ValueError("what went wrong first is told")
