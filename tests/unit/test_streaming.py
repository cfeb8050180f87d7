"""Work over tiles by several threads.

We test these aspects:
- every item is done once, and the first exception stops the rest and is raised
- an interrupt ends the work after the tiles that are under way, not after all of them
"""

import signal
import threading
import time

import pytest

from halftone.validate.streaming import for_all

ITEMS = 2000


def test_every_item_is_done_once() -> None:
    done: list[int] = []
    for_all(range(ITEMS), done.append)
    assert sorted(done) == list(range(ITEMS))


def test_the_first_exception_stops_the_rest_and_is_raised() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 3:
            raise ValueError("three")
        time.sleep(0.001)
        done.append(item)

    with pytest.raises(ValueError, match="three"):
        for_all(range(ITEMS), work)
    assert len(done) < ITEMS // 2


def test_an_interrupt_ends_the_work_after_what_is_under_way() -> None:
    """A signal is told to the main thread, which does nothing but wait."""
    done: list[int] = []
    main = threading.main_thread().ident
    assert main is not None

    def work(item: int) -> None:
        if item == 3:
            signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.001)
        done.append(item)

    with pytest.raises(KeyboardInterrupt):
        for_all(range(ITEMS), work)
    assert len(done) < ITEMS // 2
