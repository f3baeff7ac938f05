"""What handlers are given, and which of them cannot be called."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest

from polywire import (
    Delivery,
    Depends,
    Hub,
    Message,
    Principal,
    Retry,
)
from polywire.testing import serve
from tests.application import (
    COLD,
    HOT,
    Opaque,
    Reading,
    dead_letters,
    make,
)


async def test_everything_that_is_injected() -> None:
    hub, readings = make()
    seen: list[tuple[Any, ...]] = []

    @hub.subscribe(readings)
    async def handle(
        reading: Reading, delivery: Delivery, message: Message[Reading], plain: Message, who: Principal, of: Hub
    ) -> None:
        seen.append((reading, message.value, plain.value))
        assert (delivery.attempt, delivery.redelivered) == (1, False)
        assert delivery.message.position == message.position
        assert who.name == "hub"
        assert of is hub

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
    assert seen == [(HOT, HOT, HOT)]


async def test_a_message_of_an_untyped_topic() -> None:
    hub = Hub()
    anything = hub.topic("anything")
    seen: list[Any] = []

    @hub.subscribe(anything)
    async def handle(message: Message[Reading]) -> None:
        seen.append(message.value)

    @hub.subscribe(anything)
    async def unread(message: Message) -> None:
        seen.append(message.payload)

    async with serve(hub) as t:
        await anything.publish({"sensor": "a", "celsius": 1})
        await t.settled()
        await anything.publish("no reading")
        await t.settled()
        assert Reading("a", 1.0) in seen
        assert seen.count(b'"no reading"') == 1
        (dead,) = await dead_letters(hub, "handle")
        assert dead["polywire-reason"].startswith("cannot be decoded")


async def test_a_handler_may_take_nothing() -> None:
    hub, readings = make()
    seen: list[int] = []

    @hub.subscribe(readings)
    async def handle() -> None:
        seen.append(1)

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
    assert seen == [1]


Log = list[str]
opened: Log = []


def note(text: str) -> str:
    opened.append(text)
    return text


def plain(delivery: Delivery) -> str:
    assert threading.current_thread() is not threading.main_thread()
    return note(f"plain {delivery.message.record.key!r}")


async def in_loop() -> str:
    return note("async")


def generator(inner: Annotated[str, Depends(plain)]) -> Iterator[str]:
    try:
        yield note(f"generator of {inner}")
    except ValueError:
        note("generator saw the error")
        raise
    finally:
        note("generator closed")


async def async_generator(inner: Annotated[str, Depends(plain)]) -> AsyncIterator[str]:
    try:
        yield note(f"async generator of {inner}")
    finally:
        note("async generator closed")


async def test_dependencies() -> None:
    hub, readings = make()
    opened.clear()

    @hub.subscribe(readings, retry=Retry(attempts=1))
    async def handle(
        reading: Reading,
        a: Annotated[str, Depends(plain)],
        b: Annotated[str, Depends(in_loop)],
        c: Annotated[str, Depends(generator)],
        d: Annotated[str, Depends(async_generator)],
    ) -> None:
        note(f"{a}, {b}")
        if reading == COLD:
            raise ValueError("too cold")

    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
        assert opened == [
            "plain b'kitchen'",
            "async",
            "generator of plain b'kitchen'",
            "async generator of plain b'kitchen'",
            "plain b'kitchen', async",
            "async generator closed",
            "generator closed",
        ]
        opened.clear()
        await readings.publish(COLD)
        await t.settled()
        assert opened[-3:] == ["async generator closed", "generator saw the error", "generator closed"]


def positional(reading: Reading, /) -> None: ...


def two_payloads(reading: Reading, other: int) -> None: ...


def unclaimed_dependency(missing: int) -> int:
    return missing


def with_unclaimed(reading: Reading, x: Annotated[int, Depends(unclaimed_dependency)]) -> None: ...


def opaque(value: Opaque) -> None: ...


def opaque_message(message: Message[list[Opaque]]) -> None: ...


def unknown_name(reading: Undefined) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "named", "parameter"),
    [
        (two_payloads, two_payloads, "other"),
        (with_unclaimed, unclaimed_dependency, "missing"),
        (opaque, opaque, "value"),
        (opaque_message, opaque_message, "message"),
        (positional, positional, "reading"),
        (unknown_name, unknown_name, "Undefined"),
    ],
)
async def test_what_cannot_be_called_fails_at_start_up(
    function: Callable[..., Any], named: Callable[..., Any], parameter: str
) -> None:
    hub, readings = make()
    hub.subscribe(readings)(function)
    with pytest.raises(TypeError) as caught:
        async with serve(hub):
            pass
    line = named.__code__.co_firstlineno
    assert f"{Path(__file__).name}:{line}: " in str(caught.value)
    assert parameter in str(caught.value)


async def test_batches_take_lists() -> None:
    for function in (one_by_one, one_delivery):
        hub, readings = make()
        hub.subscribe(readings, batch=5)(function)
        with pytest.raises(TypeError, match="must be a list"):
            await hub.start()


def one_by_one(reading: Reading) -> None: ...


def one_delivery(readings: list[Reading], delivery: Delivery) -> None: ...


class Limit:
    """A class as a dependency, and its objects as handlers."""

    def __init__(self, delivery: Delivery) -> None:
        self.key = delivery.message.record.key


class Recorder:
    def __init__(self) -> None:
        self.seen: list[tuple[Reading, bytes | None]] = []

    async def __call__(self, reading: Reading, limit: Annotated[Limit, Depends(Limit)]) -> None:
        self.seen.append((reading, limit.key))


async def note_into(seen: list[Reading], reading: Reading) -> None:
    seen.append(reading)


async def test_objects_classes_and_partials() -> None:
    hub, readings = make()
    recorder = Recorder()
    seen: list[Reading] = []
    hub.subscribe(readings, name="object")(recorder)
    hub.subscribe(readings, name="partial")(partial(note_into, seen))
    async with serve(hub) as t:
        await readings.publish(HOT)
        await t.settled()
    assert recorder.seen == [(HOT, b"kitchen")]
    assert seen == [HOT]
