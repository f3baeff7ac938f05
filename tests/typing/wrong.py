"""What type checkers must refuse: each line that is marked ``wrong`` is one error, and no other line is."""

from __future__ import annotations

from polywire import Delivery, Hub
from tests.typing.right import Alert, Reading, alerts, ignored_result, numbers, plain, readings, watch

hub = Hub()


async def use(delivery: Delivery) -> None:
    await readings.publish(Alert("a", "b"))  # wrong
    await readings.publish_many([Alert("a", "b")])  # wrong
    readings.send(Alert("a", "b"))  # wrong
    await numbers.publish("one")  # wrong
    await readings.publish(Reading("a", 1.0), colour="red")  # wrong
    async for message in readings.follow():
        message.value.text  # wrong # noqa: B018
    await watch(Alert("a", "b"))  # wrong
    plain()  # wrong
    await ignored_result("one", delivery)  # wrong
    hub.topic("t", Reading, durability="eternal")  # wrong


@hub.subscribe(readings, publish=alerts)  # wrong
async def of_readings(reading: Reading) -> Reading:
    return reading


@hub.subscribe(readings, publish=numbers)  # wrong
def of_text(reading: Reading) -> list[str]:
    return [reading.sensor]


@hub.subscribe(readings, publish=alerts, ack="manual")  # wrong
async def manual(reading: Reading, delivery: Delivery) -> None: ...
