"""Work over tiles by a few threads, each with buffers of its own that it uses again and again.

Memory stays at some tiles whatever the size of the checkpoint. Kernels and reads release the GIL.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

TILE_BYTES: Final = 4_194_304  # of the larger side; small enough for the cache, few enough calls
_MOST_WORKERS: Final = 8


def for_all(items: Iterable[T], work: Callable[[T], None]) -> None:
    """Do `work` on every item, in several threads; the first exception stops all and is raised.

    So does an interrupt, which comes to the thread that waits.
    """
    shared = iter(items)
    guard = threading.Lock()
    stop = threading.Event()

    def worker() -> None:
        while not stop.is_set():
            with guard:
                item = next(shared, None)
            if item is None:
                return
            try:
                work(item)
            except BaseException:
                stop.set()
                raise

    workers = min(_MOST_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, "inspect") as pool:
        try:
            for future in [pool.submit(worker) for _ in range(workers)]:
                future.result()
        finally:
            stop.set()
