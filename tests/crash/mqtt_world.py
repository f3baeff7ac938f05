"""All sorts of MQTT devices on one hub, how they come back to it after its end, and what must be true then."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from tests.crash.mqtt_device import GONE, Device, Role, clears
from tests.crash.mqtt_journal import Entry, Journal, Memory
from tests.crash.mqtt_mortals import DELAYED, HUB, Mortal, lives_of
from tests.crash.mqtt_paho import Paho
from tests.crash.mqtt_record import Client, Found, faults, shared_out
from tests.wires.mqtt import raw_client as raw

__all__ = ["World", "retained_faults"]

ROLES = {
    "a": Role(5, publishes=["w/a"]),
    "b": Role(4, publishes=["w/b/1", "w/b/2"], window=3),
    "c": Role(3, publishes=["w/c"], qos=1),
    "d": Role(5, publishes=["w/d"], qos=1, subscribes=[("w/a", 1)]),
    "renewed": Role(4, publishes=["w/r"], renews=True),
    "eager": Role(5, subscribes=[("w/#", 2)]),
    "late": Role(4, subscribes=[("w/#", 2)], eager=False),
    "old": Role(3, subscribes=[("w/b/+", 2)]),
    "once": Role(4, subscribes=[("w/#", 1)]),
    "fickle": Role(5, toggles=("w/#", 2), eager=False),
    "share1": Role(5, subscribes=[("$share/g/w/#", 1)]),
    "share2": Role(4, subscribes=[("$share/g/w/#", 1)]),
    "keeper": Role(5, publishes=[f"state/{n}" for n in range(5)], qos=1, window=1, retains=True),
    "guard": Role(4, publishes=[f"state/{n}" for n in range(5, 8)], window=1, retains=True),
}
PAHO = {
    "paho5": Role(5, publishes=["w/p/5"]),
    "paho4": Role(4, publishes=["w/p/4"]),
    "paho3": Role(3, publishes=["w/p/3"], qos=1),
    "phone5": Role(5, subscribes=[("w/#", 2)]),
    "phone4": Role(4, subscribes=[("w/p/#", 2)]),
    "phone3": Role(3, subscribes=[("w/#", 1)]),
}
MORTALS = {"short": (4, False, 0), "long": (5, True, 0), "patient": (5, True, DELAYED)}
LAST = "w/end"
END = Role(4, publishes=[LAST])
"""Publishes nothing until all others are done."""


class World:
    """Life: construct → `run`, for each life of the hub → `recover` → `faults`. Or from the entries of a journal, as
    it was then. ``paho``: some of them are paho's; these cannot be put back. ``strict``: the hub goes on, and ends no
    connection by itself. ``patience``: seconds to `recover`."""

    def __init__(
        self,
        chance: random.Random,
        entries: Sequence[Entry] = (),
        *,
        paho: bool = False,
        strict: bool = False,
        patience: float = 20,
    ) -> None:
        self.journal = Journal(entries)
        self._patience = patience
        self._chance = chance
        self._strict = strict
        self._end = Device("end", END, self.journal, chance)
        self.devices: dict[str, Device | Paho] = {"end": self._end}
        self.devices |= {name: Device(name, role, self.journal, chance) for name, role in ROLES.items()}
        if paho:
            self.devices |= {name: Paho(name, role, self.journal, chance) for name, role in PAHO.items()}
        self._mortals = [Mortal(name, *kind, self.journal, chance) for name, kind in MORTALS.items()]
        for at, entry in enumerate(entries):
            if entry.who in self.devices:
                self.devices[entry.who].memory.take(entry, at)

    # Under load

    async def run(self, port: int) -> None:
        """Until the hub is gone."""
        self.journal.write(HUB)
        clients = [*self._mortals, *(device for device in self.devices.values() if device is not self._end)]
        try:
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    live = self._live_once if isinstance(client, Paho) else self._again_and_again
                    group.create_task(live(client, port))
        finally:
            for mortal in self._mortals:
                mortal.vanish()

    async def _again_and_again(self, client: Any, port: int) -> None:
        while True:
            try:
                await client.live(port)
            except GONE as gone:
                if self._strict:
                    raise AssertionError(f"{client.name} was put out") from gone
                if isinstance(gone, ConnectionRefusedError):
                    return
            await asyncio.sleep(self._chance.choice((0, 0, 0.01, 0.05)))

    @staticmethod
    async def _live_once(client: Paho, port: int) -> None:
        """A second attempt before a CONNACK makes paho forget that it has sent a PUBREL: it begins anew with PUBLISH,
        which by then is another message."""
        with contextlib.suppress(*GONE):
            await client.live(port)

    async def is_busy(self) -> None:
        """Until paho is connected: see `_live_once`."""
        pahos = [one for one in self.devices.values() if isinstance(one, Paho)]
        await asyncio.gather(*(one.until(lambda one=one: one.online) for one in pahos))

    # After the hub's end

    async def recover(self, port: int) -> list[str]:
        """Everybody comes back, finishes what was under way, and gets what waits. What went wrong with that."""
        self.journal.write(HUB)
        wrong = await self._retained_faults(port)
        devices = self.devices.values()
        for device in devices:
            device.calm = True
        try:
            async with asyncio.TaskGroup() as group:
                living = [group.create_task(device.live(port)) for device in devices]
                await self._finish()
                for life in living:
                    life.cancel()
        except* (TimeoutError, *GONE) as failed:
            wrong += [f"{error!r} {self._left()}" for error in failed.exceptions]
        finally:
            for device in devices:
                device.calm = False
        return wrong + await self._retained_faults(port, over=True)

    async def rest(self, port: int) -> None:
        """All delays of wills are over, without waiting for them."""
        await asyncio.gather(*(mortal.rest(port) for mortal in self._mortals))

    async def _retained_faults(self, port: int, *, over: bool = False) -> list[str]:
        found = await asyncio.to_thread(read_retained, port, self._patience)
        return retained_faults(self._keepers, found, over=over)

    async def _finish(self) -> None:
        devices = self.devices.values()
        async with asyncio.timeout(self._patience):
            await asyncio.gather(*map(self._is_back, devices))
            await asyncio.gather(*(device.until(lambda device=device: device.done) for device in devices))
            last = self._end.publish()
            await self._end.until(lambda: self._end.done)
            await asyncio.gather(*(self._has(device, last) for device in self._readers))
            await self._is_shared_out()

    def _left(self) -> dict[str, Any]:
        memories = {name: device.memory for name, device in self.devices.items()}
        return {name: (memory.out, memory.held, memory.got[-1:]) for name, memory in memories.items()}

    async def _is_back(self, device: Device | Paho) -> None:
        await device.until(lambda: device.online)
        if device in self._readers and not device.memory.wants(LAST):
            device.subscribe(LAST, 2)
            await device.until(lambda: device.memory.wants(LAST))

    @staticmethod
    async def _has(device: Device | Paho, last: str) -> None:
        """What comes last, and nothing is under way."""
        memory = device.memory
        await device.until(lambda: last in memory.got[-20:] and not memory.held)

    async def _is_shared_out(self) -> None:
        stored = [name for device in self._publishers for name in device.memory.acked]
        clients = self.clients
        while not shared_out(clients, stored):  # noqa: ASYNC110 - it is seen in two devices together
            await asyncio.sleep(0.01)

    # Who is what

    @property
    def _readers(self) -> list[Device | Paho]:
        return [device for device in self.devices.values() if device.filters and not _shares(device.filters)]

    @property
    def _publishers(self) -> list[Device | Paho]:
        return [one for one in self.devices.values() if one.role.publishes and not one.role.retains]

    @property
    def _keepers(self) -> list[Memory]:
        return [device.memory for device in self.devices.values() if device.role.retains]

    @property
    def clients(self) -> dict[str, Client]:
        """All but those that keep what is retained."""
        return {
            name: Client(one.memory, one.role.qos, {**one.filters, LAST: 2}, _shares(one.filters))
            for name, one in self.devices.items()
            if not one.role.retains
        }

    def faults(self, log: Sequence[str], wills: Sequence[str]) -> list[str]:
        """``log``: the names in topic ``w``; ``wills``: those in topic ``wills``, when all delays are over."""
        wrong = [wrong for memory in self._keepers for wrong in memory.wrong]
        return wrong + faults(self.clients, Found(log, wills), lives_of(self.journal.entries))


def _shares(filters: Mapping[str, int]) -> bool:
    return any(name.startswith("$share/") for name in filters)


# --- what is retained ------------------------------------------------------------------------------------------------


def read_retained(port: int, patience: float) -> dict[str, str]:
    """What a new client is told of topic ``state``. Blocks."""
    client = raw.RawClient("127.0.0.1", port, 5, patience=patience)
    try:
        client.connect()
        client.publish("edge", b"x", 1, 1, retain=True).expect(raw.PUBACK)
        client.subscribe(("state/#", 0), id=2)
        client.send(raw.subscribe(3, ("edge", 0), level=5))
        found: dict[str, str] = {}
        while True:
            packet = client.packet()
            assert packet is not None, "the viewer was put out"
            if packet.kind == raw.PUBLISH:
                message = raw.read_publish(packet, 5)
                if message.topic == "edge":
                    return found
                assert message.retain, message
                assert message.topic not in found, message
                found[message.topic] = message.payload.decode()
    finally:
        client.close()


def retained_faults(keepers: Sequence[Memory], found: Mapping[str, str], *, over: bool = False) -> list[str]:
    """``over``: everything that was published is acknowledged."""
    wrong: list[str] = []
    expected: dict[str, list[str | None]] = {}
    for memory in keepers:
        for put in memory.puts:
            value = None if clears(put.name) else put.name
            if put.name in memory.acked:
                expected[put.topic] = [value]
            else:
                expected.setdefault(put.topic, [None]).append(value)
        if over and memory.out:
            wrong.append(f"not acknowledged: {memory.out}")
    return wrong + [
        f"{topic} retains {found.get(topic)} and should one of {expected.get(topic)}"
        for topic in expected.keys() | found.keys()
        if found.get(topic) not in expected.get(topic, [])
    ]
