"""Which of an artifact's capacity cards a replica takes for its own.

We test these aspects:
- the card of just this engine is taken, whatever else there is, and called exact
- else the one with most in common, of the same device and tensor-parallel size
- costs are the card's, blocks and limits are the engine's
- a card whose values are no numbers is passed over, and without one nothing is said
- what is missing is told with the command that makes it
"""

import random
from typing import Any

import pytest

from halftone.scaling.capacity_fields import stated
from halftone.serve.measuring.known_capacity import known_capacity, unknown_sentence
from halftone.spec.capacity import CapacityCard, Fitted
from halftone.validate.capacity import build_card
from halftone.validate.serving.session import EngineFacts
from tests.measured import STATE, facts, steps

DIGEST = "c" * 64
HERE = facts()
ARGUMENTS = HERE.engineArguments


def card(rate: str = "12000", engine: EngineFacts = HERE, **changes: Any) -> CapacityCard:
    """The card of `engine` that says `rate` tokens of prompts a second."""
    measured = {"steps": [list(step) for step in steps(0.0)], "warmUpSeconds": 2.25}
    made = build_card(engine, measured, DIGEST)
    told = Fitted(value=rate, standardError="1")
    return made.model_copy(update={"prefillTokensPerSecond": told, **changes})


EXACT = card("1")
OTHER_DRIVER = card("2", facts(driver="600.1"))
OTHER_VERSION = card("3", facts(engine="vllm 0.33.0"))
OTHER_TYPE = card("4", facts(engineArguments={**ARGUMENTS, "dtype": "float16"}))
OTHER_DEVICE = card("5", facts(device="NVIDIA H100"))
MORE_SAID = [
    card("7", facts(engineArguments={**ARGUMENTS, "more": str(number)})) for number in range(8)
]
OTHER_SIZE = card("6", facts(engineArguments={**ARGUMENTS, "tensorParallel": "1"}))


@pytest.mark.parametrize(
    ("cards", "rate", "is_exact"),
    [
        ([EXACT, OTHER_DRIVER, OTHER_VERSION, OTHER_TYPE], 1, True),
        ([EXACT, *MORE_SAID], 1, True),
        ([OTHER_TYPE, OTHER_VERSION, OTHER_DRIVER], 2, False),
        ([OTHER_TYPE, OTHER_VERSION, OTHER_DEVICE], 3, False),
        ([OTHER_TYPE, OTHER_DEVICE, OTHER_SIZE], 4, False),
    ],
)
def test_the_card_with_most_in_common_is_taken(
    cards: list[CapacityCard], rate: float, is_exact: bool
) -> None:
    for seed in range(5):
        random.Random(seed).shuffle(cards)
        found = known_capacity(cards, HERE)
        assert found is not None
        assert found.fields["prefill_tokens_per_second"] == rate
        assert found.is_exact is is_exact


@pytest.mark.parametrize("cards", [[], [OTHER_DEVICE], [OTHER_SIZE], [OTHER_DEVICE, OTHER_SIZE]])
def test_a_card_of_another_device_or_size_is_none(cards: list[CapacityCard]) -> None:
    assert known_capacity(cards, HERE) is None


def test_costs_are_the_cards_and_blocks_are_the_engines() -> None:
    here = facts(kvBlocks=777, tokenBudget=512, maxSequences=8, cacheGroups=(STATE,))
    found = known_capacity([EXACT], here)
    assert found is not None
    said = stated(found.fields)
    assert said is not None
    assert said.warm_up_s == float(EXACT.warmUpSeconds)
    assert said.capacity.step_base_s == float(EXACT.stepBaseSeconds.value)
    assert (said.capacity.kv_blocks, said.capacity.token_budget) == (776, 512)
    assert said.capacity.max_sequences == 8
    (group,) = said.capacity.groups
    assert (group.block_tokens, group.most, group.pinned) == (784, 3, True)


@pytest.mark.parametrize("wrong", ["fast", "nan", "0", "-1"])
def test_a_card_whose_values_are_no_numbers_is_passed_over(wrong: str) -> None:
    assert known_capacity([card(wrong)], HERE) is None
    found = known_capacity([card(wrong), OTHER_DRIVER], HERE)
    assert found is not None
    assert found.fields["prefill_tokens_per_second"] == 2


def test_what_is_missing_is_told_with_the_command_that_makes_it() -> None:
    said = unknown_sentence(HERE)
    assert "no capacity card for 'NVIDIA B200 (180 GB)' with a tensor-parallel size of 2" in said
    assert "`halftone bench URL --output DIRECTORY`" in said
