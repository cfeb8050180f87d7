"""What one replica can do, by name or from a capacity card: `--profile` of `halftone replay`.

Called by the verb and by benchmarks. Profiles are data, in `profiles.yaml` beside this file; none
of them was measured, and each says so. Nothing here looks at the machine it runs on.
"""

import math
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from halftone.scaling.capacity import CacheGroup, Capacity
from halftone.spec.capacity import CapacityCard
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

_TABLE: Final = "profiles.yaml"
# Cards have some kilobytes; more is something else.
_MOST_BYTES: Final = 1_000_000


class Profile(BaseModel):
    """One row of the table; units are in the names, bytes are of one replica."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    simulated: Literal[True]
    model: str
    blockTokens: int = Field(gt=0)
    blockBytes: int = Field(gt=0)
    stateBlocks: int = Field(gt=0)
    cacheBytes: int = Field(gt=0)
    prefillTokensPerSecond: float = Field(gt=0)
    stepBaseSeconds: float = Field(gt=0)
    secondsPerKvToken: float = Field(ge=0)
    secondsPerSequence: float = Field(ge=0)
    tokenBudget: int = Field(gt=0)
    maxSequences: int = Field(gt=0)

    def capacity(self) -> Capacity:
        """As the work formula, the plant and the policy take it."""
        return Capacity(
            prefill_tokens_per_second=self.prefillTokensPerSecond,
            step_base_s=self.stepBaseSeconds,
            seconds_per_kv_token=self.secondsPerKvToken,
            seconds_per_sequence=self.secondsPerSequence,
            kv_blocks=self.cacheBytes // self.blockBytes - 1,  # vLLM never hands out the first
            groups=(
                CacheGroup(self.blockTokens),
                *(CacheGroup(self.blockTokens, most=1, pinned=True),) * self.stateBlocks,
            ),
            token_budget=self.tokenBudget,
            max_sequences=self.maxSequences,
        )


def profile_names() -> tuple[str, ...]:
    """Of all profiles, as the table orders them."""
    return tuple(profiles())


def load_profile(name_or_path: str) -> Capacity:
    """The profile called `name_or_path`, or the capacity card in that file.

    Raises RefusedInput(UnknownProfile) for neither, and for a file that is no card.
    """
    profile = profiles().get(name_or_path)
    if profile is not None:
        return profile.capacity()
    path = Path(name_or_path)
    if not path.is_file():
        raise RefusedInput(
            Reason.UnknownProfile,
            name_or_path,
            f"There is no profile and no file '{name_or_path}'; profiles are "
            f"{', '.join(profile_names())}, or give the path of a capacity card.",
        )
    return read_card(path)[0]


@cache
def profiles() -> dict[str, Profile]:
    """The whole table, by name."""
    table = yaml.safe_load(files("halftone.scaling").joinpath(_TABLE).read_text("utf-8"))
    return {name: Profile.model_validate(row) for name, row in table.items()}


def read_card(path: Path) -> tuple[Capacity, float]:
    """What the capacity card in `path` says, and its warm-up in seconds.

    Raises RefusedInput(UnknownProfile) for what is no card, and for numbers that no replica has.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror})") from error
    if len(text) > _MOST_BYTES:
        raise _refusal(path, f"has more than {_MOST_BYTES} bytes, which no card has")
    try:
        card = CapacityCard.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise _refusal(path, f"is not a capacity card: {where}: {first['msg']}") from error
    return _checked(path, card)


def _checked(path: Path, card: CapacityCard) -> tuple[Capacity, float]:
    """Refuses numbers that no replica has, with which a replay would not end."""
    try:
        capacity = Capacity.from_card(card.model_dump(mode="json"))
        warm_up_s = float(card.warmUpSeconds)
    except (KeyError, TypeError, ValueError) as error:
        raise _refusal(path, f"states a value that is no number ({error})") from error
    rates = {
        "prefillTokensPerSecond": capacity.prefill_tokens_per_second,
        "kvBlocks": capacity.kv_blocks,
        "tokenBudget": capacity.token_budget,
        "maxSequences": capacity.max_sequences,
        "cacheGroups": len(capacity.groups),
        "blockTokens": min((each.block_tokens for each in capacity.groups), default=0),
    }
    costs = {
        "stepBaseSeconds": capacity.step_base_s,
        "secondsPerKvToken": capacity.seconds_per_kv_token,
        "secondsPerSequence": capacity.seconds_per_sequence,
        "warmUpSeconds": warm_up_s,
    }
    wrong = {field: value for field, value in rates.items() if not 0 < value < math.inf}
    wrong |= {field: value for field, value in costs.items() if not 0 <= value < math.inf}
    for field, value in wrong.items():
        raise _refusal(path, f"states `{field}` as {value:g}, which no replica has")
    return capacity, warm_up_s


def _refusal(path: Path, wrong: str) -> RefusedInput:
    return RefusedInput(
        Reason.UnknownProfile,
        str(path),
        f"'{path}' {wrong}; give a card that `halftone bench` wrote, or one of the profiles "
        f"{', '.join(profile_names())}.",
    )
