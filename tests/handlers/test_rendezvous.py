"""Items handed over one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from polywire.handlers.rendezvous import Rendezvous

Give = Callable[[Any], Awaitable[None]]


class Maker:
    """Gives numbers up to ``to``, then raises ``error`` if there is one; notes what it did."""

    def __init__(self, to: int, error: BaseException | None = None) -> None:
        self.to = to
        self.error = error
        self.did: list[Any] = []

    async def __call__(self, give: Give) -> None:
        try:
            for number in range(self.to):
                self.did.append(number)
                await give(number)
            if self.error is not None:
                raise self.error
        except asyncio.CancelledError:
            self.did.append("cancelled")
            raise
        finally:
            self.did.append("ended")


async def test_each_item_when_it_is_asked_for() -> None:
    maker = Maker(3)
    items = Rendezvous(maker).items()
    assert maker.did == []
    for number in range(3):
        assert await anext(items) == number
        await asyncio.sleep(0.001)
        assert maker.did == [*range(number + 1)]
    with pytest.raises(StopAsyncIteration):
        await anext(items)
    assert maker.did == [0, 1, 2, "ended"]


async def test_none_at_all() -> None:
    assert [item async for item in Rendezvous(Maker(0)).items()] == []


async def test_errors_come_after_the_items() -> None:
    for made in (0, 2):
        maker = Maker(made, KeyError("x"))
        items = Rendezvous(maker).items()
        for number in range(made):
            assert await anext(items) == number
        with pytest.raises(KeyError):
            await anext(items)


async def test_who_closes_waits_for_the_end_of_the_task() -> None:
    maker = Maker(10)
    items: Any = Rendezvous(maker).items()
    assert await anext(items) == 0
    await items.aclose()
    assert maker.did == [0, "cancelled", "ended"]
    unasked: Any = Rendezvous(Maker(10)).items()
    await unasked.aclose()


async def test_who_is_cancelled_while_it_waits_ends_the_task() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def never(give: Give) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.ensure_future(anext(Rendezvous(never).items()))  # type: ignore[arg-type]
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
