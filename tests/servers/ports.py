"""A port for a server that a test starts. Called by everything under `tests` that starts one."""

import random
import socket
from contextlib import suppress
from typing import Final

# Above the fixed ports of Kubernetes' programs, below its NodePorts.
_FIRST: Final = 11_000
_END: Final = 30_000


def free_port() -> int:
    """A port of this host that stays free until it is listened at, and between two starts.

    Not one of the system's own range, which it gives to connections at any time: an API server's
    own had taken the port that its controllers were about to listen at.
    """
    while True:
        port = random.SystemRandom().randrange(_FIRST, _END)
        with socket.socket() as listener, suppress(OSError):  # somebody listens there
            listener.bind(("127.0.0.1", port))
            return port
