"""Calls of operations: who may, how long, how many, what is told of what went wrong, and the end of the hub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from polywire.core.call import Call
from polywire.core.errors import (
    Conflict,
    DeadlineExceeded,
    Denied,
    Internal,
    Invalid,
    LimitExceeded,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from polywire.core.limits import Limits
from polywire.core.message import Origin
from tests.core.conftest import Make
from tests.core.harness import Rig, until
from tests.core.operations import Gate, add, count, declare, declare_stream, keys


class Ticker:
    """A stream of numbers, each when it is told; remembers how it ended."""

    def __init__(self) -> None:
        self.more = asyncio.Semaphore(0)
        self.closed = False

    async def __call__(self, call: Call) -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                await self.more.acquire()
                yield number
                number += 1
        finally:
            self.closed = True


# --- one result ------------------------------------------------------------------------------------------------------


async def test_a_call_is_given_what_its_caller_said(rig: Rig) -> None:
    seen: list[Call] = []

    async def look(call: Call) -> str:
        seen.append(call)
        return "seen"

    declare(rig.core, look)
    origin = Origin("hub", "rest", "127.0.0.1")
    now = rig.clock.now()
    result = await rig.core.calls.call(
        rig.system, "look", {"x": 1}, within=500, headers=[("trace", "7")], origin=origin
    )
    assert result == "seen"
    call = seen[0]
    assert (call.operation, call.arguments, call.headers, call.origin) == ("look", {"x": 1}, [("trace", "7")], origin)
    assert call.principal is rig.system
    assert (call.attempt, call.job) == (1, None)
    assert call.deadline is not None
    assert 500 <= call.deadline - now < 600
    assert call.remaining is not None
    assert 0 <= call.remaining <= 0.5
    await rig.core.calls.call(rig.system, "look", {})
    assert seen[1].id != call.id
    assert seen[1].deadline is not None
    assert 59_000 < seen[1].deadline - rig.clock.now() <= 60_000
    call.progress({"nobody": "hears"})


async def test_access_is_asked_before_anything_else(rig: Rig) -> None:
    declare(rig.core, add)
    access = rig.core.access
    _, secret = await access.create_key(rig.system, "caller", ["call:add"])
    _, poor = await access.create_key(rig.system, "poor", ["publish:add"])
    caller = access.authenticate(secret)
    calls = rig.core.calls
    assert await calls.call(caller, "add", {"a": 1, "b": 2}) == 3
    assert calls.require(caller, "add").name == "add"
    with pytest.raises(Denied):
        calls.require(access.authenticate(poor), "add")
    with pytest.raises(Denied):  # who may not call a name is not told whether it is one
        calls.require(caller, "subtract")
    with pytest.raises(Unauthenticated):
        calls.require(access.anonymous, "add")
    with pytest.raises(NotFound, match="no operation 'subtract'"):
        calls.require(rig.system, "subtract")
    assert [operation.name for operation in calls.allowed(caller)] == ["add"]
    assert calls.allowed(access.anonymous) == []


async def test_errors_of_the_tree_are_told_and_others_only_logged(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    conflict = Conflict("it is taken", hint="take another")

    async def refuse(call: Call) -> None:
        raise conflict

    async def crash(call: Call) -> None:
        raise ZeroDivisionError("the secret of the house")

    operations = [declare(rig.core, function) for function in (refuse, crash)]
    with pytest.raises(Conflict) as told:
        await rig.core.calls.call(rig.system, "refuse", {})
    assert told.value is conflict
    assert not caplog.records
    with pytest.raises(Internal) as hidden:
        await rig.core.calls.call(rig.system, "crash", {})
    assert "secret" not in str(hidden.value.as_dict())
    assert "the secret of the house" in caplog.text
    assert "operation crash failed" in caplog.text
    for operation in operations:
        counters = operation.counters
        assert (counters.calls, counters.errors, counters.running) == (1, 1, 0)
        assert sum(counters.buckets) == 1


async def test_the_deadline_cancels_and_says_so(rig: Rig) -> None:
    gate = Gate()
    declare(rig.core, gate, "gate")
    declare(rig.core, gate, "patient", timeout=0)
    declare(rig.core, gate, "hasty", timeout=2_000)
    calls = rig.core.calls
    for name, within, late in (
        ("gate", None, 60_000),
        ("gate", 5_000, 5_000),
        ("gate", 600_000, 60_000),  # can only be shortened
        ("patient", 7_000, 7_000),
        ("hasty", None, 2_000),
        ("hasty", 60_000, 2_000),
    ):
        gate.calls.clear()
        task = asyncio.ensure_future(calls.call(rig.system, name, {}, within=within))
        await until(lambda: gate.calls)
        rig.clock.advance(late - 1_000)
        await asyncio.sleep(0.01)
        assert not task.done()
        rig.clock.advance(1_000)
        with pytest.raises(DeadlineExceeded, match=f"operation '{name}'"):
            await task
        assert calls.running == 0
    assert gate.cancelled == 6
    task = asyncio.ensure_future(calls.call(rig.system, "patient", {}))
    rig.clock.advance(86_400_000)
    await asyncio.sleep(0.01)
    gate.open.set()
    assert await task == "through"


async def test_who_is_cancelled_at_the_deadline_too_is_cancelled(rig: Rig) -> None:
    gate = Gate()
    declare(rig.core, gate, "gate")
    task = asyncio.ensure_future(rig.core.calls.call(rig.system, "gate", {}, within=1_500))
    await until(lambda: gate.calls)
    rig.clock.advance(1_500)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_function_may_answer_in_spite_of_its_deadline(rig: Rig) -> None:
    begun = asyncio.Event()

    async def stubborn(call: Call) -> str:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "what I had by then"
        return ""

    declare(rig.core, stubborn)

    async def caller() -> tuple[str, int]:
        result = await rig.core.calls.call(rig.system, "stubborn", {}, within=1_500)
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0)  # nothing is left of the cancellation
        return result, task.cancelling()

    task = asyncio.ensure_future(caller())
    await begun.wait()
    rig.clock.advance(1_500)
    assert await task == ("what I had by then", 0)


async def test_who_leaves_cancels_the_call(rig: Rig) -> None:
    gate = Gate()
    operation = declare(rig.core, gate, "gate")
    task = asyncio.ensure_future(rig.core.calls.call(rig.system, "gate", {}))
    await until(lambda: gate.calls)
    assert (rig.core.calls.running, operation.counters.running) == (1, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.cancelled == 1
    assert (rig.core.calls.running, operation.counters.running) == (0, 0)
    assert operation.counters.errors == 0  # nobody's fault


async def test_at_most_so_many_run(make: Make) -> None:
    rig = await make(Limits(calls=20))
    gate = Gate()
    declare(rig.core, gate, "gate")
    tasks = [asyncio.ensure_future(rig.core.calls.call(rig.system, "gate", {})) for _ in range(200)]
    await until(lambda: sum(task.done() for task in tasks) == 180)
    assert rig.core.calls.running == 20
    gate.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [result for result in results if isinstance(result, LimitExceeded)]
    assert len(refused) == 180
    assert refused[0].retry_after
    assert results.count("through") == 20


# --- streams ---------------------------------------------------------------------------------------------------------


async def test_a_stream_gives_its_items_in_order(rig: Rig) -> None:
    operation = declare_stream(rig.core, count)
    items = [item async for item in rig.core.calls.stream(rig.system, "count", {"n": 5})]
    assert items == [0, 1, 2, 3, 4]
    assert (operation.counters.calls, operation.counters.errors, rig.core.calls.running) == (1, 0, 0)


async def test_a_stream_and_a_result_are_asked_for_differently(rig: Rig) -> None:
    declare_stream(rig.core, count)
    declare(rig.core, add)
    with pytest.raises(Unsupported, match="answers with a stream"):
        await rig.core.calls.call(rig.system, "count", {"n": 1})
    with pytest.raises(Unsupported, match="one result"):
        await anext(rig.core.calls.stream(rig.system, "add", {}))
    with pytest.raises(Unsupported, match="idempotency"):
        await anext(rig.core.calls.stream(rig.system, "count", {}, idempotency="k"))


async def test_a_stream_has_no_deadline_of_its_own_but_its_callers(rig: Rig) -> None:
    ticker = Ticker()
    declare_stream(rig.core, ticker, "tick")
    items = rig.core.calls.stream(rig.system, "tick", {})
    ticker.more.release()
    assert await anext(items) == 0
    rig.clock.advance(86_400_000)
    ticker.more.release()
    assert await anext(items) == 1
    await items.aclose()  # type: ignore[attr-defined]
    assert ticker.closed
    assert rig.core.calls.running == 0

    items = rig.core.calls.stream(rig.system, "tick", {}, within=5_000)
    ticker.more.release()
    assert await anext(items) == 0
    waiting = asyncio.ensure_future(anext(items))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    rig.clock.advance(5_000)
    with pytest.raises(DeadlineExceeded):
        await waiting
    assert rig.core.calls.running == 0


async def test_a_deadline_between_two_items_ends_the_stream_at_the_next(rig: Rig) -> None:
    ticker = Ticker()
    operation = declare_stream(rig.core, ticker, "tick", timeout=5_000)
    items = rig.core.calls.stream(rig.system, "tick", {})
    for _ in range(2):
        ticker.more.release()
    assert await anext(items) == 0
    rig.clock.advance(5_000)
    with pytest.raises(DeadlineExceeded):
        await anext(items)
    assert ticker.closed
    assert operation.counters.errors == 1


async def test_what_a_stream_raises_comes_after_its_items(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    async def failing(call: Call) -> AsyncIterator[int]:
        yield 1
        raise call.arguments["error"]

    declare_stream(rig.core, failing)
    for error, told in ((TooLarge("enough"), TooLarge), (ValueError("a secret"), Internal)):
        items = rig.core.calls.stream(rig.system, "failing", {"error": error})
        assert await anext(items) == 1
        with pytest.raises(told) as raised:
            await anext(items)
        assert "secret" not in str(raised.value.as_dict())
        with pytest.raises(StopAsyncIteration):
            await anext(items)
    assert "a secret" in caplog.text
    assert rig.core.calls.running == 0


async def test_a_stream_ends_with_the_right_to_call_it(rig: Rig) -> None:
    ticker, gate = Ticker(), Gate()
    declare_stream(rig.core, ticker, "tick")
    declare(rig.core, gate, "gate")
    who = await keys(rig.core, ann=["call:#"], bob=["call:#"])
    hers, his = (rig.core.calls.stream(who[name], "tick", {}) for name in ("ann", "bob"))
    calling = asyncio.create_task(rig.core.calls.call(who["ann"], "gate", {}))
    waiting = asyncio.create_task(anext(hers))  # type: ignore[arg-type]
    other = asyncio.create_task(anext(his))  # type: ignore[arg-type]
    await until(lambda: rig.core.calls.running == 3)
    await rig.core.access.revoke_key(rig.system, "ann")
    with pytest.raises(Denied):
        await waiting
    assert not other.done()
    other.cancel()
    await asyncio.wait([other])
    gate.open.set()
    assert await calling == "through"  # what has begun comes to its end
    assert not who["bob"]._watchers


async def test_who_leaves_a_stream_ends_it(rig: Rig) -> None:
    ticker = Ticker()
    operation = declare_stream(rig.core, ticker, "tick")

    async def read() -> None:
        async for _ in rig.core.calls.stream(rig.system, "tick", {}):
            pass

    task = asyncio.ensure_future(read())
    ticker.more.release()
    await until(lambda: operation.counters.running)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: ticker.closed and not rig.core.calls.running)


# --- the end of the hub ----------------------------------------------------------------------------------------------


async def test_a_stopping_hub_lets_calls_end_and_takes_no_more(rig: Rig) -> None:
    gate = Gate()
    declare(rig.core, gate, "gate")
    running = asyncio.ensure_future(rig.core.calls.call(rig.core.access.anonymous, "gate", {}))
    await until(lambda: gate.calls)
    rig.core.refuse_clients()
    draining = asyncio.ensure_future(rig.core.calls.drain(10))
    with pytest.raises(Unavailable):
        await rig.core.calls.call(rig.core.access.anonymous, "gate", {})
    await asyncio.sleep(0)
    assert not draining.done()
    gate.open.set()
    assert await running == "through"
    await draining


async def test_what_does_not_end_is_told_that_the_hub_stops(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    gate, ticker = Gate(), Ticker()
    declare(rig.core, gate, "gate")
    declare_stream(rig.core, ticker, "tick")
    waiting: list[asyncio.Task[Any]] = [
        asyncio.create_task(rig.core.calls.call(rig.system, "gate", {})),
        asyncio.create_task(anext(rig.core.calls.stream(rig.system, "tick", {}))),  # type: ignore[arg-type]
    ]
    await until(lambda: rig.core.calls.running == 2)
    await rig.core.calls.drain(0.05)
    for task in waiting:
        with pytest.raises(Unavailable, match="stopping"):
            await task
    assert ticker.closed
    assert gate.cancelled == 1
    assert rig.core.calls.running == 0
    assert "2 calls did not end" in caplog.text


async def test_progress_that_is_no_json_is_refused_where_somebody_hears(rig: Rig) -> None:
    call = Call("x", {}, rig.system, clock=rig.clock)
    call.on_progress = [].append
    with pytest.raises(Invalid, match="progress"):
        call.progress(object())
