"""A switch for hosts on which oneDNN dies of an illegal instruction.

Some virtual machines announce AMX tiles but do not let every process use them. vLLM's CPU worker
then ends with SIGILL (exit code -4) in about half of its starts, with any model, BF16 too. With
`HALFTONE_CPU_AMX=Off`, vLLM is told that the processor has no AMX and takes its AVX-512 kernels.
`register` calls this before any kernel is chosen.
"""

import os
from typing import Final

VARIABLE: Final = "HALFTONE_CPU_AMX"


def switch() -> None:
    """Hide AMX from vLLM where `HALFTONE_CPU_AMX` is `Off`; raises ValueError for another word."""
    wanted = os.environ.get(VARIABLE, "On")
    if wanted not in ("On", "Off"):
        raise ValueError(f"`{VARIABLE}` must be 'On' or 'Off', not '{wanted}'")
    if wanted == "Off":
        import torch

        torch.cpu._is_amx_tile_supported = lambda: False
