"""The law in Ray Serve's controller, which it may neither hold up nor break.

We test these aspects:
- it wants what the law wants, and says why in its state
- arguments in a file are taken as they change, and those that cannot be used change nothing
- on missing data, a reader or a law that raises, and arguments that cannot be used, the count holds
- a call does not wait for a reader that hangs, and an answer that is too old counts no more
- it travels as Ray has it travel, and its thread ends with it
- replicas are counted as Ray names them
"""

import gc
import json
import pickle
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halftone.scaling.acting.deciding import Decider, Judgement
from halftone.scaling.acting.ray_carrier import Manner, RayCarrier, counts
from halftone.scaling.follower import Follower
from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.scaling.policy import Settings
from halftone.scaling.ray_policy import KVPressurePolicy
from halftone.scaling.reading import Reading
from tests.acting_cases import CARD, Context, Recorded
from tests.fed_endpoints import CAPACITY, Fed
from tests.servers.ports import free_port

LEAD_S = 120.0


def carrier(
    readings: list[Reading | Exception], *, fresh_s: float = 60.0
) -> tuple[RayCarrier, list[Judgement], Recorded]:
    """A carrier that looks every few milliseconds, and what it told."""
    told: list[Judgement] = []
    reader = Recorded(readings)
    decider = Decider(reader, Follower(CAPACITY, Settings(lead_s=LEAD_S)), LEAD_S)
    manner = Manner(0.005, fresh_s)
    return RayCarrier(decider, lambda: manner, told.append), told, reader


def until(is_so: Callable[[], bool]) -> None:
    """A hang ends with the test's own limit."""
    while not is_so():
        time.sleep(0.002)


def loaded(looks: int = 40) -> list[Reading | Exception]:
    """Readings of four replicas' work, on two."""
    fed = Fed(ready=2)
    return [fed.next(200) for _ in range(looks)]


def test_it_wants_what_the_law_wants_and_says_why() -> None:
    policy, told, _ = carrier(loaded())
    context = Context(target_num_replicas=2, running=2)
    policy(context)
    until(lambda: len(told) >= 40)
    wanted, state = policy(context)
    policy.end()
    assert told[39].decision is not None
    assert wanted == told[39].decision.wanted > 2
    assert state["term"] == "Rate"
    assert state["reason"].startswith(f"{wanted} wanted")
    assert "held" not in state


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Fed(ready=2).next(0, missing=("no series of `vllm:num_requests_waiting`",)), "no series"),
        (RuntimeError("a bug"), "because the law failed: RuntimeError: a bug"),
    ],
)
def test_the_count_holds_on_whatever_is_wrong(answer: Reading | Exception, said: str) -> None:
    policy, told, _ = carrier([*loaded(), answer])
    policy(Context(target_num_replicas=2, running=2))
    until(lambda: len(told) > 41)
    wanted, state = policy(Context(target_num_replicas=7, running=2))
    policy.end()
    assert wanted == 7
    assert said in state["held"]


class Hanging:
    """A reader that answers once somebody lets it."""

    def __init__(self) -> None:
        self.let = threading.Event()

    def read(self, counts: ReplicaCounts) -> Reading:
        self.let.wait()
        return Fed(ready=2).next(0)


def test_a_call_does_not_wait_for_a_reader_that_hangs() -> None:
    reader = Hanging()
    decider = Decider(reader, Follower(CAPACITY, Settings(lead_s=LEAD_S)), LEAD_S)
    policy = RayCarrier(decider, lambda: Manner(0.005, 60), lambda _: None)
    # Were one of them to wait, the test would never come to its end.
    answers = [policy(Context(3, 3)) for _ in range(100)]
    assert {wanted for wanted, _ in answers} == {3}
    assert {state["held"] for _, state in answers} == {"Prometheus has not answered yet."}
    policy.end()
    reader.let.set()


def test_an_answer_that_is_too_old_counts_no_more() -> None:
    policy, told, _ = carrier(loaded(), fresh_s=-1.0)
    policy(Context(2, 2))
    until(lambda: len(told) >= 40)
    wanted, state = policy(Context(2, 2))
    policy.end()
    assert wanted == 2
    assert state["held"].startswith("The last look was")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"card": {}}, "the capacity card has no 'warmUpSeconds'; `halftone bench` makes"),
        ({"card": "nowhere/card.json"}, "nowhere/card.json"),
        ({"prometheus": "prometheus:9090"}, "no URL of Prometheus"),
        ({"settings": {"thetta": 0.8}}, "thetta"),
        ({"nonsense": 1}, "nonsense"),
        ({"interval_s": 0}, "`interval_s` is 0, and must be above 0 and at most 60"),
        ({"interval_s": float("inf")}, "`interval_s` is inf"),
        ({"settings": {"min_replicas": 1.5}}, "`min_replicas` is 1.5"),
    ],
)
def test_arguments_that_cannot_be_used_hold_the_count(changes: dict[str, Any], said: str) -> None:
    arguments = {"prometheus": "http://localhost:9", "model": "model", "card": CARD, **changes}
    wanted, state = looked(KVPressurePolicy(**arguments))
    assert wanted == 4
    assert "cannot be used" in state["held"]
    assert said in state["held"]


def looked(policy: KVPressurePolicy) -> tuple[int, dict[str, Any]]:
    """What it says once its thread has looked."""
    said: dict[str, Any] = {"held": "not answered yet"}
    while "not answered yet" in said["held"]:
        wanted, said = policy(Context(4, 4))
    return wanted, said


def test_arguments_in_a_file_change_in_place(tmp_path: Path) -> None:
    beside = {"prometheus": f"http://127.0.0.1:{free_port()}", "model": "one"}
    file, data = tmp_path / "policy.json", tmp_path / "..data"
    _, state = looked(KVPressurePolicy(file=str(file), **beside))
    assert "No such file" in state["held"]
    file.symlink_to("..data/policy.json")

    def bring(text: str) -> None:
        """As a kubelet does it: a link to another folder."""
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        (folder / file.name).write_text(text)
        (tmp_path / "..new").symlink_to(folder)
        (tmp_path / "..new").rename(data)

    good = json.dumps({"card": CARD, "interval_s": 0.01})
    bring(good)
    policy = KVPressurePolicy(file=str(file), **beside)
    for text, said, unsaid in (
        (good, "does not answer", "cannot be used"),
        (
            json.dumps({"card": CARD, "settings": {"theta": 7}}),
            "those before stand: Value",
            "never",
        ),
        ("[]", "holds no JSON object", "theta"),
        (json.dumps({"model": "two"}), "`model` stands in", "JSON object"),
        (good, "does not answer", "cannot be used"),
    ):
        bring(text)
        held = ""
        while said not in held or unsaid in held:
            held = policy(Context(4, 4))[1]["held"]
        assert "does not answer" in held


def test_a_context_of_another_ray_holds_the_count() -> None:
    policy, _, _ = carrier(loaded())

    class Other:
        target_num_replicas = 5

    wanted, state = policy(Other())
    assert wanted == 5
    assert "running_replicas" in state["held"]


def test_it_travels_and_its_thread_ends_with_it() -> None:
    others = set(threading.enumerate())
    unheard = f"http://127.0.0.1:{free_port()}"
    policy = KVPressurePolicy(prometheus=unheard, model="model", card=CARD, interval_s=0.01)
    again = pickle.loads(pickle.dumps(policy))
    _, said = looked(again)
    assert "does not answer" in said["held"]
    (thread,) = set(threading.enumerate()) - others
    del again
    gc.collect()
    thread.join()


def test_replicas_are_counted_as_ray_names_them() -> None:
    names = frozenset({"replica-0", "replica-1"})
    assert counts(Context(5, 2)) == ReplicaCounts(2, 3, 0, names)
    # One more for a moment, as in a rollout.
    assert counts(Context(1, 2)) == ReplicaCounts(2, 0, 0, names)
    assert counts(Context(1, 0, 4.0)) == ReplicaCounts(0, 1, 0, frozenset(), 4.0)
