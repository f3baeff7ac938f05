"""What type checkers must accept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, assert_type

from polywire import Call, Delivery, Hub, Job, JobEvent, Message, Operation, Receipt, Retry, Router, Topic

hub = Hub("typed")
router = Router(prefix="more.")


@dataclass
class Reading:
    sensor: str
    celsius: float


@dataclass
class Alert:
    sensor: str
    text: str


readings = hub.topic("readings", Reading, key="sensor", retention="7d")
alerts = hub.topic("alerts", Alert, key="sensor")
anything = hub.topic("anything")
numbers = router.topic("numbers", int)

assert_type(readings, Topic[Reading])
assert_type(numbers, Topic[int])


@hub.subscribe(readings, publish=alerts, retry=Retry(attempts=5))
async def watch(reading: Reading) -> Alert | None:
    return Alert(reading.sensor, "hot") if reading.celsius > 40 else None


@hub.subscribe(readings, publish=alerts)
def plain(reading: Reading) -> Alert:
    return Alert(reading.sensor, "seen")


@hub.subscribe(readings, "other", publish=alerts, batch=10)
async def several(readings: list[Reading]) -> list[Alert]:
    return [Alert(reading.sensor, "seen") for reading in readings]


@hub.subscribe(readings, publish=anything)
async def to_anything(reading: Reading) -> dict[str, int]:
    return {reading.sensor: 1}


@router.subscribe(numbers)
async def ignored_result(number: int, delivery: Delivery, again: bool = False) -> str:
    return f"{number}{delivery.attempt}{again}"


@hub.subscribe(readings)
def manual(message: Message[Reading]) -> None:
    assert_type(message.value, Reading)


@router.subscribe(numbers, ack="manual", ordered=True)
def nothing(number: int) -> str:
    return str(number)


async def use(delivery: Delivery) -> None:
    assert_type(await readings.publish(Reading("a", 1.0)), Receipt)
    assert_type(await readings.publish_many([Reading("a", 1.0)]), list[Receipt])
    assert_type(readings.send(Reading("a", 1.0), delay="10m"), Receipt)
    await anything.publish(object())
    async for message in readings.follow("earliest"):
        assert_type(message, Message[Reading])
        assert_type(message.value, Reading)
    # Decorated functions keep their signature.
    assert_type(await watch(Reading("a", 1.0)), Alert | None)
    assert_type(plain(reading=Reading("a", 1.0)), Alert)
    assert_type(await several([Reading("a", 1.0)]), list[Alert])
    assert_type(await ignored_result(1, delivery, again=True), str)
    assert_type(nothing(1), str)


@hub.operation
def add(a: int, b: int = 1) -> int:
    return a + b


@router.operation(name="later", safe=True, timeout="5m", retry=Retry(attempts=2), concurrency=3)
async def fetch(sensor: str, call: Call) -> Reading:
    call.progress({"sensor": sensor})
    return Reading(sensor, 1.0)


@hub.operation
async def watch_all(sensor: str) -> AsyncIterator[Reading]:
    yield Reading(sensor, 1.0)


@hub.get("/readings/{sensor}")
async def reading(sensor: str) -> Reading | None:
    return None


@hub.post("/readings", status=201, timeout=5, name="create", retry=None)
def create(reading: Reading) -> Reading:
    return reading


@hub.every("1h")
async def tidy(hub: Hub) -> None: ...


@hub.middleware
async def around(occasion: Delivery | Call, call_next: Callable[[], Awaitable[Any]]) -> Any:
    return await call_next()


async def use_operations(call: Call) -> None:
    # They keep their signature.
    assert_type(add(1), int)
    assert_type(add(a=1, b=2), int)
    assert_type(await fetch("a", call), Reading)
    assert_type(await reading(sensor="a"), Reading | None)
    async for item in watch_all("a"):
        assert_type(item, Reading)
    assert_type(add.name, str)
    assert_type(await hub.call(add, 1, 2), int)
    assert_type(await hub.call(fetch, "a"), Reading)
    assert_type(await hub.call("add", a=1, b=2), Any)
    assert_type(await add.submit(1, 2, delay="10m"), Job[int])
    job = await fetch.submit("a", idempotency_key="k", principal=call.principal)
    assert_type(job, Job[Reading])
    assert_type(await job.result(wait="30s"), Reading)
    async for event in job.events():
        assert_type(event, JobEvent)
    assert_type(hub.job("id"), Job[Any])
    async for _ in hub.stream(watch_all, "a"):
        pass
    assert_type(call.remaining, float | None)
    await tidy(hub)
    operation: Operation[..., int] = add
    assert_type(operation(1), int)
