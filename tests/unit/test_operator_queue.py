"""The queue of names: in which order, how often, and when again."""

import asyncio

from operators.quantizationjob.queue import Queue
from operators.quantizationjob.reading import Key

A, B, C = (Key("space", name) for name in ("a", "b", "c"))


def test_names_come_in_their_order_and_once() -> None:
    async def work() -> list[Key]:
        queue = Queue()
        for key in (A, B, A, C, B):
            queue.add(key)
        return [await queue.get() for _ in range(len(queue))]

    assert asyncio.run(work()) == [A, B, C]


def test_a_name_that_is_worked_on_waits_for_its_end() -> None:
    async def work() -> None:
        queue = Queue()
        queue.add(A)
        key = await queue.get()
        queue.add(A)
        queue.add(A)
        assert len(queue) == 0
        queue.done(key)
        assert len(queue) == 1

    asyncio.run(work())


def test_a_name_that_failed_comes_again_by_itself() -> None:
    async def work() -> None:
        queue = Queue()
        queue.add(A)
        key = await queue.get()
        queue.done(key, failed=True)
        assert len(queue) == 0
        assert await asyncio.wait_for(queue.get(), 5) == A

    asyncio.run(work())
