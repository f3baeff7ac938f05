"""Jobs in Python: submitted, waited for, followed, cancelled, and had again by their id."""

from __future__ import annotations

import asyncio
import enum
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypedDict
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from polywire import (
    Call,
    Conflict,
    DeadlineExceeded,
    Denied,
    Depends,
    File,
    Hub,
    Invalid,
    Job,
    JobEvent,
    Limits,
    NotFound,
    Retry,
    Unavailable,
    Unsupported,
)
from polywire.testing import serve
from tests.application import until


@dataclass
class Report:
    title: str
    pages: int


async def test_a_job_gives_what_the_operation_answers(tmp_path: Path) -> None:
    hub = Hub("test", data=tmp_path)

    @hub.operation
    async def report(title: str, pages: int = 3) -> Report:
        return Report(title, pages)

    @hub.operation
    def nothing() -> None: ...

    @hub.operation
    def raw(size: int) -> bytes:
        return b"\xff" * size

    @hub.operation
    def whole(report: Report) -> str:
        return report.title

    async with hub:
        job = await report.submit("Sales", pages=7)
        assert repr(job) == f"<Job {job.id}>"
        assert await job.result() == Report("Sales", 7)
        assert await job.status() == "succeeded"
        assert await hub.job(job.id).result(0) == Report("Sales", 7)
        assert await (await nothing.submit()).result() is None
        assert await (await raw.submit(3)).result() == b"\xff\xff\xff"
        assert await (await whole.submit(Report("Whole", 1))).result() == "Whole"
        assert await (await whole.submit(title="Fields", pages=1)).result() == "Fields"
        info = await job.info()
        assert (info.operation, info.principal, info.result) == ("report", "hub", b'{"title":"Sales","pages":7}')
        with pytest.raises(Invalid):
            await report.submit("Sales", pages="many")
        with pytest.raises(NotFound):
            await hub.job("nothing").status()


async def test_it_raises_what_the_job_failed_with(tmp_path: Path) -> None:
    hub = Hub("test", data=tmp_path)

    @hub.operation
    async def fail() -> None:
        raise Denied("not you", hint="ask somebody else")

    async with hub:
        job = await fail.submit()
        with pytest.raises(Denied, match="not you") as told:
            await job.result(10)
        assert told.value.hint == "ask somebody else"
        with pytest.raises(Conflict, match="failed"):
            await job.cancel()


async def test_waiting_has_an_end_and_so_has_the_hub(tmp_path: Path) -> None:
    hub = Hub("test", limits=Limits(drain=400))
    begun = asyncio.Event()

    @hub.operation
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with serve(hub, data=str(tmp_path)) as t:
        job = await endless.submit()
        await begun.wait()
        with pytest.raises(DeadlineExceeded, match="running"):
            await job.result(0)
        waiting = asyncio.ensure_future(job.result("10m"))
        await asyncio.sleep(0.01)
        t.clock.advance("10m")
        with pytest.raises(DeadlineExceeded):
            await waiting
        for_ever = asyncio.ensure_future(job.result())
        await asyncio.sleep(0.01)
        await job.cancel()
        with pytest.raises(Conflict, match="cancelled"):
            await for_ever
        again = await endless.submit()
        for_ever = asyncio.ensure_future(again.result())
        await asyncio.sleep(0.01)
    with pytest.raises(Unavailable):
        await for_ever


async def test_events_as_values(tmp_path: Path) -> None:
    hub = Hub("test")
    went_on = asyncio.Event()

    @hub.operation(retry=Retry(attempts=2, first="30s", jitter=0))
    async def build(call: Call) -> Report:
        call.progress({"attempt": call.attempt})
        await went_on.wait()
        if call.attempt == 1:
            raise Unavailable("the printer is out of paper")
        return Report("Sales", 3)

    async with serve(hub, data=str(tmp_path)) as t:
        job = await build.submit()
        events: list[JobEvent] = []

        async def follow() -> None:
            async for event in job.events():
                events.append(event)
                if event.type == "progress":
                    went_on.set()

        following = asyncio.ensure_future(follow())
        await until(lambda: events and events[-1].type == "retrying")
        retrying = events[-1]
        assert isinstance(retrying.error, Unavailable)
        assert retrying.due is not None
        assert timedelta(seconds=29) < retrying.due - retrying.time <= timedelta(seconds=31)
        t.clock.advance("30s")
        await following
        assert [event.type for event in events] == [
            "submitted", "started", "progress", "retrying", "started", "progress", "succeeded",
        ]  # fmt: skip
        assert [event.progress for event in events if event.progress] == [{"attempt": 1}, {"attempt": 2}]
        assert events[-1].result == Report("Sales", 3)
        assert abs(events[0].time - datetime.now(UTC)) < timedelta(seconds=30)
        assert [event async for event in job.events(after=events[4].cursor)] == events[5:]
        with pytest.raises(NotFound):
            await anext(hub.job("nothing").events())


async def test_a_delay_and_settled(tmp_path: Path) -> None:
    hub = Hub("test")
    ran: list[int] = []

    @hub.operation
    async def work(number: int) -> int:
        await asyncio.sleep(0.02)
        ran.append(number)
        return number

    async with serve(hub, data=str(tmp_path)) as t:
        now, later = await work.submit(1), await work.submit(2, delay="10m")
        await t.settled()
        assert ran == [1]
        assert (await now.status(), await later.status()) == ("succeeded", "waiting")
        t.clock.advance("10m")
        await t.settled()
        assert ran == [1, 2]
        assert await later.result(0) == 2


async def test_submitted_twice_with_one_key(tmp_path: Path) -> None:
    hub = Hub("test", data=tmp_path)
    ran: list[int] = []

    @hub.operation
    async def charge(cents: int) -> int:
        ran.append(cents)
        return cents

    async with hub:
        jobs = [await charge.submit(5, idempotency_key="order 7") for _ in range(3)]
        assert len({job.id for job in jobs}) == 1
        await jobs[0].result()
        with pytest.raises(Conflict):
            await charge.submit(6, idempotency_key="order 7")
    assert ran == [5]


async def test_submitted_for_somebody_else(tmp_path: Path) -> None:
    hub = Hub("test", data=tmp_path)

    @hub.operation
    async def export(call: Call) -> str:
        return call.principal.name

    @hub.operation
    async def start(call: Call) -> str:
        return (await export.submit(principal=call.principal)).id

    async with hub:
        access = hub.core.access
        _, secret = await access.create_key(access.system, "ann", ["call:#"])
        _, other = await access.create_key(access.system, "bob", ["call:start"])
        ann, bob = access.authenticate(secret), access.authenticate(other)
        job = await hub.core.calls.call(ann, "start", {})
        assert await hub.job(job).result() == "ann"
        assert (await hub.core.jobs.info(ann, job)).status == "succeeded"
        with pytest.raises(Denied):  # with their rights, not the application's
            await hub.core.calls.call(bob, "start", {})


def connection() -> list[str]:
    return []


async def test_plain_functions_and_dependencies(tmp_path: Path) -> None:
    hub = Hub("test", data=tmp_path)

    @hub.operation(concurrency=2)
    def work(number: int, call: Call, db: Annotated[list[str], Depends(connection)]) -> str:
        call.progress(number)
        return f"{number} in {threading.current_thread().name}, attempt {call.attempt}, {db}"

    @hub.operation
    def start(number: int) -> str:
        job: Job[str] = hub.run_from_thread(work.submit(number))
        return hub.run_from_thread(job.result(10))

    async with hub:
        said = await hub.call(start, 7)
        assert said.startswith("7 in test-handler-")
        assert said.endswith(", attempt 1, []")


async def test_what_streams_is_no_job(tmp_path: Path) -> None:
    hub = Hub("test", data=tmp_path)

    @hub.operation
    async def count(to: int) -> AsyncIterator[int]:
        yield to

    async with hub:
        with pytest.raises(Unsupported):
            await count.submit(1)


async def test_jobs_outlive_the_hub_and_the_operation_its_application(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def made() -> tuple[Hub, list[str]]:
        hub, ran = Hub("test", data=tmp_path, limits=Limits(drain=400)), list[str]()

        @hub.operation
        async def work(what: str) -> str:
            ran.append(what)
            if what == "long" and len(ran) == 1:
                await asyncio.Event().wait()
            return f"{what} done"

        return hub, ran

    hub, ran = made()
    async with hub:
        job = await hub._operations["work"].submit("long")
        await until(lambda: ran)
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    async with Hub("test", data=tmp_path) as without:
        assert "1 jobs wait for operation work" in caplog.text
        assert await without.job(job.id).status() == "waiting"
    hub, ran = made()
    ran.append("x")
    async with hub:
        assert await hub.job(job.id).result(10) == "long done"
    async with Hub("test", data=tmp_path) as without:
        assert await without.job(job.id).result() == "long done"


class Colour(enum.Enum):
    RED = "red"


class Part(TypedDict):
    size: int


class Point(msgspec.Struct):
    x: int


@attrs.define
class Person:
    name: str


class Model(pydantic.BaseModel):
    when: datetime
    parts: list[int]


async def test_arguments_of_every_kind_survive_the_wait(tmp_path: Path) -> None:
    hub = Hub("test", data=tmp_path)
    got: list[dict[str, Any]] = []

    @hub.operation
    async def take(
        *,
        colour: Colour,
        part: Part,
        point: Point,
        person: Person,
        model: Model,
        report: Report,
        file: File,
        data: bytes,
        price: Decimal,
        id: UUID,
        when: datetime,
        day: date,
        optional: int | None,
        many: dict[str, list[Point]],
    ) -> Model:
        got.append(dict(locals()))
        return model

    when = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
    arguments: dict[str, Any] = {
        "colour": Colour.RED, "part": {"size": 1}, "point": Point(1), "person": Person("Ann"),
        "model": Model(when=when, parts=[2]), "report": Report("Sales", 1),
        "file": File(b"\xff\x00", "a.bin", "application/x"), "data": b"\xfe\x00", "price": Decimal("1.10"),
        "id": UUID(int=7), "when": when, "day": date(2026, 2, 3), "optional": None, "many": {"a": [Point(2)]},
    }  # fmt: skip
    async with hub:
        job = await take.submit(**arguments)
        assert await job.result(10) == arguments["model"]
        again = await take.submit(**arguments, idempotency_key="k")
        assert (await take.submit(**arguments, idempotency_key="k")).id == again.id
        await again.result(10)
    for taken in got:
        assert {name: taken[name] for name in arguments} == arguments
    assert len(got) == 2
