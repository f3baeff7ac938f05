"""Declarations, in a hub and in routers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polywire import (
    Conflict,
    Delivery,
    Hub,
    Invalid,
    Message,
    Retry,
    Router,
)
from polywire.testing import serve
from tests.application import (
    COLD,
    HOT,
    Alert,
    Opaque,
    Reading,
    make,
    stored,
)


def test_declared_twice() -> None:
    hub, readings = make()
    with pytest.raises(ValueError, match="topic 'readings' is declared twice"):
        hub.topic("readings", Reading)

    def handle(reading: Reading) -> None: ...

    hub.subscribe(readings)(handle)
    line = handle.__code__.co_firstlineno
    with pytest.raises(ValueError, match=rf"test_router\.py:{line}: a subscription named 'handle' is declared twice"):
        hub.subscribe(readings)(handle)
    hub.subscribe(readings, name="other")(handle)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda hub: hub.topic("t", Opaque), "Opaque cannot be a message type"),
        (lambda hub: hub.topic("t", dict[str, Opaque]), "Opaque is neither"),
        (lambda hub: hub.topic("t", complex), "complex cannot be a message type"),
        (lambda hub: hub.topic("t", Reading, key="colour"), "'colour' is not a field of Reading (sensor, celsius)"),
        (lambda hub: hub.topic("t", int, key="colour"), "'colour' is not a field of int"),
        (lambda hub: hub.topic("t", bytes, key="colour"), "'colour' is not a field of bytes"),
        (lambda hub: hub.subscribe(len), "is there a pair of parentheses missing?"),
    ],
)
def test_bad_types(declare: Callable[[Hub], Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        declare(Hub())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "declare",
    [
        lambda hub: hub.topic("t", retention="soon"),
        lambda hub: hub.topic("t", retention=0),
        lambda hub: hub.topic("t", hard_limit=-1),
        lambda hub: hub.subscribe("t", start="yesterday"),
    ],
)
def test_bad_values(declare: Callable[[Hub], Any]) -> None:
    with pytest.raises(Invalid):
        declare(Hub())


@pytest.mark.parametrize(
    "options",
    [{"batch": 0}, {"concurrency": 0}, {"ack": "never"}, {"ack": "manual", "batch": 2}],
)
def test_options_that_do_not_go(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|ack"):
        Hub().subscribe("t", **options)(lambda: None)
    with pytest.raises(ValueError, match="at least one topic"):
        Hub().subscribe()


async def test_a_reserved_topic_name() -> None:
    hub = Hub()
    hub.topic("amq.mine")
    with pytest.raises(Invalid, match="reserved"):
        async with serve(hub):
            pass


async def test_declaring_after_the_start() -> None:
    hub, readings = make()
    async with serve(hub):
        with pytest.raises(RuntimeError, match="has started"):
            hub.topic("late")
        with pytest.raises(RuntimeError, match="has started"):
            hub.subscribe(readings)(lambda: None)


async def test_a_changed_subscription_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Between two runs the sources, the retry policy and the handler itself may change; what was pending stays."""
    hub, readings = make()
    alerts = hub.topic("alerts", Alert)

    @hub.subscribe(readings, name="work", retry=Retry(attempts=2, first="1h"))
    async def first(reading: Reading) -> None:
        raise ValueError("not yet")

    async with serve(hub, data=str(tmp_path)) as t:
        await readings.publish(HOT)
        await t.settled()
    changed, readings = make()
    alerts = changed.topic("alerts", Alert)
    seen: list[Any] = []

    @changed.subscribe(alerts, name="work", retry=Retry(attempts=7))
    async def second(message: Message, delivery: Delivery) -> None:
        seen.append((message.topic, delivery.attempt))

    async with serve(changed, data=str(tmp_path)) as t:
        await readings.publish(COLD)
        await alerts.publish(Alert("a", "b"))
        t.clock.advance("2h")
        await t.settled()
        info = changed.core.subscriptions.info(changed.core.access.system, "work")
        assert (info.settings.attempts, [source.topic for source in info.sources]) == (7, ["alerts"])
    assert sorted(seen) == [("alerts", 1), ("readings", 2)]
    without, _ = make()
    caplog.clear()
    async with serve(without, data=str(tmp_path)):
        assert "subscription work has no handler any more" in caplog.text


async def test_another_durability_needs_another_topic(tmp_path: Path) -> None:
    hub = Hub()
    hub.topic("t")
    async with serve(hub, data=str(tmp_path)):
        pass
    other = Hub()
    other.topic("t", durability="memory")
    with pytest.raises(Conflict, match="declared memory"):
        async with serve(other, data=str(tmp_path)):
            pass


def test_settings() -> None:
    hub = Hub(data="here", strict=True)
    hub.configure(data=None, strict=False)
    assert (hub.settings.data, hub.settings.strict) == ("here", False)
    with pytest.raises(TypeError):
        hub.configure(colour="red")


async def test_a_router_has_a_prefix() -> None:
    billing = Router(prefix="billing.")
    invoices = billing.topic("invoices", Reading, key="sensor")
    alerts = billing.topic("alerts", Alert)

    @billing.subscribe(invoices, publish=alerts)
    async def check(reading: Reading) -> Alert:
        return Alert(reading.sensor, "checked")

    hub, _ = make()
    hub.include(billing)
    async with serve(hub) as t:
        await invoices.publish(HOT)
        await t.settled()
        assert (invoices.name, alerts.name) == ("billing.invoices", "billing.alerts")
        assert len(await stored(hub, "billing.alerts")) == 1
        assert hub.core.subscriptions.find("billing.check") is not None
        receipt = await asyncio.to_thread(invoices.send, COLD)
        assert receipt.topic == "billing.invoices"


async def test_a_router_without_a_hub() -> None:
    router = Router()
    alone = router.topic("alone")
    with pytest.raises(Invalid, match=r"not part of a hub"):
        await alone.publish(1)
    with pytest.raises(Invalid, match=r"not part of a hub"):
        alone.send(1)


def test_a_router_is_included_once_and_whole() -> None:
    hub, _ = make()
    router = Router()
    router.topic("fresh")
    twice = router.topic("readings")
    with pytest.raises(ValueError, match=r"topic 'readings' is declared twice: in the hub and in the router ''"):
        hub.include(router)
    with pytest.raises(ValueError, match="'readings' is declared twice"):
        router.topic(twice.name)
    assert [topic.name for topic in hub.topics] == ["readings"]
    other = Hub()
    other.include(router)
    with pytest.raises(ValueError, match="included already"):
        hub.include(router)
    with pytest.raises(RuntimeError, match=r"before hub\.include"):
        router.topic("late")


async def test_results_go_to_a_topic_of_the_same_hub() -> None:
    hub, readings = make()
    _, elsewhere = make()

    async def copy(reading: Reading) -> Reading:
        return reading

    hub.subscribe(readings, publish=elsewhere)(copy)
    line = copy.__code__.co_firstlineno
    with pytest.raises(TypeError, match=rf"test_router\.py:{line}: publish= is topic 'readings' of another hub"):
        await hub.start()


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"first": "soon"}, {"longest": "-1s"}])
def test_a_retry_policy_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, Invalid)):
        Retry(**wrong)
