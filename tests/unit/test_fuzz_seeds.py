"""Documents of strangers, and some that were damaged, are read or refused with a sentence.

We test these aspects:
- every seed of the fuzzer, and everything that it once found
- there is a seed of each target, with and without an index, whole and short enough
- seeds with bytes cut, changed, doubled or exchanged at random, a few hundred of each target
`python -m tests.fuzz` looks for more.
"""

import json
import random

import pytest

from tests.fuzz.__main__ import LONGEST
from tests.fuzz.seeds import inputs, made
from tests.fuzz.targets import BETWEEN, TARGETS, run

ROUNDS = 150
# What parsers trip over.
WORDS = (
    *(b"null", b"-1", b"1e999", b"NaN", b"{}", b"[[[[", b"\x00", b"\xff"),
    *(b'"\\ud800"', b"99" * 40),
)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    return list(inputs(tmp_path_factory.mktemp("seeds")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    return list(made(tmp_path_factory.mktemp("whole")))


def test_the_parts_of_a_checkpoint_are_all_among_the_seeds(seeds: list[tuple[str, bytes]]) -> None:
    found = [data.split(BETWEEN, 2) for name, data in seeds if name == "checkpoint"]
    indices = [index for _, index, _ in found if index]
    assert indices
    assert all("weight_map" in json.loads(index) for index in indices)
    assert any(not index for _, index, _ in found)


def test_what_a_fuzzer_is_given_is_short_enough_for_it(seeds: list[tuple[str, bytes]]) -> None:
    """libFuzzer cuts what is longer, and half a checkpoint is refused by its first check."""
    assert [name for name, data in seeds if len(data) > LONGEST] == []


def test_whole_documents_are_read_to_their_end(whole: list[tuple[str, bytes]]) -> None:
    """One that is refused at once would lead a fuzzer nowhere."""
    assert {name for name, _ in whole} == set(TARGETS)
    for name, data in whole:
        TARGETS[name](data)


def test_every_seed_is_read_or_refused(seeds: list[tuple[str, bytes]]) -> None:
    for name, data in seeds:
        run(TARGETS[name], data)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_ones_are_read_or_refused(name: str, seeds: list[tuple[str, bytes]]) -> None:
    chance = random.Random(name)
    mine = [data for target, data in seeds if target == name] or [b"{}"]
    for _ in range(ROUNDS):
        run(TARGETS[name], damaged(chance.choice(mine), chance))


def damaged(data: bytes, chance: random.Random) -> bytes:
    """One to four changes."""
    for _ in range(chance.randint(1, 4)):
        at, to = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        match chance.randrange(4):
            case 0:
                data = data[:at] + data[to:]
            case 1:
                rest = data[to:] if chance.random() < 0.2 else data[at:]
                data = data[:at] + chance.choice(WORDS) + rest
            case 2:
                data = data[:to] + data[at:to] + data[to:]
            case _:
                data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
    return data
