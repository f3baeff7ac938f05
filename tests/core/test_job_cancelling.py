"""Cancelling jobs: before, while and after they run, and at every moment between."""

from __future__ import annotations

import asyncio

import pytest

from polywire.core.call import Call
from polywire.core.errors import (
    Conflict,
    Unavailable,
)
from tests.core.harness import Rig, until
from tests.core.operations import (
    Gate,
    Script,
    add,
    declare,
    ended,
    settled,
    submit,
)


async def test_a_waiting_job_is_cancelled_and_never_begun(rig: Rig) -> None:
    script = Script("never")
    declare(rig.core, script, "script")
    job = await submit(rig, "script")
    assert (await rig.core.jobs.cancel(rig.system, job)).status == "cancelled"
    assert (await rig.core.jobs.cancel(rig.system, job)).status == "cancelled"  # twice does no harm
    await rig.crash_and_start()
    declare(rig.core, script, "script")
    rig.core.jobs.work()
    await until(lambda: rig.pending("script", "jobs") == 0)
    assert script.calls == []
    assert (await rig.core.jobs.info(rig.system, job)).status == "cancelled"


async def test_a_delayed_job_is_cancelled_and_leaves_no_delay(rig: Rig) -> None:
    script = Script("never")
    declare(rig.core, script, "script")
    rig.core.jobs.work()
    due = rig.clock.now() + 3_600_000
    job = (await rig.core.jobs.submit(rig.system, "script", {}, due=due)).id
    assert rig.core.delays.count == 1
    info = await rig.core.jobs.cancel(rig.system, job)
    assert (info.status, info.due, rig.core.delays.count) == ("cancelled", None, 0)
    rig.clock.advance(3_600_001)
    await settled(rig)
    assert script.calls == []


async def test_a_job_between_two_attempts_is_cancelled(rig: Rig) -> None:
    script = Script(Unavailable("closed"), "never")
    declare(rig.core, script, "script")
    rig.core.jobs.work()
    job = await submit(rig, "script")
    await until(lambda: script.calls)
    await settled(rig)
    info = await rig.core.jobs.cancel(rig.system, job)
    assert (info.status, info.attempt, info.error) == ("cancelled", 1, None)
    rig.clock.advance(10_000)
    await until(lambda: rig.pending("script", "jobs") == 0)
    assert len(script.calls) == 1


async def test_a_running_job_is_interrupted(rig: Rig) -> None:
    gate = Gate()
    declare(rig.core, gate, "gate")
    rig.core.jobs.work()
    job = await submit(rig, "gate")
    await until(lambda: gate.calls)
    assert (await rig.core.jobs.cancel(rig.system, job)).status == "cancelled"
    assert gate.cancelled == 1
    assert rig.pending("gate", "jobs") == 0
    assert (await rig.core.jobs.info(rig.system, job)).attempt == 1


async def test_what_has_ended_cannot_be_cancelled(rig: Rig) -> None:
    declare(rig.core, add)
    rig.core.jobs.work()
    job = await submit(rig, "add", a=1, b=1)
    await ended(rig, job)
    with pytest.raises(Conflict, match="succeeded"):
        await rig.core.jobs.cancel(rig.system, job)


async def test_a_function_that_does_not_let_itself_be_cancelled(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polywire.core.attempts._PATIENCE", 0.05)
    go, begun = asyncio.Event(), asyncio.Event()

    async def stubborn(call: Call) -> str:
        begun.set()
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue
        return "done all the same"

    declare(rig.core, stubborn)
    rig.core.jobs.work()
    job = await submit(rig, "stubborn")
    await begun.wait()
    assert (await rig.core.jobs.cancel(rig.system, job)).status == "running"
    go.set()
    assert (await ended(rig, job)).result == b'"done all the same"'


async def test_what_a_function_makes_of_being_cancelled_is_no_reason_to_try_again(rig: Rig) -> None:
    gate = Gate()

    async def convert(call: Call) -> None:
        try:
            await gate(call)
        except asyncio.CancelledError:
            raise Unavailable("interrupted") from None

    declare(rig.core, convert)
    rig.core.jobs.work()
    job = await submit(rig, "convert")
    await until(lambda: gate.calls)
    assert (await rig.core.jobs.cancel(rig.system, job)).status == "cancelled"
    assert rig.pending("convert", "jobs") == 0


async def test_cancelling_at_any_moment_ends_in_one_of_two_ways(rig: Rig) -> None:
    """A hundred jobs, each cancelled a little later in its life than the one before it."""
    ran: list[str | None] = []

    async def short(call: Call) -> str:
        await asyncio.sleep(0)
        ran.append(call.job)
        return "ran"

    declare(rig.core, short)
    rig.core.jobs.work()
    outcomes: dict[str, int] = {}
    for turns in range(100):
        job = await submit(rig, "short")
        for _ in range(turns // 2):
            await asyncio.sleep(0 if turns % 2 else 0.0002)
        try:
            status = (await rig.core.jobs.cancel(rig.system, job)).status
        except Conflict:
            status = (await rig.core.jobs.info(rig.system, job)).status
            assert job in ran
        assert status in ("cancelled", "succeeded")
        assert (await ended(rig, job)).status == status
        outcomes[status] = outcomes.get(status, 0) + 1
    await settled(rig)
    assert rig.pending("short", "jobs") == 0
    assert outcomes["cancelled"]
    assert outcomes["succeeded"]
    assert len(ran) == len(set(ran))
