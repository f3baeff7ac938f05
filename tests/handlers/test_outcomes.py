"""What a handler says, and what becomes of its message."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from polywire import (
    Again,
    Delivery,
    Hub,
    Reject,
    Retry,
)
from polywire.testing import serve
from tests.application import (
    COLD,
    HOT,
    Alert,
    Reading,
    dead_letters,
    make,
    payloads,
    post,
    stored,
    until,
)


async def test_a_plain_function_runs_in_a_thread() -> None:
    hub, readings = make()
    alerts = hub.topic("alerts", Alert)
    threads: list[str] = []

    @hub.subscribe(readings)
    def handle(reading: Reading) -> None:
        threads.append(threading.current_thread().name)
        alerts.send(Alert(reading.sensor, "sent from a thread"))

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        assert len(await stored(hub, "alerts")) == 1
    assert threads[0].startswith("test-handler")


async def test_a_result_is_published_with_the_acknowledgement() -> None:
    hub, readings = make()
    alerts = hub.topic("alerts", Alert, key="sensor")

    @hub.subscribe(readings, publish=alerts)
    async def watch(reading: Reading) -> Alert | list[Alert] | None:
        if reading.celsius < 0:
            return [Alert("a", "1"), Alert("b", "2")]
        return Alert(reading.sensor, "hot") if reading.celsius > 40 else None

    async with serve(hub) as t:
        commits = hub.core.log.commits
        await readings.publish(HOT)
        await t.settled()
        assert hub.core.log.commits - commits == 2  # the reading; the alert with the acknowledgement
        assert await payloads(hub, "alerts") == [b'{"sensor":"kitchen","text":"hot"}']
        await readings.publish(COLD)
        await readings.publish(Reading("x", -1))
        await t.settled()
        assert [m.record.key for m in await stored(hub, "alerts")] == [b"kitchen", b"a", b"b"]
        info = hub.core.subscriptions.info(hub.core.access.system, "watch")
        assert (info.pending, info.acked) == (0, 3)


async def test_a_list_may_be_one_result() -> None:
    hub, readings = make()
    lists = hub.topic("lists", list[int])

    @hub.subscribe(readings, publish=lists)
    async def numbers(reading: Reading) -> list[int]:
        return [1, 2]

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        assert await payloads(hub, "lists") == [b"[1,2]"]


async def test_a_result_of_the_wrong_type_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    hub, readings = make()
    alerts = hub.topic("alerts", Alert)

    async def watch(reading: Reading) -> Any:
        return {"sensor": 5}

    hub.subscribe(readings, publish=alerts, retry=Retry(attempts=1))(watch)
    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        assert await stored(hub, "alerts") == []
        (dead,) = await dead_letters(hub, "watch")
        assert dead["polywire-reason"] == "gave up after 1 attempts"
    assert "handler watch failed" in caplog.text


async def test_reject() -> None:
    hub, readings = make()

    @hub.subscribe(readings)
    async def handle(reading: Reading) -> None:
        raise Reject("out of range")

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        (dead,) = await dead_letters(hub, "handle")
        assert dead["polywire-reason"] == "out of range"
        assert dead["polywire-topic"] == "readings"
        assert dead["polywire-attempts"] == 1


async def test_again() -> None:
    hub, readings = make()
    attempts: list[int] = []

    @hub.subscribe(readings)
    async def handle(reading: Reading, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt < 3:
            raise Again(after="30s")

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        assert attempts == [1]
        t.clock.advance("29s")
        await t.settled()
        assert attempts == [1]
        t.clock.advance("2s")
        await t.settled()
        t.clock.advance("31s")
        await t.settled()
        assert attempts == [1, 2, 3]
        assert await dead_letters(hub, "handle") == []


async def test_a_failure_is_tried_again_and_given_up(caplog: pytest.LogCaptureFixture) -> None:
    hub, readings = make()
    attempts: list[int] = []

    @hub.subscribe(readings, retry=Retry(attempts=3, first="10s", factor=3, jitter=0))
    async def handle(reading: Reading, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise ValueError("broken")

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        for pause, expected in (("9s", 1), ("1100ms", 2), ("29s", 2), ("2s", 3)):
            t.clock.advance(pause)
            await t.settled()
            assert len(attempts) == expected, pause
        (dead,) = await dead_letters(hub, "handle")
        assert (dead["polywire-reason"], dead["polywire-attempts"]) == ("gave up after 3 attempts", 3)
    assert attempts == [1, 2, 3]
    assert "ValueError: broken" in caplog.text


async def test_what_cannot_be_decoded_is_a_dead_letter_at_once() -> None:
    hub = Hub()
    anything = hub.topic("anything")
    seen: list[Reading] = []

    @hub.subscribe(anything)
    async def handle(reading: Reading) -> None:
        seen.append(reading)

    async with serve(hub) as t:
        await anything.publish({"sensor": "a", "celsius": "warm"})
        await anything.publish(b"\xff\x00")
        await anything.publish({"sensor": "a", "celsius": 1})
        await t.settled()
        dead = await dead_letters(hub, "handle")
        assert [letter["polywire-attempts"] for letter in dead] == [1, 1]
        assert "$.celsius" in dead[0]["polywire-reason"]
    assert seen == [Reading("a", 1)]


async def test_manual_acknowledgement() -> None:
    hub, readings = make()
    held: list[Delivery] = []

    @hub.subscribe(readings, ack="manual")
    async def handle(reading: Reading, delivery: Delivery) -> None:
        held.append(delivery)

    async with serve(hub) as t:
        await readings.publish_many([HOT, COLD])
        await until(lambda: len(held) == 2)
        with pytest.raises(TimeoutError, match=r"handle \(2 pending\)"):
            await t.settled(0.05)
        assert held[0].ack()
        assert held[1].reject("not wanted")
        await t.settled()
        assert len(await dead_letters(hub, "handle")) == 1


async def test_something_cancelled_that_a_handler_waits_for_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    """It must not end the worker: the next message would never be handled."""
    hub, readings = make()
    seen: list[Reading] = []

    @hub.subscribe(readings, retry=Retry(attempts=1))
    async def handle(reading: Reading) -> None:
        if reading == HOT:
            waiting = asyncio.get_running_loop().create_future()
            waiting.cancel()
            await waiting
        seen.append(reading)

    async with serve(hub) as t:
        await readings.publish_many([HOT, COLD])
        await t.settled()
        assert len(await dead_letters(hub, "handle")) == 1
    assert seen == [COLD]
    assert "handler handle failed" in caplog.text


@dataclass
class Checked:
    """Its own check raises something unexpected."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise LookupError(f"{self.number} is not listed")


async def test_a_type_that_refuses_a_value_in_its_own_way() -> None:
    hub = Hub()
    anything = hub.topic("anything")
    checked = hub.topic("checked", Checked)
    seen: list[Checked] = []

    @hub.subscribe(anything)
    async def handle(value: Checked) -> None:
        seen.append(value)

    async with serve(hub) as t:
        await anything.publish_many([{"number": -1}, {"number": 1}])
        await t.settled()
        (dead,) = await dead_letters(hub, "handle")
        assert "LookupError: -1 is not listed" in dead["polywire-reason"].replace("'", "")
        assert seen == [Checked(1)]
        status, problem = await post(t, "checked", {"number": -1})
        assert (status, "not listed" in problem["detail"]) == (400, True)
        assert checked.name == "checked"
