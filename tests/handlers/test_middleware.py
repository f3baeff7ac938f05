"""Middleware around deliveries, calls, jobs and streams."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from polywire import (
    Call,
    Conflict,
    DeadlineExceeded,
    Delivery,
    Invalid,
    NotFound,
)
from polywire.testing import serve
from tests.handlers.dependencies import AsyncDb, Database, collect, make

TENANT = contextvars.ContextVar("tenant", default="nobody")


@pytest.fixture(autouse=True)
def _no_database_yet() -> None:
    Database.opened = Database.closed = 0


async def test_middleware_stands_around_deliveries_calls_and_jobs_alike(tmp_path: Path) -> None:
    hub = make(tmp_path)
    numbers = hub.topic("numbers", int)
    order: list[str] = []

    def named(name: str) -> Any:
        async def middleware(occasion: Delivery | Call, call_next: Any) -> Any:
            what = occasion.operation if isinstance(occasion, Call) else occasion.message.topic
            order.append(f"{name} before {what}")
            result = await call_next()
            order.append(f"{name} after {result}")
            return result

        return middleware

    hub.middleware(named("outer"))
    hub.middleware(named("inner"))

    @hub.subscribe(numbers)
    async def handle(number: int) -> str:
        order.append("handle")
        return "handled"

    @hub.operation
    async def operate(db: AsyncDb) -> str:
        order.append(f"operate {Database.opened - Database.closed}")
        return "operated"

    def around(what: str, middle: str, result: str) -> list[str]:
        before, after = [f"{name} before {what}" for name in ("outer", "inner")], [f"inner after {result}"]
        return [*before, middle, *after, f"outer after {result}"]

    async with serve(hub, data=str(tmp_path / "data")) as t:
        assert await hub.call(operate) == "operated"
        assert order == around("operate", "operate 1", "operated")
        order.clear()
        await numbers.publish(1)
        await t.settled()
        assert order == around("numbers", "handle", "handled")
        order.clear()
        assert await (await operate.submit()).result(10) == "operated"
        assert order == around("operate", "operate 1", "operated")


async def test_middleware_may_answer_refuse_and_translate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub = make(tmp_path)
    ran: list[int] = []

    @hub.middleware
    async def odd(call: Call, call_next: Any) -> Any:
        number = call.arguments["number"]
        if number == 1:
            return 100
        if number == 2:
            raise Conflict("not two")
        try:
            return await call_next() + 1
        except KeyError as error:
            raise NotFound(f"no {error}") from error

    @hub.operation
    async def get(number: int) -> int:
        ran.append(number)
        if number == 3:
            raise KeyError(number)
        return number

    async with hub:
        assert await hub.call(get, 1) == 100
        with pytest.raises(Conflict):
            await hub.call(get, 2)
        with pytest.raises(NotFound, match="no 3"):
            await hub.call(get, 3)
        assert await hub.call(get, 4) == 5
    assert ran == [3, 4]
    assert not caplog.records


async def test_what_middleware_sets_is_seen_within(tmp_path: Path) -> None:
    hub = make(tmp_path)

    @hub.middleware
    async def tenant(call: Call, call_next: Any) -> Any:
        TENANT.set(call.operation)
        return await call_next()

    @hub.operation
    async def here() -> str:
        return TENANT.get()

    @hub.operation
    def in_thread() -> str:
        return TENANT.get()

    @hub.operation
    async def items() -> AsyncIterator[str]:
        yield TENANT.get()

    async with hub:
        assert await hub.call(here) == "here"
        assert await hub.call(in_thread) == "in_thread"
        assert await collect(hub.stream(items)) == ["items"]


async def test_middleware_stands_around_a_whole_stream(tmp_path: Path) -> None:
    hub = make(tmp_path)
    order: list[str] = []

    @hub.middleware
    async def around(call: Call, call_next: Any) -> Any:
        order.append("before")
        try:
            assert await call_next() is None
        except ZeroDivisionError:
            raise Invalid("not by zero") from None
        finally:
            order.append("after")

    @hub.operation
    async def divide(by: list[int], db: AsyncDb) -> AsyncIterator[float]:
        for number in by:
            order.append(f"{number}")
            yield 12 / number
        order.append("last")

    async with hub:
        async for item in hub.stream(divide, [1, 2]):
            got = f"got {item}"
            order.append(got)
        assert order == ["before", "1", "got 12.0", "2", "got 6.0", "last", "after"]
        order.clear()
        items = hub.stream(divide, [4, 0, 3])
        assert await anext(items) == 3
        with pytest.raises(Invalid, match="zero"):
            await anext(items)
        assert order == ["before", "4", "0", "after"]
        order.clear()
        items = hub.stream(divide, [1, 2])
        await anext(items)
        await items.aclose()  # type: ignore[attr-defined]
        assert order == ["before", "1", "after"]
        assert (Database.opened, Database.closed) == (3, 3)
        assert hub.core.calls.running == 0


async def test_a_deadline_reaches_a_stream_through_middleware(tmp_path: Path) -> None:
    hub = make(tmp_path)
    ended: list[str] = []

    @hub.middleware
    async def around(call: Call, call_next: Any) -> Any:
        try:
            return await call_next()
        finally:
            ended.append("middleware")

    @hub.operation(timeout="1m")
    async def items() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            ended.append("operation")

    async with serve(hub, data=str(tmp_path / "data")) as t:
        stream = hub.stream(items)
        await anext(stream)
        task = asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        t.clock.advance("1m")
        with pytest.raises(DeadlineExceeded):
            await task
        assert ended == ["operation", "middleware"]
