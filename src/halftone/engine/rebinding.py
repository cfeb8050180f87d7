"""Puts a function of ours in the place of one of vLLM's, wherever it was already imported by name.

For the functions that choose kernels without asking a registry. Called by the `install` functions
of this room. vLLM's modules import functions from each other by name, so each holds a reference of
its own; those that are imported later find ours in the function's own module.
"""

import sys
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


def rebind(module: Any, name: str, ours: Function) -> None:
    """Replace `module.name` there and in every module of vLLM that holds the same object.

    A function that is already ours stays, so that installing twice changes nothing.
    """
    theirs = getattr(module, name)
    if theirs.__module__.startswith("halftone."):
        return
    for holder in [*sys.modules.values()]:
        if getattr(holder, "__name__", "").split(".")[0] != "vllm":
            continue
        if vars(holder).get(name) is theirs:
            setattr(holder, name, ours)
