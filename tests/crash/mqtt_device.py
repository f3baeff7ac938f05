"""A device whose session outlives its connections: an MQTT client of hand-written bytes, in a task.

It does by the letter what the specification asks of a client (4.3, 4.4): it keeps what it published until that is over
and sends it again when it is back, and it knows packet ids of QoS 2 across its own connections. It acknowledges late
and at random, and its connection breaks at random, so that whatever happens to the hub happens in every phase.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.crash.mqtt_journal import Entry, Journal, Memory
from tests.wires.mqtt import raw_client as raw

__all__ = ["GONE", "Device", "Role", "clears", "read_packet"]

GONE = (ConnectionError, asyncio.IncompleteReadError)
"""How a client sees that its connection is over."""
_FOREVER = b"\x11\xff\xff\xff\xff"
_LATEST = 0.008  # seconds until something is acknowledged
_CUTS = 0.004  # of the packets that come
_PACE = 0.003  # seconds between two messages
_SUBSCRIBE = 65_000
"""Packet ids from here on are those of SUBSCRIBE and UNSUBSCRIBE."""


class Role(NamedTuple):
    """``publishes`` to the topics in turn, at ``qos``, no more than ``window`` at once; ``retains``: to be retained.
    ``toggles``: a filter that it subscribes to and leaves again, and again. ``renews``: it breaks often, and begins
    every other time with a clean session."""

    level: int
    publishes: Sequence[str] = ()
    qos: int = 2
    window: int = 6
    subscribes: Sequence[tuple[str, int]] = ()
    toggles: tuple[str, int] | None = None
    eager: bool = True
    retains: bool = False
    renews: bool = False


class Device:
    """Life: construct → `live`, for each connection. ``memory``: what it knew when it was last seen.

    ``calm``: it answers at once, publishes nothing by itself and does not break.
    """

    def __init__(
        self, name: str, role: Role, journal: Journal, chance: random.Random, memory: Memory | None = None
    ) -> None:
        self.name = name
        self.role = role
        self.calm = False
        self.memory = memory or Memory(eager=role.eager)
        self._journal = journal
        self._chance = chance
        self._owed: deque[tuple[bytes, Entry | None]] = deque()
        self._writer: asyncio.StreamWriter
        self._broke = False
        self.online = False
        self._asked: dict[int, Entry] = {}
        self._changed = asyncio.Event()

    @property
    def filters(self) -> dict[str, int]:
        """All that it may be subscribed to, with the QoS."""
        return dict([*self.role.subscribes, *([self.role.toggles] if self.role.toggles else [])])

    @property
    def done(self) -> bool:
        """With what it published."""
        return not self.memory.out

    def note(self, what: str, name: str = "", id: int = 0, qos: int = 0, topic: str = "") -> Entry:
        entry = Entry(self.name, what, name, id, qos, topic)
        self._write(entry)
        return entry

    def _write(self, entry: Entry) -> None:
        self.memory.take(entry, self._journal.write(entry))
        self._changed.set()
        self._changed = asyncio.Event()

    # Connections

    async def live(self, port: int) -> None:
        """One connection. Raises `GONE` when the hub ends it, or nobody listens."""
        reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        self._broke = False
        try:
            await self._open(reader)
            await self._stay(reader)
        except GONE:
            if not self._broke:
                raise
        finally:
            self.online = False
            self._owed.clear()
            self._writer.transport.abort()

    async def _stay(self, reader: asyncio.StreamReader) -> None:
        """Until the first of what it does ends."""
        doing = [asyncio.create_task(work) for work in (self._read_on(reader), self._publish_on(), self._toggle_on())]
        try:
            await asyncio.wait(doing, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for one in doing:
                one.cancel()
            ended = await asyncio.gather(*doing, return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
                raise error

    async def _open(self, reader: asyncio.StreamReader) -> None:
        level = self.role.level
        self._asked.clear()
        clean = self.memory.renews or (self.role.renews and not self.calm and self._chance.random() < 0.5)
        self.note("renewing" if clean else "connecting")
        takes = b"\x21" + struct.pack("!H", self._chance.randint(2, 30))
        self._send(raw.connect(self.name, level, clean=clean, properties=_FOREVER + takes if level == 5 else b""))
        connack = await read_packet(reader)
        assert connack.kind == raw.CONNACK, connack
        assert connack.body[1] == 0, f"{self.name} was refused: {connack}"
        self.online = True
        self.note("connected", id=connack.body[0] & 1, qos=level > 3)
        for name, qos in self.role.subscribes:
            if not self.memory.wants(name):
                self.subscribe(name, qos)
        self._send_again()

    def _send_again(self) -> None:
        """What is not over, in its order [MQTT-4.4.0-1]."""
        for packet_id, entry in self.memory.out.items():
            if packet_id in self.memory.released:
                self._send(raw.acknowledge(raw.PUBREL, packet_id))
            else:
                self._send(self._packet_of(entry, dup=True))

    def _send(self, data: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(data)

    # Publishing

    async def _publish_on(self) -> None:
        while self.role.publishes and not self.calm:
            await self.until(lambda: len(self.memory.out) < self.role.window)
            self.publish()
            await asyncio.sleep(self._chance.uniform(0, _PACE))

    def publish(self) -> str:
        """The next message; its name."""
        memory, number = self.memory, len(self.memory.puts)
        topic = self.role.publishes[number % len(self.role.publishes)]
        packet_id = next(one for one in range(1, 100) if one not in memory.out)
        entry = self.note("publishing", f"{self.name}-{number}", packet_id, self.role.qos, topic)
        self._send(self._packet_of(entry))
        return entry.name

    def _packet_of(self, entry: Entry, *, dup: bool = False) -> bytes:
        payload = b"" if self._clears(entry) else entry.name.encode()
        options = {"level": self.role.level, "dup": dup, "retain": self.role.retains}
        return raw.publish(entry.topic, payload, entry.qos, entry.id, **options)  # type: ignore[arg-type] - its own

    def _clears(self, entry: Entry) -> bool:
        return self.role.retains and clears(entry.name)

    # Subscribing

    def subscribe(self, name: str, qos: int) -> None:
        entry = self.note("subscribing", name)
        self._send(raw.subscribe(self._ask(entry), (name, qos), level=self.role.level))

    def unsubscribe(self, name: str) -> None:
        entry = self.note("unsubscribing", name)
        self._send(raw.unsubscribe(self._ask(entry), name, level=self.role.level))

    async def _toggle_on(self) -> None:
        while self.role.toggles is not None and not self.calm:
            name, qos = self.role.toggles
            wanted = self.memory.wants(name)
            self.unsubscribe(name) if wanted else self.subscribe(name, qos)
            await self.until(lambda: self.memory.wants(name) != wanted)  # noqa: B023 - awaited here
            await asyncio.sleep(self._chance.uniform(0, 20 * _PACE))

    def _ask(self, entry: Entry) -> int:
        packet_id = _SUBSCRIBE + len(self._asked)
        self._asked[packet_id] = entry
        return packet_id

    # Reading

    async def _read_on(self, reader: asyncio.StreamReader) -> None:
        while True:
            packet = await read_packet(reader)
            if not self.calm and self._chance.random() < (20 * _CUTS if self.role.renews else _CUTS):
                self._broke = True
                raise ConnectionAbortedError
            self._handle(packet)

    def _handle(self, packet: raw.Packet) -> None:
        kind, packet_id = packet.kind, packet.id
        if kind == raw.PUBLISH:
            self._take(raw.read_publish(packet, self.role.level))
        elif kind == raw.PUBACK:
            self.note("puback", id=packet_id)
        elif kind == raw.PUBREC:
            self.note("pubrec", id=packet_id)
            self._owe(raw.acknowledge(raw.PUBREL, packet_id))
        elif kind == raw.PUBREL:
            self.note("pubrel", id=packet_id)
            self._owe(raw.acknowledge(raw.PUBCOMP, packet_id))
        elif kind == raw.PUBCOMP:
            self.note("pubcomp", id=packet_id)
        elif kind in (raw.SUBACK, raw.UNSUBACK):
            self.note("subscribed" if kind == raw.SUBACK else "unsubscribed", self._asked.pop(packet_id).name)
        else:
            raise AssertionError(f"{self.name} got {packet}")

    def _take(self, publish: raw.Received) -> None:
        name = publish.payload.decode()
        self.note("came", name, publish.id, publish.qos)
        if publish.qos == 1:
            self._owe(raw.acknowledge(raw.PUBACK, publish.id), Entry(self.name, "taking", name))
        elif publish.qos == 2:
            self._owe(raw.acknowledge(raw.PUBREC, publish.id))

    def _owe(self, data: bytes, entry: Entry | None = None) -> None:
        """Acknowledgements are sent in their order [MQTT-4.6.0-2 to 4], and not at once."""
        self._owed.append((data, entry))
        if self.calm:
            self._pay(len(self._owed))
        else:
            asyncio.get_running_loop().call_later(self._chance.uniform(0, _LATEST), self._pay, 1)

    def _pay(self, count: int) -> None:
        for _ in range(min(count, len(self._owed))):
            data, entry = self._owed.popleft()
            if entry is not None:
                self._write(entry)
            self._send(data)

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self._changed.wait()


def clears(name: str) -> bool:
    """Every fourth message of one that retains is empty."""
    return int(name.rpartition("-")[2]) % 4 == 3


async def read_packet(reader: asyncio.StreamReader) -> raw.Packet:
    first = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return raw.Packet(first >> 4, first & 15, await reader.readexactly(length))
