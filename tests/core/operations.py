"""Operations and jobs for the tests of the core: functions of a `Call`, whose arguments and results are JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from polywire.core.access import Principal
from polywire.core.call import Call, Encoding, JobPolicy, Operation
from polywire.core.core import Core
from polywire.core.delivery import Backoff
from polywire.core.job import JobEvent, JobInfo
from tests.core.harness import Rig, until

JSON_ENCODING = Encoding(
    json.loads, lambda value: json.dumps(value).encode(), json.loads, lambda v: json.dumps(v).encode()
)
QUICK = JobPolicy(attempts=3, backoff=Backoff(first=1_000, factor=1, jitter=0), concurrency=10)


def declare(
    core: Core, function: Callable[[Call], Awaitable[Any]], name: str | None = None, **settings: Any
) -> Operation:
    """A function that is called with a `Call`, under its own name."""
    chosen = {"encoding": JSON_ENCODING, "jobs": QUICK, **settings}
    operation = Operation(name or function.__name__, invoke=function, **chosen)
    core.calls.declare(operation)
    return operation


def declare_stream(
    core: Core, function: Callable[[Call], AsyncIterator[Any]], name: str | None = None, **settings: Any
) -> Operation:
    operation = Operation(name or function.__name__, stream=function, **settings)
    core.calls.declare(operation)
    return operation


async def add(call: Call) -> int:
    return int(call.arguments["a"]) + int(call.arguments["b"])


class Gate:
    """An operation that waits until it is let through."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.calls: list[Call] = []
        self.cancelled = 0

    async def __call__(self, call: Call) -> str:
        self.calls.append(call)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "through"


async def count(call: Call) -> AsyncIterator[int]:
    for number in range(call.arguments["n"]):
        yield number


async def submit(rig: Rig, name: str, principal: Principal | None = None, /, **arguments: Any) -> str:
    return (await rig.core.jobs.submit(principal or rig.system, name, arguments)).id


async def ended(rig: Rig, id: str) -> JobInfo:
    return await asyncio.wait_for(rig.core.jobs.info(rig.system, id, wait=3_600_000), 10)


async def settled(rig: Rig) -> None:
    """What was handed out is begun and ended; what waits for its time waits."""
    await until(lambda: not rig.core.jobs.running and not any(s.busy for s in rig.core.subscriptions))
    await rig.quiet()


class Script:
    """An operation that does one thing after the other, attempt by attempt: raises it, or returns it."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[Call] = []

    async def __call__(self, call: Call) -> Any:
        self.calls.append(call)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class Followed:
    """Keeps the events of a job until its end."""

    def __init__(self, rig: Rig, id: str, after: str | None = None, principal: Principal | None = None) -> None:
        self.id = id
        self.got: list[JobEvent] = []
        self._events = rig.core.jobs.follow(principal or rig.system, id, after=after)
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        async for event in self._events:
            self.got.append(event)

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.got]


async def keys(core: Core, **allow: list[str]) -> dict[str, Principal]:
    made = {}
    for name, permissions in allow.items():
        _, secret = await core.access.create_key(core.access.system, name, permissions)
        made[name] = core.access.authenticate(secret)
    return made
