"""A hub whose MQTT clients are busy while the power goes, and what is wrong with the one that comes up afterwards."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from polywire import Hub, Limits
from polywire.core.core import Core
from polywire.core.errors import NotFound, PolywireError
from polywire.core.streams import Earliest, Start
from polywire.engines.sqlite import SqliteEngine, SqliteSettings, verify
from polywire.serving import ServeSettings
from polywire.testing import Served, serve
from polywire.wires.mqtt import MqttSettings
from tests.crash.mqtt_journal import Entry
from tests.crash.mqtt_mortals import DELAYED
from tests.crash.mqtt_world import World

SETTINGS = SqliteSettings(reserve_size=0, checkpoint_interval=0.005, wal_limit=1 << 17)
READING = SqliteSettings(reserve_size=0, synchronous="OFF")


@contextlib.asynccontextmanager
async def serving(
    folder: Path, chance: random.Random, settings: SqliteSettings, vfs: str | None = None
) -> AsyncIterator[Served]:
    """A hub on a folder; with its log in memory or not, as it comes."""
    limits = Limits(checkpoint_interval=20, tail_size=chance.choice((1, 20_000, 64 << 20)))
    mqtt = MqttSettings(max_queued=1_000_000, in_flight=chance.choice((3, 20, 1_000)))
    engine = SqliteEngine(str(folder), settings=settings, vfs=vfs)
    given = ServeSettings(only=("mqtt",), mqtt=mqtt)
    async with serve(Hub("devices", limits=limits), settings=given, data=str(folder), engine=engine) as served:
        yield served


async def losses(image: Path, told: Sequence[Entry], chance: random.Random, patience: float = 20) -> list[str]:
    """What is wrong with the hub that comes up on an image, after ``told``. ``patience``: see `World`."""
    world = World(chance, told, strict=True, patience=patience)
    try:
        async with serving(image, chance, READING) as served:
            wrong = await world.recover(served.mqtt_port)
            served.clock.advance(2_000 * DELAYED)
            await served.hub.core.log.published()
            wrong += world.faults(await names(served.hub.core, "w"), await names(served.hub.core, "wills"))
    except (PolywireError, OSError, AssertionError) as error:
        return [f"the hub cannot be used: {error!r}"]
    return wrong + verify(str(image))["errors"]


async def names(core: Core, topic: str) -> list[str]:
    """The payloads of a topic, in order."""
    found: list[str] = []
    start: Start = Earliest()
    with contextlib.suppress(NotFound):
        while (page := await core.read(core.access.system, topic, start, limit=10_000, size=1 << 30)).messages:
            found += [message.record.payload.decode() for message in page.messages]
            start = page.next
    return found
