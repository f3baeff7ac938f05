"""Devices that have a will: they come, and go with or without a word, or come again without having gone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from tests.crash.mqtt_device import read_packet
from tests.crash.mqtt_journal import Entry, Journal
from tests.crash.mqtt_record import Life
from tests.wires.mqtt import raw_client as raw

__all__ = ["DELAYED", "HUB", "Mortal", "lives_of"]

DELAYED = 1_000
"""Seconds that a delayed will waits."""
HUB = Entry("hub", "starts")
_LONGEST = 0.05  # seconds of a life


class Mortal:
    """``delay``: of its will, in seconds; then its name ends in ``!``."""

    def __init__(
        self, name: str, level: int, lasting: bool, delay: int, journal: Journal, chance: random.Random
    ) -> None:
        self.name = f"{name}!" if delay else name
        self._level = level
        self._lasting = lasting
        self._delay = delay
        self._journal = journal
        self._chance = chance
        self._writer: asyncio.StreamWriter | None = None

    async def live(self, port: int) -> None:
        """One connection. Raises `GONE` when the hub ends it, or nobody listens."""
        before, self._writer = self._writer, None
        try:
            reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
            will = f"{self.name}-{len(self._journal)}"
            self._note("life", will)
            self._writer.write(self._connect(will))
            connack = await read_packet(reader)
            assert connack.body[1] == 0, connack
            self._note("alive", will)
            await self._stay(reader)
        except BaseException:
            self.vanish()
            raise
        finally:
            if before is not None:
                before.transport.abort()
        self._go(will)

    async def rest(self, port: int) -> None:
        """It begins anew, which ends its session: with that a delay of its will is over (MQTT 5 §3.1.2.5)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw.connect(self.name, self._level))
        assert (await read_packet(reader)).kind == raw.CONNACK
        writer.write(raw.packet(0xE0))
        await reader.read()
        writer.close()

    def vanish(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()

    def _note(self, what: str, will: str) -> None:
        self._journal.write(Entry(self.name, what, will))

    def _connect(self, will: str) -> bytes:
        level = self._level
        expiry = b"\x11\xff\xff\xff\xff" if self._lasting and level == 5 else b""
        delay = b"\x18" + self._delay.to_bytes(4, "big") if self._delay else b""
        last_will = raw.will(f"wills/{self.name}", will.encode(), level=level, properties=delay)
        return raw.connect(
            self.name, level, clean=not self._lasting, properties=expiry, last_will=last_will, will_flags=0x0C
        )

    async def _stay(self, reader: asyncio.StreamReader) -> None:
        try:
            async with asyncio.timeout(self._chance.uniform(0, _LONGEST)):
                await reader.read()
        except TimeoutError:
            return
        raise ConnectionResetError

    def _go(self, will: str) -> None:
        assert self._writer is not None
        how = self._chance.random()
        if how < 0.3:
            self._note("bye", will)
            self._writer.write(raw.packet(0xE0))
            self._writer.close()
        elif how < 0.7:
            self.vanish()


def lives_of(entries: Sequence[Entry]) -> list[Life]:
    """How often each will must have been published, once the hub has come back and all delays are over."""
    lives: dict[str, Life] = {}
    mine: dict[str, list[str]] = {}  # by device, its wills so far
    said: set[str] = set()  # wills that their device took back in this life of the hub
    for entry in entries:
        will = entry.name
        if entry == HUB:
            said.clear()
        elif entry.what == "life":
            lives[will] = Life(will)
            for before in mine.setdefault(entry.who, []):
                if entry.who.endswith("!"):  # it may have come back in time
                    lives[before] = lives[before]._replace(fewest=0)
            mine[entry.who].append(will)
        elif entry.what == "alive":
            lives[will] = lives[will]._replace(fewest=1)
            for before in mine[entry.who][:-1]:
                if before in said or entry.who.endswith("!"):
                    lives[before] = lives[before]._replace(fewest=0, most=0)
        elif entry.what == "bye":
            said.add(will)
            lives[will] = lives[will]._replace(fewest=0)
    return list(lives.values())
