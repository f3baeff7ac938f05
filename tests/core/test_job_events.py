"""Following jobs: what happened since a cursor, progress as fast as it is heard, and the end."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from polywire.core.call import Call
from polywire.core.errors import (
    Denied,
    Invalid,
    NotFound,
    TooLarge,
    Unavailable,
)
from polywire.core.limits import Limits
from tests.core.conftest import Make
from tests.core.harness import Rig, until
from tests.core.operations import (
    Followed,
    Gate,
    Script,
    add,
    declare,
    ended,
    keys,
    submit,
)


async def test_the_life_of_a_job_is_followed_and_read_again(rig: Rig) -> None:
    going = asyncio.Queue[Any]()

    async def steps(call: Call) -> str:
        while (step := await going.get()) is not None:
            call.progress(step)
        return "done"

    declare(rig.core, steps)
    rig.core.jobs.work()
    followed = Followed(rig, await submit(rig, "steps"))
    for number, step in enumerate(("a", {"b": 1}, 3), 1):
        going.put_nowait(step)
        await until(lambda count=number: followed.types.count("progress") == count)
    assert json.loads((await rig.core.jobs.info(rig.system, followed.id)).progress or b"") == 3
    going.put_nowait(None)
    await followed.task
    assert followed.types == ["submitted", "started", "progress", "progress", "progress", "succeeded"]
    assert [json.loads(event.data or b"") for event in followed.got[2:]] == ["a", {"b": 1}, 3, "done"]
    assert [event.attempt for event in followed.got] == [0, 1, 1, 1, 1, 1]
    times = [event.time for event in followed.got]
    assert times == sorted(set(times))
    await rig.crash_and_start()
    declare(rig.core, steps)
    later = Followed(rig, followed.id)
    await later.task
    assert later.types == ["submitted", "started", "progress", "succeeded"]
    for seen, event in enumerate(followed.got):
        rest = Followed(rig, followed.id, after=event.cursor)
        await rest.task
        assert rest.got == [told for told in followed.got[seen + 1 :] if told in later.got]


async def test_retries_and_the_failure_are_followed(rig: Rig) -> None:
    script = Script(Unavailable("closed", retry_after=60), NotFound("gone for good"))
    declare(rig.core, script, "script")
    rig.core.jobs.work()
    followed = Followed(rig, await submit(rig, "script"))
    await until(lambda: "retrying" in followed.types)
    retrying = followed.got[-1]
    assert isinstance(retrying.error, Unavailable)
    assert retrying.due is not None
    assert 59_000 < retrying.due - rig.clock.now() <= 60_000
    rig.clock.advance(60_000)
    await followed.task
    assert followed.types == ["submitted", "started", "retrying", "started", "failed"]
    assert isinstance(followed.got[-1].error, NotFound)
    assert followed.got[-1].attempt == 2


async def test_progress_costs_no_commit_and_is_told_as_fast_as_it_is_heard(rig: Rig) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def flood(call: Call) -> str:
        begun.set()
        await go.wait()
        for number in range(20_000):
            call.progress(number)
            if number % 1_000 == 0:
                await asyncio.sleep(0.01)
        return "done"

    declare(rig.core, flood)
    rig.core.jobs.work()
    followed = Followed(rig, await submit(rig, "flood"))
    await begun.wait()
    await rig.quiet()
    commits = rig.core.log.commits
    go.set()
    await followed.task
    assert rig.core.log.commits - commits <= 3
    told = [json.loads(event.data or b"") for event in followed.got if event.type == "progress"]
    assert told == sorted(told)
    assert 1 <= len(told) < 20
    assert json.loads((await rig.core.jobs.info(rig.system, followed.id)).progress or b"") == 19_999


async def test_progress_from_a_thread(rig: Rig) -> None:
    async def threaded(call: Call) -> str:
        def work() -> None:
            for number in range(10_000):
                call.progress(number)

        await asyncio.to_thread(work)
        late = threading.Timer(0.05, lambda: call.progress("after its end"))
        late.start()
        return "done"

    declare(rig.core, threaded)
    rig.core.jobs.work()
    info = await ended(rig, await submit(rig, "threaded"))
    assert info.progress == b"9999"
    await asyncio.sleep(0.1)
    assert (await rig.core.jobs.info(rig.system, info.id)).progress == b"9999"


async def test_progress_is_bounded(make: Make) -> None:
    rig = await make(Limits(progress_size=100))

    async def verbose(call: Call) -> str:
        call.progress("x" * 98)
        with pytest.raises(TooLarge):
            call.progress("x" * 1_000)
        return "done"

    declare(rig.core, verbose)
    rig.core.jobs.work()
    info = await ended(rig, await submit(rig, "verbose"))
    assert (info.status, len(info.progress or b"")) == ("succeeded", 100)


async def test_a_cursor_that_is_none_and_one_of_the_future(rig: Rig) -> None:
    declare(rig.core, add)
    rig.core.jobs.work()
    job = await submit(rig, "add", a=1, b=1)
    for cursor in ("x", "-1", "", "1.5", "9" * 30, "\u0661"):
        with pytest.raises(Invalid, match="cursor"):
            await anext(rig.core.jobs.follow(rig.system, job, after=cursor))
    ahead = Followed(rig, job, after=str(rig.clock.now() + 1_000_000))
    await ahead.task
    assert ahead.types == ["succeeded"]  # the end is told whatever the clock was set to


async def test_who_loses_the_right_follows_no_more(rig: Rig) -> None:
    gate = Gate()
    declare(rig.core, gate, "gate")
    rig.core.jobs.work()
    who = await keys(rig.core, ann=["call:gate"])
    followed = Followed(rig, await submit(rig, "gate", who["ann"]), principal=who["ann"])
    await until(lambda: followed.types == ["submitted", "started"])
    await rig.core.access.revoke_key(rig.system, "ann")
    with pytest.raises(Denied):
        await followed.task
    info = await ended(rig, followed.id)  # and what runs with their rights is interrupted
    assert (info.status, type(info.error), gate.cancelled) == ("failed", Denied, 1)
    assert rig.core.jobs._watching == {}


async def test_waiting_for_the_end_has_an_end(rig: Rig) -> None:
    gate = Gate()
    declare(rig.core, gate, "gate")
    rig.core.jobs.work()
    job = await submit(rig, "gate")
    waiting = asyncio.ensure_future(rig.core.jobs.info(rig.system, job, wait=30_000))
    await until(lambda: gate.calls)
    rig.clock.advance(29_000)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    rig.clock.advance(1_001)
    assert (await waiting).status == "running"
    gate.open.set()
    await ended(rig, job)
