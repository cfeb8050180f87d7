"""Buffers that a thread uses again and again, so that memory stays at some tiles.

Called by whoever streams weights: the engine and the inspection.
"""

import threading

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class Scratch(threading.local):
    """Buffers of one thread, grown to the largest size asked for and then reused."""

    def __init__(self) -> None:
        self._buffers: dict[str, Bytes] = {}

    def take(self, purpose: str, nbytes: int) -> Bytes:
        """`nbytes` of memory with undefined content, valid until the next `take` of `purpose`."""
        buffer = self._buffers.get(purpose)
        if buffer is None or buffer.nbytes < nbytes:
            buffer = self._buffers[purpose] = np.empty(nbytes, np.uint8)
        return buffer[:nbytes]
