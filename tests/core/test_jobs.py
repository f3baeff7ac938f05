"""Jobs: stored before they are answered, run at least once, their end kept, for whom it may concern."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

import pytest

from polywire.core.call import JobPolicy
from polywire.core.errors import (
    Conflict,
    DeadlineExceeded,
    Denied,
    Internal,
    Invalid,
    LimitExceeded,
    NotFound,
    PolywireError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from polywire.core.limits import Limits
from polywire.core.message import Origin, Record
from polywire.core.position import Cursor, Position
from polywire.core.routing import Source
from polywire.core.streams import Earliest
from polywire.core.subscription import SubscriptionSettings
from tests.core.conftest import Make
from tests.core.harness import DISK_FULL, Reader, Rig, until
from tests.core.operations import (
    Followed,
    Gate,
    Script,
    add,
    count,
    declare,
    declare_stream,
    ended,
    keys,
    settled,
    submit,
)

# --- from the submission to the end ----------------------------------------------------------------------------------


async def test_a_job_runs_and_its_result_is_kept(rig: Rig) -> None:
    declare(rig.core, add)
    rig.core.jobs.work()
    began = rig.clock.now()
    info = await rig.core.jobs.submit(rig.system, "add", {"a": 2, "b": 3})
    assert (info.status, info.operation, info.principal, info.attempt) == ("waiting", "add", "hub", 0)
    assert began <= info.submitted <= rig.clock.now()
    assert (info.due, info.started, info.ended, info.expires, info.result) == (None, None, None, None, None)
    info = await ended(rig, info.id)
    assert (info.status, info.result, info.content_type, info.attempt) == ("succeeded", b"5", "application/json", 1)
    assert info.started is not None
    assert info.ended is not None
    assert info.submitted < info.started < info.ended
    assert info.expires == info.ended + 86_400_000
    assert info.error is None
    assert info.has_ended
    await rig.crash_and_start()
    assert await rig.core.jobs.info(rig.system, info.id) == info


async def test_the_call_is_what_was_submitted(rig: Rig) -> None:
    script = Script("done")
    declare(rig.core, script, "script")
    rig.core.jobs.work()
    _, secret = await rig.core.access.create_key(rig.system, "ann", ["call:script"])
    ann = rig.core.access.authenticate(secret)
    origin = Origin("somebody else", "rest", "10.0.0.1")
    info = await rig.core.jobs.submit(ann, "script", {"x": [1]}, headers=[("trace", "7")], origin=origin)
    await ended(rig, info.id)
    call = script.calls[0]
    assert (call.operation, call.arguments, call.headers) == ("script", {"x": [1]}, [("trace", "7")])
    assert (call.principal, call.attempt, call.job) == (ann, 1, info.id)
    assert call.origin == Origin("ann", "rest", "10.0.0.1")
    assert call.deadline is not None
    assert call.deadline - rig.clock.now() > 86_000_000


async def test_it_is_stored_before_it_is_answered_and_survives_a_crash(rig: Rig) -> None:
    declare(rig.core, add)
    rig.engine.holding = True
    task = asyncio.ensure_future(rig.core.jobs.submit(rig.system, "add", {"a": 1, "b": 1}))
    await asyncio.sleep(0.02)
    assert not task.done()
    rig.engine.let_go()
    info = await task
    await rig.crash_and_start()
    declare(rig.core, add)
    assert (await rig.core.jobs.info(rig.system, info.id)).status == "waiting"
    rig.core.jobs.work()
    assert (await ended(rig, info.id)).result == b"2"


async def test_a_crash_while_it_runs_brings_it_again_as_the_same_attempt(rig: Rig) -> None:
    gate = Gate()
    declare(rig.core, gate, "gate")
    rig.core.jobs.work()
    job = await submit(rig, "gate")
    await until(lambda: gate.calls)
    assert (await rig.core.jobs.info(rig.system, job)).status == "running"
    await rig.crash_and_start()
    again = Gate()
    declare(rig.core, again, "gate")
    rig.core.jobs.work()
    await until(lambda: again.calls)
    assert again.calls[0].attempt == 1
    gate.open.set()  # what the dead hub's task does is heard by nobody
    await asyncio.sleep(0.01)
    assert (await rig.core.jobs.info(rig.system, job)).status == "running"
    again.open.set()
    assert (await ended(rig, job)).result == b'"through"'


async def test_the_end_and_the_acknowledgement_are_one_commit(rig: Rig) -> None:
    script = Script("first", "second")
    declare(rig.core, script, "script")
    rig.core.jobs.work()
    await rig.quiet()
    job = await submit(rig, "script")
    rig.engine.holding = True  # the commit of its end never comes
    await until(lambda: script.calls)
    await asyncio.sleep(0.02)
    assert (await rig.core.jobs.info(rig.system, job)).status == "running"  # nobody is told what a crash can take back
    await rig.crash_and_start()
    declare(rig.core, script, "script")
    rig.core.jobs.work()
    info = await ended(rig, job)
    assert (info.result, len(script.calls)) == (b'"second"', 2)
    await settled(rig)
    await rig.crash_and_start()
    declare(rig.core, script, "script")
    rig.core.jobs.work()
    await settled(rig)
    assert len(script.calls) == 2


async def test_a_commit_of_the_end_that_fails_brings_it_again(rig: Rig) -> None:
    gate = Gate()
    declare(rig.core, gate, "gate")
    rig.core.jobs.work()
    events = Followed(rig, await submit(rig, "gate"))
    await until(lambda: events.types == ["submitted", "started"])
    rig.engine.fault = DISK_FULL
    gate.open.set()
    await until(lambda: rig.engine.refused and not rig.core.jobs.running)
    assert (await rig.core.jobs.info(rig.system, events.id)).status == "waiting"
    rig.engine.fault = None
    rig.clock.advance(2_000)
    assert (await ended(rig, events.id)).status == "succeeded"
    await events.task
    assert events.types == ["submitted", "started", "started", "succeeded"]
    assert [call.attempt for call in gate.calls] == [1, 1]


async def test_only_so_many_of_an_operation_run_at_a_time(rig: Rig) -> None:
    gate = Gate()
    declare(rig.core, gate, "gate", jobs=JobPolicy(concurrency=3))
    declare(rig.core, add)
    rig.core.jobs.work()
    jobs = [await submit(rig, "gate") for _ in range(10)]
    await until(lambda: len(gate.calls) == 3)
    assert (await ended(rig, await submit(rig, "add", a=1, b=1))).result == b"2"  # others are not held up
    assert len(gate.calls) == 3
    gate.open.set()
    assert {(await ended(rig, job)).status for job in jobs} == {"succeeded"}
    assert len(gate.calls) == 10


async def test_a_delayed_job_waits_for_its_time_also_across_a_restart(rig: Rig) -> None:
    declare(rig.core, add)
    rig.core.jobs.work()
    due = rig.clock.now() + 3_600_000
    info = await rig.core.jobs.submit(rig.system, "add", {"a": 1, "b": 1}, due=due)
    assert (info.status, info.due) == ("waiting", due)
    await rig.crash_and_start()
    declare(rig.core, add)
    rig.core.jobs.work()
    rig.clock.advance(3_500_000)
    await settled(rig)
    assert (await rig.core.jobs.info(rig.system, info.id)).due == due
    rig.clock.advance(100_000)
    info = await ended(rig, info.id)
    assert (info.result, info.due) == (b"2", None)
    with pytest.raises(Invalid, match="delay"):
        await rig.core.jobs.submit(rig.system, "add", {}, due=rig.clock.now() + 10**12)


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("a bug"), Internal("a fault"), Unavailable("closed"), LimitExceeded("x")])
async def test_what_may_pass_is_tried_again_later(rig: Rig, error: Exception) -> None:
    script = Script(error, error, "at last")
    declare(rig.core, script, "script")
    rig.core.jobs.work()
    job = await submit(rig, "script")
    for attempt in (1, 2):
        await until(lambda count=attempt: len(script.calls) == count)
        await settled(rig)
        info = await rig.core.jobs.info(rig.system, job)
        assert (info.status, info.attempt) == ("waiting", attempt)
        assert info.error is not None
        assert info.error.code == (error.code if isinstance(error, PolywireError) else "internal")
        assert info.due is not None
        assert 0 < info.due - rig.clock.now() <= 1_000
        rig.clock.advance(1_000)
    info = await ended(rig, job)
    assert (info.status, info.result, info.attempt, info.error) == ("succeeded", b'"at last"', 3, None)
    assert [call.attempt for call in script.calls] == [1, 2, 3]


async def test_attempts_come_to_an_end(rig: Rig) -> None:
    script = Script(*[Unavailable("closed")] * 3)
    declare(rig.core, script, "script")
    rig.core.jobs.work()
    job = await submit(rig, "script")
    for attempt in (1, 2):
        await until(lambda count=attempt: len(script.calls) == count)
        await settled(rig)
        await rig.crash_and_start()  # attempts are counted across restarts
        declare(rig.core, script, "script")
        rig.core.jobs.work()
        rig.clock.advance(1_000)
    info = await ended(rig, job)
    assert (info.status, info.attempt) == ("failed", 3)
    assert isinstance(info.error, Unavailable)
    assert info.error.detail == "closed"
    assert rig.pending("script", "jobs") == 0


@pytest.mark.parametrize("kind", [Invalid, Unauthenticated, Denied, NotFound, Conflict, TooLarge, Unsupported])
async def test_what_a_retry_does_not_help_fails_at_once(rig: Rig, kind: type[PolywireError]) -> None:
    declare(rig.core, Script(kind("no", hint="because")), "script")
    rig.core.jobs.work()
    info = await ended(rig, await submit(rig, "script"))
    assert (info.status, info.attempt) == ("failed", 1)
    assert type(info.error) is kind
    assert info.error.hint == "because"


async def test_an_error_may_say_when_to_try_again(rig: Rig) -> None:
    script = Script(Unavailable("closed", retry_after=3_600), "open")
    declare(rig.core, script, "script")
    rig.core.jobs.work()
    job = await submit(rig, "script")
    await until(lambda: script.calls)
    await settled(rig)
    info = await rig.core.jobs.info(rig.system, job)
    assert info.due is not None
    assert 3_590_000 < info.due - rig.clock.now() <= 3_600_000
    rig.clock.advance(3_600_000)
    assert (await ended(rig, job)).result == b'"open"'


async def test_a_deadline_ends_an_attempt(make: Make) -> None:
    rig = await make(Limits(job_timeout=10_000))
    gate = Gate()
    once = JobPolicy(attempts=1)
    declare(rig.core, gate, "gate", jobs=once)
    declare(rig.core, gate, "own", timeout=60_000, jobs=once)
    rig.core.jobs.work()
    first, second = await submit(rig, "gate"), await submit(rig, "own")
    await until(lambda: len(gate.calls) == 2)
    rig.clock.advance(10_000)
    info = await ended(rig, first)
    assert (info.status, type(info.error)) == ("failed", DeadlineExceeded)
    assert (await rig.core.jobs.info(rig.system, second)).status == "running"
    rig.clock.advance(50_000)
    assert (await ended(rig, second)).status == "failed"


async def test_a_function_that_cancels_itself_has_failed(rig: Rig) -> None:
    declare(rig.core, Script(asyncio.CancelledError()), "script", jobs=JobPolicy(attempts=1))
    rig.core.jobs.work()
    info = await ended(rig, await submit(rig, "script"))
    assert info.status == "failed"
    assert isinstance(info.error, Internal)
    assert "cancelled from within" in info.error.detail


async def test_a_result_too_large_to_be_kept_has_failed(make: Make) -> None:
    rig = await make(Limits(message_size=1_000))
    declare(rig.core, Script("x" * 10_000), "script")
    rig.core.jobs.work()
    info = await ended(rig, await submit(rig, "script"))
    assert (info.status, type(info.error)) == ("failed", TooLarge)
    with pytest.raises(TooLarge):
        await submit(rig, "script", text="x" * 1_000)


async def test_a_result_that_nobody_can_write_has_failed(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    script = Script(object())
    declare(rig.core, script, "script")
    rig.core.jobs.work()
    info = await ended(rig, await submit(rig, "script"))
    assert (info.status, info.attempt) == ("failed", 1)
    assert isinstance(info.error, Internal)
    assert "cannot be written" in caplog.text


async def test_a_job_that_cannot_be_read_waits_and_holds_up_nobody(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    declare(rig.core, add)
    job = await submit(rig, "add", a=1, b=1)
    rig.core.jobs.table.put(job.encode(), b"not a job", new=False)
    await rig.core.log.committed()
    rig.core.jobs.work()
    await until(lambda: "waits on" in caplog.text)
    assert (await ended(rig, await submit(rig, "add", a=2, b=2))).result == b"4"
    assert rig.pending("add", "jobs") == 1


async def test_arguments_that_the_operation_no_longer_takes(rig: Rig) -> None:
    def refuse(payload: bytes) -> dict[str, Any]:
        raise Invalid("there is no such parameter")

    job = None
    for encoding in (None, refuse):
        operation = declare(rig.core, add)
        if encoding is None:
            job = await submit(rig, "add", old=1)
            await rig.crash_and_start()
        else:
            assert operation.encoding is not None
            operation.encoding = operation.encoding._replace(read_arguments=encoding)
            rig.core.jobs.work()
    assert job is not None
    info = await ended(rig, job)
    assert (info.status, type(info.error)) == ("failed", Invalid)


async def test_jobs_of_an_operation_that_is_gone_wait_and_are_named(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    declare(rig.core, add)
    job = await submit(rig, "add", a=1, b=1)
    await rig.crash_and_start()
    rig.core.jobs.work()
    assert "1 jobs wait for operation add" in caplog.text
    assert (await rig.core.jobs.info(rig.system, job)).status == "waiting"
    with pytest.raises(NotFound):
        await submit(rig, "add", a=1, b=1)
    await rig.crash_and_start()
    declare(rig.core, add)
    rig.core.jobs.work()
    assert (await ended(rig, job)).result == b"2"


async def test_what_is_no_job(rig: Rig) -> None:
    declare_stream(rig.core, count)
    declare(rig.core, add, "unkept", encoding=None)
    for name in ("count", "unkept"):
        with pytest.raises(Unsupported):
            await submit(rig, name)
    for unknown in ("", "nothing", "x" * 10_000, "\udc80", "é", "\0"):
        with pytest.raises(NotFound):
            await rig.core.jobs.info(rig.system, unknown)
        with pytest.raises(NotFound):
            await rig.core.jobs.cancel(rig.system, unknown)


async def test_a_full_hub_takes_no_jobs_and_runs_those_it_has(rig: Rig) -> None:
    gate = Gate()
    declare(rig.core, gate, "gate")
    rig.core.jobs.work()
    job = await submit(rig, "gate")
    await until(lambda: gate.calls)
    rig.core.log.full = "the hub holds its limit"
    with pytest.raises(Unavailable, match="holds its limit"):
        await submit(rig, "gate")
    gate.open.set()
    assert (await ended(rig, job)).status == "succeeded"


# --- whose job it is -------------------------------------------------------------------------------------------------


async def test_a_job_is_its_principals_and_theirs_who_may_manage_its_operation(rig: Rig) -> None:
    gate = Gate()
    declare(rig.core, gate, "gate")
    rig.core.jobs.work()
    who = await keys(
        rig.core, ann=["call:gate"], bob=["call:gate", "subscribe:#"], boss=["manage:gate"], other=["manage:add"]
    )
    jobs = rig.core.jobs
    job = await submit(rig, "gate", who["ann"])
    await until(lambda: gate.calls)
    for name in ("ann", "boss"):
        assert (await jobs.info(who[name], job)).status == "running"
        assert (await anext(jobs.follow(who[name], job))).type == "submitted"
    for name in ("bob", "other"):
        for refused in (jobs.info(who[name], job), jobs.cancel(who[name], job), anext(jobs.follow(who[name], job))):
            with pytest.raises(Denied):
                await refused
    with pytest.raises(Unauthenticated):
        await jobs.info(rig.core.access.anonymous, job)
    assert (await jobs.cancel(who["boss"], job)).status == "cancelled"


PRIVATE = ("_calls", "_jobs", "_replies")


async def filled(rig: Rig) -> str:
    """With a job that has ended, one that waits, and a reply that is kept; returns by which id the second waits."""
    declare(rig.core, add)
    rig.core.jobs.work()
    await ended(rig, await submit(rig, "add", a=1, b=1))
    due = rig.clock.now() + 60_000
    await rig.core.jobs.submit(rig.system, "add", {"a": 1, "b": 2}, due=due)
    await rig.core.calls.call(rig.system, "add", {"a": 1, "b": 2}, idempotency="k")
    [delayed], _ = await rig.core.delayed(rig.system, "_calls")
    return delayed.id


@pytest.mark.parametrize("who", ["admin", "named", "anonymous"])
async def test_what_others_asked_for_is_a_topic_for_nobody(rig: Rig, who: str) -> None:
    delay = await filled(rig)
    core = rig.core
    principal = core.access.anonymous  # of a hub that is open
    if who != "anonymous":
        named = [f"*:{topic}.#" for topic in PRIVATE]
        principal = (await keys(core, admin=["*:#"], named=[*named, "subscribe:#", "manage:#", "call:#"]))[who]
    for topic in PRIVATE:
        with pytest.raises(Denied, match="what others asked"):
            core.follow(principal, topic, Earliest(), Reader())
        with pytest.raises(Denied):
            core.topic_info(principal, topic)
        for refused in (
            core.read(principal, topic, Earliest()),
            core.message(principal, topic, Position(1, 0, 0)),
            core.latest(principal, topic, b".x"),
            core.latest_all(principal, topic),
            core.delayed(principal, topic),
            core.cancel_delayed(principal, topic, delay),
            core.cursors.commit(principal, topic, "r", Cursor(1, 0)),
            core.subscriptions.create(principal, SubscriptionSettings("s", [Source("t"), Source(topic, key="add")])),
        ):
            with pytest.raises(Denied):
                await refused
        with pytest.raises((Denied, Invalid)):
            await core.publish(principal, topic, [Record(b"{}", key=b"add")])
        with pytest.raises(Conflict, match="the hub's own"):
            await core.delete_topic(principal, topic)
    assert not {topic.name for topic in core.topics(principal)} & set(PRIVATE)
    await core.subscriptions.create(principal, SubscriptionSettings("all", [Source("#"), Source("*", key="add")]))
    await ended(rig, await submit(rig, "add", principal, a=1, b=3))
    assert not await core.subscriptions.peek(principal, "all")
    assert {topic.name for topic in core.topics(rig.system)} >= set(PRIVATE)


async def test_what_anonymous_callers_submit_is_theirs_who_know_its_id(rig: Rig) -> None:
    declare(rig.core, add)
    rig.core.jobs.work()
    anonymous = rig.core.access.anonymous
    job = await submit(rig, "add", anonymous, a=1, b=1)
    assert (await rig.core.jobs.info(anonymous, job, wait=5_000)).result == b"2"
    await keys(rig.core, ann=["call:add"])
    with pytest.raises(Unauthenticated):  # now that there are keys
        await rig.core.jobs.info(anonymous, job)


async def test_a_job_whose_key_was_revoked_fails(rig: Rig) -> None:
    declare(rig.core, add)
    who = await keys(rig.core, ann=["call:add"], bob=["call:add"])
    job = await submit(rig, "add", who["ann"], a=1, b=1)
    await rig.core.access.revoke_key(rig.system, "ann")
    with pytest.raises(Denied):
        await rig.core.jobs.info(who["ann"], job)
    rig.core.jobs.work()
    info = await ended(rig, job)
    assert (info.status, type(info.error)) == ("failed", Denied)
    assert info.error is not None
    assert "revoked" in info.error.detail
    await rig.crash_and_start()
    assert (await rig.core.jobs.info(rig.system, job)).status == "failed"


async def test_a_job_that_runs_ends_with_its_key(rig: Rig) -> None:
    gate = Gate()
    declare(rig.core, gate, "gate")
    rig.core.jobs.work()
    who = await keys(rig.core, ann=["call:#"], bob=["call:#"])
    hers, his = await submit(rig, "gate", who["ann"]), await submit(rig, "gate", who["bob"])
    await until(lambda: len(gate.calls) == 2)
    await rig.core.access.revoke_key(rig.system, "ann")
    info = await ended(rig, hers)
    assert (info.status, type(info.error), gate.cancelled) == ("failed", Denied, 1)
    assert (await rig.core.jobs.info(rig.system, his)).status == "running"
    gate.open.set()
    assert (await ended(rig, his)).status == "succeeded"
    assert not who["bob"]._watchers


# --- stopping --------------------------------------------------------------------------------------------------------


async def test_a_stopping_hub_lets_jobs_end_and_begins_none(rig: Rig) -> None:
    gate = Gate()
    declare(rig.core, gate, "gate", jobs=JobPolicy(concurrency=1))
    rig.core.jobs.work()
    first, second = await submit(rig, "gate"), await submit(rig, "gate")
    await until(lambda: gate.calls)
    followed = Followed(rig, second)
    await until(lambda: followed.got)
    stopping = asyncio.ensure_future(rig.core.jobs.stop(10))
    with pytest.raises(Unavailable):
        await followed.task
    gate.open.set()
    assert await stopping == []
    await rig.restart()
    declare(rig.core, Gate(), "gate")
    assert (await rig.core.jobs.info(rig.system, first)).status == "succeeded"
    assert (await rig.core.jobs.info(rig.system, second)).status == "waiting"
    assert len(gate.calls) == 1


async def test_what_does_not_end_in_time_is_cut_off_and_runs_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    declare(rig.core, gate, "gate")
    rig.core.jobs.work()
    job = await submit(rig, "gate")
    await until(lambda: gate.calls)
    await asyncio.gather(rig.core.jobs.stop(0.1), rig.core.calls.drain(0.1))
    assert gate.cancelled == 1
    assert "1 jobs of gate did not end" in caplog.text
    await rig.restart()
    again = Gate()
    declare(rig.core, again, "gate")
    rig.core.jobs.work()
    await until(lambda: again.calls)
    assert again.calls[0].attempt == 1
    again.open.set()
    assert (await ended(rig, job)).status == "succeeded"


# --- submitted twice -------------------------------------------------------------------------------------------------


async def test_a_repeated_submission_is_the_same_job(rig: Rig) -> None:
    script = Script("once", "twice")
    declare(rig.core, script, "script")
    rig.core.jobs.work()

    async def twice(**arguments: Any) -> str:
        due = rig.clock.now() + 10  # a delay is told anew with each repeat
        return (await rig.core.jobs.submit(rig.system, "script", arguments, due=due, idempotency="k")).id

    ids = await asyncio.gather(*[twice(x=1) for _ in range(20)])
    assert len(set(ids)) == 1
    assert (await ended(rig, ids[0])).result == b'"once"'
    with pytest.raises(Conflict, match="other arguments"):
        await twice(x=2)
    await rig.crash_and_start()
    declare(rig.core, script, "script")
    rig.core.jobs.work()
    assert await twice(x=1) == ids[0]
    await settled(rig)
    assert (len(script.calls), rig.core.jobs.table.count) == (1, 1)


# --- bounds ----------------------------------------------------------------------------------------------------------


async def test_results_are_forgotten_after_their_time(make: Make) -> None:
    rig = await make(Limits(job_retention=60_000))
    gate = Gate()
    declare(rig.core, add)
    declare(rig.core, gate, "gate")
    rig.core.jobs.work()
    done = [await submit(rig, "add", a=1, b=1) for _ in range(5)]
    running = await submit(rig, "gate")
    for job in done:
        await ended(rig, job)
    rig.clock.advance(60_001)
    with pytest.raises(NotFound):
        await rig.core.jobs.info(rig.system, done[0])
    await rig.round()
    assert rig.core.jobs.table.count == 1
    assert (await rig.core.jobs.info(rig.system, running)).status == "running"
    gate.open.set()
    assert (await ended(rig, running)).status == "succeeded"


async def test_no_more_jobs_are_kept_than_the_limit_says(make: Make) -> None:
    rig = await make(Limits(jobs=20))
    gate = Gate()
    declare(rig.core, add)
    declare(rig.core, gate, "gate")
    rig.core.jobs.work()
    for _ in range(200):  # those that have ended give way
        await ended(rig, await submit(rig, "add", a=1, b=1))
        assert rig.core.jobs.table.count <= 20
    for _ in range(20):
        await submit(rig, "gate")
    with pytest.raises(LimitExceeded, match="20"):
        await submit(rig, "gate")
    gate.open.set()
    await settled(rig)
    await submit(rig, "add", a=1, b=1)


async def test_what_waits_takes_next_to_no_memory(make: Make) -> None:
    rig = await make(Limits(tail_size=1))
    declare(rig.core, add)

    async def fill(count: int) -> None:
        for _ in range(count // 100):
            await asyncio.gather(*[submit(rig, "add", a=1, b=1) for _ in range(100)])
        await rig.quiet()

    await fill(500)
    gc.collect()
    tracemalloc.start()
    try:
        await fill(500)
        before = tracemalloc.get_traced_memory()[0]
        await fill(5_000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert rig.pending("add", "jobs") == 6_000
    assert grown < 250_000  # fifty bytes a job
    rig.core.jobs.work()
    await until(lambda: rig.pending("add", "jobs") == 0, seconds=30)
    await settled(rig)
