"""Which arguments of vLLM an endpoint may set, and why not the others.

Called by `engine_arguments`, and usable wherever an endpoint is checked, because vLLM's names are a
data file (`vllm_arguments.yaml`) that a test holds against vLLM itself. Pure.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

import yaml

from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

_KNOWN: Final = "vllm_arguments.yaml"
_RESERVED: Final = "reserved_arguments.yaml"


class _Reserved(NamedTuple):
    """What to do instead, and the values that may be set all the same."""

    instead: str
    values: tuple[Any, ...]


def refuse_unsettable(arguments: Mapping[str, Any]) -> None:
    """Raise RefusedInput(InvalidEndpoint) for the first of `arguments` that nobody may set.

    Either vLLM has no such argument, and the sentence names the nearest, or an endpoint decides it.
    Keys inside an argument count as well: `speculative_config.model` names weights.
    """
    for name, value in arguments.items():
        subject = f"engineArguments.{name}"
        _refuse_reserved(name, value)
        for key, inner in value.items() if isinstance(value, dict) else ():
            # vLLM takes either spelling of a key.
            _refuse_reserved(f"{name}.{key.replace('-', '_')}", inner)
        if name not in known_arguments():
            near = get_close_matches(name, sorted(known_arguments()), n=1)
            hint = f"did you mean `{near[0]}`?" if near else "leave it out."
            told = f"vLLM {_table(_KNOWN)['version']} has no argument `{name}`; {hint}"
            raise RefusedInput(Reason.InvalidEndpoint, subject, told)


@cache
def known_arguments() -> frozenset[str]:
    """Every argument of vLLM's engine and of its server."""
    table = _table(_KNOWN)
    return frozenset(table["engine"]) | frozenset(table["server"])


def _refuse_reserved(name: str, value: Any) -> None:
    """Raise if nobody may set `name`, which has a dot where it is a key inside an argument."""
    found = _reserved().get(name)
    if found is None or value in found.values:
        return
    also = " or ".join(f"'{value}'" for value in found.values)
    how = f" to anything but {also}" if also else ""
    told = f"`{name}` may not be set{how} in `engineArguments`; {found.instead}."
    raise RefusedInput(Reason.InvalidEndpoint, f"engineArguments.{name}", told)


@cache
def _reserved() -> dict[str, _Reserved]:
    """By name."""
    return {
        name: _Reserved(row["instead"], tuple(row.get("values", ())))
        for row in _table(_RESERVED)
        for name in row["names"]
    }


@cache
def _table(name: str) -> Any:
    return yaml.safe_load(files("halftone.serve.arguments").joinpath(name).read_text("utf-8"))
