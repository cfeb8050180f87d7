"""What a benchmark does in a thread of its own while a block runs.

Called by the benchmarks that look at something, or trouble it, meanwhile.
"""

import threading
from abc import ABC, abstractmethod
from typing import Self


class Beside(ABC):
    """`_run` runs in a thread while the block does, and ends soon once `_stop` is set.

    What it raises, the end of the block raises, for it has seen a part only.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._kept, daemon=True)
        self._failed: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failed is not None and not any(raised):
            raise self._failed

    def _kept(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self._failed = error

    @abstractmethod
    def _run(self) -> None:
        """What the thread does."""
