"""What type checkers must refuse: each line that is marked ``wrong`` is one error, and no other line is."""

from __future__ import annotations

from polywire import Call, Delivery, Hub
from tests.typing.right import (
    Alert,
    Reading,
    add,
    alerts,
    create,
    fetch,
    ignored_result,
    numbers,
    plain,
    reading,
    readings,
    tidy,
    watch,
)

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


async def use_operations(call: Call) -> None:
    add("one")  # wrong
    add(1, c=2)  # wrong
    await fetch("a")  # wrong
    (await reading("a")).celsius  # wrong # noqa: B018
    create(Alert("a", "b"))  # wrong
    text: str = await hub.call(add, 1)  # wrong
    number: int = await hub.call(fetch, "a")  # wrong
    (await add.submit(1)).result(wait=object())  # wrong
    words: str = await (await add.submit(1)).result()  # wrong
    await add.submit(1, delay=[1])  # wrong
    hub.operation(colour="red")  # wrong
    hub.post("/x", colour="red")  # wrong
    await tidy()  # wrong
    call.deadline = "soon"  # wrong
    print(text, number, words)  # noqa: T201
