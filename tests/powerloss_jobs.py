"""Jobs and idempotent calls of a hub whose power goes: what was told of them, and what an image of its disk holds."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from polywire.core.call import Call, Encoding, Operation
from polywire.core.core import Core
from polywire.core.errors import NotFound

HOUR = 3_600_000
JSON = Encoding(json.loads, lambda value: json.dumps(value).encode(), json.loads, lambda v: json.dumps(v).encode())


class Told(NamedTuple):
    """``what``: submitted, ended, replied. ``id``: the job's, or the idempotency key. ``result``: of the last two."""

    what: str
    id: str
    result: str


def declare(core: Core) -> None:
    """Before the start. A result is never the same twice: nothing that runs again goes unseen."""

    async def run(call: Call) -> str:
        await asyncio.sleep(0)
        return call.id

    for name in ("work", "charge"):
        core.calls.declare(Operation(name, invoke=run, encoding=JSON))


class JobLoad:
    """Clients of a core; ``tell`` takes what they were told."""

    def __init__(self, core: Core, tell: Callable[[str, str, str, str], None]) -> None:
        self._core = core
        self._tell = tell
        self._submitted: asyncio.Queue[str] = asyncio.Queue()

    async def submit(self) -> None:
        core = self._core
        for number in itertools.count():
            due = core.clock.now() + HOUR if number % 4 == 0 else None
            job = await core.jobs.submit(core.access.system, "work", {"number": number}, due=due)
            self._tell("submitted", "jobs", job.id, "")
            if due is None:
                self._submitted.put_nowait(job.id)

    async def watch(self) -> None:
        core = self._core
        while True:
            try:
                job = await core.jobs.info(core.access.system, await self._submitted.get(), wait=1_000)
            except NotFound:  # a hub that tells too early: its image is what convicts it
                continue
            if job.status == "succeeded" and job.result is not None:
                self._tell("ended", "jobs", job.id, json.loads(job.result))

    async def charge(self, name: str) -> None:
        core = self._core
        for number in itertools.count():
            key = f"{name} {number}"
            reply = await core.calls.call(core.access.system, "charge", {"key": key}, idempotency=key)
            self._tell("replied", "jobs", key, reply)


async def wrong_jobs(core: Core, told: Sequence[Told]) -> list[str]:
    """What is not as it was told, on a core that runs no jobs."""
    wrong: list[str] = []
    waiting = await _waiting(core)
    for one in told:
        if one.what == "replied":
            reply = await core.calls.call(core.access.system, "charge", {"key": one.id}, idempotency=one.id)
            if reply != one.result:
                wrong.append(f"{one} was run again")
            continue
        try:
            job = await core.jobs.info(core.access.system, one.id)
        except NotFound:
            wrong.append(f"{one} is lost")
            continue
        if waiting[one.id] != (job.ended is None):
            wrong.append(f"{one}: {job.status}, and waits {waiting[one.id]} times")
        if one.what == "ended" and (job.result is None or json.loads(job.result) != one.result):
            wrong.append(f"{one} has not ended so: {job}")
    return wrong


async def _waiting(core: Core) -> Counter[str]:
    """Jobs, in the queue or for their time."""
    who, found = core.access.system, Counter[str]()
    if core.subscriptions.find("work", "jobs") is not None:
        peeked = await core.subscriptions.peek(who, "work", kind="jobs", limit=100_000)
        found.update(one.message.record.id for one in peeked)
    if core.catalog.get("_calls") is not None:
        delayed, _ = await core.delayed(who, "_calls", limit=100_000, size=1 << 30)
        found.update(one.record.id for one in delayed if one.record is not None)
    return found
