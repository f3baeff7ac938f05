"""What type checkers must accept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

from polywire import Delivery, Hub, Message, Receipt, Retry, Router, Topic

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
