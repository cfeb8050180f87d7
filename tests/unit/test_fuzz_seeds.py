"""Documents of strangers, and some that were damaged, are read or refused with a sentence.

We test these aspects:
- every seed of the fuzzer, and everything that it once found
- seeds with bytes cut, changed, doubled or exchanged at random, a few hundred of each target
`python -m tests.fuzz` looks for more.
"""

import random

import pytest

from tests.fuzz.seeds import inputs
from tests.fuzz.targets import TARGETS, run

ROUNDS = 150
# What parsers trip over.
WORDS = (
    *(b"null", b"-1", b"1e999", b"NaN", b"{}", b"[[[[", b"\x00", b"\xff"),
    *(b'"\\ud800"', b"99" * 40),
)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    found = list(inputs(tmp_path_factory.mktemp("seeds")))
    assert {name for name, _ in found} | {"report"} == set(TARGETS)
    return found


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
