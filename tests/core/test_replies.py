"""Idempotency keys of calls: one run, one reply, however often it is asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polywire.core.call import Call
from polywire.core.errors import (
    Conflict,
    DeadlineExceeded,
    FieldError,
    Internal,
    Invalid,
    LimitExceeded,
    NotFound,
    TooLarge,
    Unavailable,
    Unsupported,
)
from polywire.core.limits import Limits
from tests.core.conftest import Make
from tests.core.harness import DISK_FULL, Rig, until
from tests.core.operations import declare


class Charge:
    """Charges a card: what must not happen twice. Waits for ``go`` if it is given one."""

    def __init__(self, go: asyncio.Event | None = None) -> None:
        self.charged: list[Any] = []
        self.error: Exception | None = None
        self.go = go

    async def __call__(self, call: Call) -> dict[str, Any]:
        if self.go is not None:
            await self.go.wait()
        self.charged.append(call.arguments["cents"])
        if self.error is not None:
            raise self.error
        return {"charge": len(self.charged)}


async def charge(rig: Rig, cents: int, key: str | None = "k", **options: Any) -> Any:
    principal = options.pop("principal", rig.system)
    return await rig.core.calls.call(principal, "charge", {"cents": cents}, idempotency=key, **options)


async def test_a_repeat_gets_the_first_reply_and_runs_nothing(rig: Rig) -> None:
    function = Charge()
    declare(rig.core, function, "charge")
    assert await charge(rig, 5) == {"charge": 1}
    assert await charge(rig, 5) == {"charge": 1}
    assert await charge(rig, 5, "other") == {"charge": 2}
    assert await charge(rig, 5, None) == {"charge": 3}
    await rig.crash_and_start()
    declare(rig.core, function, "charge")
    assert await charge(rig, 5) == {"charge": 1}
    assert function.charged == [5, 5, 5]


async def test_other_arguments_are_a_conflict(rig: Rig) -> None:
    function = Charge(asyncio.Event())
    assert function.go is not None
    declare(rig.core, function, "charge")
    first = asyncio.ensure_future(charge(rig, 5))
    await asyncio.sleep(0)
    with pytest.raises(Conflict, match="other arguments"):  # while the first one runs
        await charge(rig, 6)
    function.go.set()
    assert await first == {"charge": 1}
    with pytest.raises(Conflict, match="other arguments"):
        await charge(rig, 6)
    assert function.charged == [5]


async def test_keys_of_other_principals_and_operations_are_others(rig: Rig) -> None:
    function = Charge()
    declare(rig.core, function, "charge")
    declare(rig.core, function, "refund")
    _, secret = await rig.core.access.create_key(rig.system, "somebody", ["call:#"])
    somebody = rig.core.access.authenticate(secret)
    assert await charge(rig, 5) == {"charge": 1}
    assert await charge(rig, 6, principal=somebody) == {"charge": 2}
    assert await rig.core.calls.call(rig.system, "refund", {"cents": 7}, idempotency="k") == {"charge": 3}


async def test_repeats_at_the_same_time_wait_for_the_one_that_runs(rig: Rig) -> None:
    function = Charge(asyncio.Event())
    assert function.go is not None
    declare(rig.core, function, "charge")
    tasks = [asyncio.ensure_future(charge(rig, 5)) for _ in range(50)]
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in tasks)
    function.go.set()
    assert await asyncio.gather(*tasks) == [{"charge": 1}] * 50
    assert function.charged == [5]


async def test_the_reply_is_stored_before_it_is_given(rig: Rig) -> None:
    function = Charge()
    declare(rig.core, function, "charge")
    await charge(rig, 1, "warm")
    rig.engine.holding = True
    task = asyncio.ensure_future(charge(rig, 5))
    await until(lambda: function.charged == [1, 5])
    await asyncio.sleep(0.02)
    assert not task.done()
    rig.engine.let_go()
    assert await task == {"charge": 2}


async def test_a_reply_that_cannot_be_stored_is_not_given(rig: Rig) -> None:
    function = Charge()
    declare(rig.core, function, "charge")
    await charge(rig, 1, "warm")
    rig.engine.fault = DISK_FULL
    with pytest.raises(Unavailable):
        await charge(rig, 5)
    rig.engine.fault = None
    assert await charge(rig, 5) == {"charge": 3}  # it ran: once more is all that can be done
    assert await charge(rig, 5) == {"charge": 3}


async def test_who_leaves_does_not_end_what_was_begun(rig: Rig) -> None:
    function = Charge(asyncio.Event())
    assert function.go is not None
    declare(rig.core, function, "charge")
    first = asyncio.ensure_future(charge(rig, 5))
    await until(lambda: rig.core.calls.running)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    again = asyncio.ensure_future(charge(rig, 5))
    await asyncio.sleep(0)
    function.go.set()
    assert await again == {"charge": 1}
    assert function.charged == [5]


async def test_errors_that_blame_the_caller_are_replies(rig: Rig) -> None:
    function = Charge()
    declare(rig.core, function, "charge")
    refusals = [
        Invalid("no such card", hint="look at it", fields=[FieldError("$.card", "expired")]),
        NotFound("no such account", extra={"account": 7, "odd": object()}),
    ]
    for error in refusals:
        function.error = error
        key = type(error).__name__
        for _ in range(2):
            with pytest.raises(type(error)) as told:
                await charge(rig, 5, key)
        assert told.value is not error
        assert (told.value.detail, told.value.hint, told.value.fields) == (error.detail, error.hint, error.fields)
    assert told.value.extra == {"account": 7}
    assert len(function.charged) == len(refusals)


async def test_errors_that_may_pass_are_tried_again(rig: Rig) -> None:
    function = Charge()
    declare(rig.core, function, "charge")
    for error in (Unavailable("the bank is closed"), LimitExceeded("too often"), Internal("a fault"), OSError("gone")):
        function.error = error
        with pytest.raises((Unavailable, LimitExceeded, Internal)):
            await charge(rig, 5)
    function.error = None
    assert await charge(rig, 5) == {"charge": 5}


async def test_the_deadline_ends_it_and_the_next_one_runs(rig: Rig) -> None:
    function = Charge(asyncio.Event())
    assert function.go is not None
    declare(rig.core, function, "charge")
    first = asyncio.ensure_future(charge(rig, 5, within=30_000))
    await until(lambda: rig.core.calls.running)
    hasty = asyncio.ensure_future(charge(rig, 5, within=2_000))
    await asyncio.sleep(0)
    rig.clock.advance(2_000)
    with pytest.raises(DeadlineExceeded):
        await hasty
    assert not first.done()
    rig.clock.advance(28_000)
    with pytest.raises(DeadlineExceeded):
        await first
    function.go.set()
    assert await charge(rig, 5) == {"charge": 1}


async def test_a_key_is_remembered_for_its_time(make: Make) -> None:
    rig = await make(Limits(reply_retention=60_000))
    function = Charge()
    declare(rig.core, function, "charge")
    assert await charge(rig, 5) == {"charge": 1}
    rig.clock.advance(59_000)
    assert await charge(rig, 5) == {"charge": 1}
    rig.clock.advance(2_000)
    assert await charge(rig, 5) == {"charge": 2}
    await rig.round()
    assert await charge(rig, 5) == {"charge": 2}
    assert rig.core.calls.replies.table.count == 1
    rig.clock.advance(61_000)
    await rig.round()
    assert rig.core.calls.replies.table.count == 0


async def test_no_more_replies_are_kept_than_the_limit_says(make: Make) -> None:
    rig = await make(Limits(replies=20))
    declare(rig.core, Charge(), "charge")
    for number in range(200):
        assert await charge(rig, 5, f"key {number}") == {"charge": number + 1}
        assert rig.core.calls.replies.table.count <= 20
    assert await charge(rig, 5, "key 199") == {"charge": 200}
    assert await charge(rig, 5, "key 0") == {"charge": 201}  # forgotten


async def test_no_more_run_than_the_limit_says(make: Make) -> None:
    rig = await make(Limits(calls=10))
    function = Charge(asyncio.Event())
    assert function.go is not None
    declare(rig.core, function, "charge")
    tasks = [asyncio.ensure_future(charge(rig, 5, f"key {number}")) for number in range(100)]
    await until(lambda: sum(task.done() for task in tasks) == 90)
    function.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, LimitExceeded) for result in results) == 90


async def test_a_reply_too_large_to_be_kept_is_refused_each_time(make: Make) -> None:
    rig = await make(Limits(message_size=1_000))
    ran: list[Call] = []

    async def large(call: Call) -> str:
        ran.append(call)
        return "x" * 1_000

    declare(rig.core, large)
    for _ in range(2):
        with pytest.raises(TooLarge, match="1002 bytes"):
            await rig.core.calls.call(rig.system, "large", {}, idempotency="k")
    assert len(ran) == 1
    assert len(await rig.core.calls.call(rig.system, "large", {})) == 1_000


async def test_a_reply_that_nobody_can_write_does_not_run_it_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    ran: list[Call] = []

    async def odd(call: Call) -> object:
        ran.append(call)
        return object()

    declare(rig.core, odd)
    for _ in range(2):
        with pytest.raises(Internal, match="'odd' failed"):
            await rig.core.calls.call(rig.system, "odd", {}, idempotency="k")
    assert len(ran) == 1
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "\udc80"])
async def test_a_key_that_is_none(rig: Rig, key: str) -> None:
    declare(rig.core, Charge(), "charge")
    with pytest.raises(Invalid, match="idempotency key"):
        await charge(rig, 5, key)


async def test_an_operation_that_cannot_be_kept(rig: Rig) -> None:
    declare(rig.core, Charge(), "charge", encoding=None)
    with pytest.raises(Unsupported):
        await charge(rig, 5)


async def test_a_call_and_a_job_do_not_share_a_key(rig: Rig) -> None:
    declare(rig.core, Charge(), "charge")
    await charge(rig, 5, "call")
    with pytest.raises(Conflict, match="used to call"):
        await rig.core.jobs.submit(rig.system, "charge", {"cents": 5}, idempotency="call")
    await rig.core.jobs.submit(rig.system, "charge", {"cents": 5}, idempotency="job")
    with pytest.raises(Conflict, match="submit a job"):
        await charge(rig, 5, "job")


async def test_the_hub_stops_after_what_is_on_its_way_is_stored(rig: Rig) -> None:
    function = Charge(asyncio.Event())
    assert function.go is not None
    declare(rig.core, function, "charge")
    task = asyncio.ensure_future(charge(rig, 5))
    await until(lambda: rig.core.calls.running)
    draining = asyncio.ensure_future(rig.core.calls.drain(10))
    await asyncio.sleep(0)
    function.go.set()
    await draining
    assert await task == {"charge": 1}
    await rig.restart()
    declare(rig.core, function, "charge")
    assert await charge(rig, 5) == {"charge": 1}
    assert function.charged == [5]
