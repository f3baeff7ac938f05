"""What an MQTT message costs at each stage of its way through the hub: the wire, the core, the log; without sockets.

``python -m bench.mqtt_stages``. Clients are stand-ins for transports; everything behind them is the hub's own, the disk
too. What the writer's thread does at the same time is in the stages only as far as they wait for the interpreter.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop

from bench.figures import Figures, Report, Sample
from bench.load.mqtt_client import connect_packet, subscribe_packet
from bench.load.mqtt_lanes import Ring
from bench.stopwatch import REST, Stopwatch
from polywire import Hub
from polywire.core.live import Live
from polywire.core.log import Log
from polywire.core.patterns import PatternIndex
from polywire.core.publishing import Publishing
from polywire.wires.mqtt.binding import Publisher
from polywire.wires.mqtt.codec import Decoder
from polywire.wires.mqtt.connection import Connection
from polywire.wires.mqtt.encoding import Encoder, Selected
from polywire.wires.mqtt.live_feed import LiveFeed
from polywire.wires.mqtt.server import Mqtt
from polywire.wires.mqtt.session import Session
from polywire.wires.mqtt.settings import MqttSettings

WINDOW = 2_000  # messages that are not settled yet
READ = 64 << 10  # bytes that the hub reads at once
WARM = 0.3
CASES = {f"QoS {qos}, 1 to {readers}": (qos, readers) for qos in (0, 1) for readers in (1, 10)}
LOAD = "load"
BUILD = Path(__file__).parents[1] / "build"


STAGES: dict[str, list[tuple[type, tuple[str, ...]]]] = {
    "connection": [(Connection, ("data_received", "stored", "_flush"))],
    "codec: read": [(Decoder, ("receive",))],
    "session": [(Session, ("receive_data", "acknowledge", "take_ids", "data_to_send"))],
    "binding, records": [(Publisher, ("publish",))],
    "core: publish": [(Publishing, ("send",))],
    "log: append": [(Log, ("append",))],
    "log: commit": [(Log, ("_flush", "_done"))],
    "log: publish": [(Log, ("_step",))],
    "live: match": [(PatternIndex, ("runs",))],
    "live: fan out": [(Live, ("publish",))],
    "feed": [(LiveFeed, ("deliver",))],
    "encode": [(Encoder, ("qos0", "select")), (Selected, ("write",))],
}
"""In the order of a message's way: the methods by which a batch enters each."""


class Client:
    """The other end of a connection, in the place of its transport."""

    def __init__(self, wire: Mqtt, watch: Stopwatch, moved: asyncio.Event) -> None:
        self.got = 0  # bytes
        self.paused = False
        self._watch = watch
        self._moved = moved
        self.connection = wire.connection()
        self.connection.connection_made(self)

    async def say(self, packet: bytes, answer: int) -> None:
        """Until so many bytes came back, which are not counted."""
        self.connection.data_received(packet)
        while self.got < answer:
            self._moved.clear()
            await self._moved.wait()
        self.got -= answer

    # What the connection asks of a transport

    def write(self, data: bytes) -> None:
        self._watch.enter(LOAD)
        self.got += len(data)
        self.take(data)
        self._moved.set()
        self._watch.leave()

    def take(self, data: bytes) -> None:
        pass

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        self._moved.set()

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self.connection.connection_lost(None)

    abort = close

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002 - asyncio's signature
        return default


class Reader(Client):
    """Acknowledges in the loop's next turn, as from afar."""

    ring: Ring | None = None

    def take(self, data: bytes) -> None:
        if self.ring is not None and self.ring.qos:
            assert len(data) % self.ring.stride == 0, "a packet in part"
            asyncio.get_running_loop().call_soon(self.connection.data_received, self.ring.answers(data))


class Flow:
    """One publisher, and readers of all that it publishes."""

    def __init__(self, wire: Mqtt, watch: Stopwatch, qos: int, readers: int) -> None:
        self._moved = asyncio.Event()
        self._ring = Ring(["bench/lane-00"], qos)
        self._turn = self._ring.sent()
        self._sent = 0  # bytes
        self._publisher = Client(wire, watch, self._moved)
        self._readers = [Reader(wire, watch, self._moved) for _ in range(readers)]

    async def open(self) -> None:
        for number, client in enumerate((self._publisher, *self._readers)):
            await client.say(connect_packet(f"bench-{number}"), 4)
        for reader in self._readers:
            await reader.say(subscribe_packet(self._ring.topics[:1], self._ring.qos), 5)
            reader.ring = self._ring

    async def run(self, seconds: float) -> int:
        """How many messages it published; all have arrived and are acknowledged."""
        stride, first, end = self._ring.stride, self._sent, time.perf_counter() + seconds
        while (going := time.perf_counter() < end) or self._settled < self._sent:
            # The last message is finished: what is read at once ends anywhere.
            room = self._settled + WINDOW * stride - self._sent if going else -self._sent % stride
            if room >= (WINDOW // 4 * stride if going else 1) and not self._publisher.paused:
                at = self._sent % len(self._turn)
                part = self._turn[at : at + min(room, READ)]
                self._sent += len(part)
                self._publisher.connection.data_received(part)
                await asyncio.sleep(0)
            else:
                self._moved.clear()
                await asyncio.wait_for(self._moved.wait(), 10)
        return (self._sent - first) // stride

    @property
    def _settled(self) -> int:
        """Bytes of messages."""
        settled = min(reader.got for reader in self._readers)
        return min(settled, self._publisher.got // 4 * self._ring.stride) if self._ring.qos else settled


async def _measured(folder: Path, qos: int, readers: int, seconds: float, watch: Stopwatch) -> Figures:
    async with Hub("bench", data=folder, strict=False) as hub:
        settings = MqttSettings(max_packet_size=hub.limits.message_size + (128 << 10))
        wire = Mqtt(hub.core, hub.contract, settings=settings)
        await wire.start()
        flow = Flow(wire, watch, qos, readers)
        await flow.open()
        await flow.run(WARM)
        # As `polywire run` does
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        watch.restart()
        before = hub.core.metrics()
        count = await flow.run(seconds)
        figures = {**_spent(watch, count), **_commits(before, hub.core.metrics(), count)}
        await wire.close()
        return figures


def _spent(watch: Stopwatch, count: int) -> Figures:
    """Microseconds for each message."""
    spent = {stage: watch.spent[stage] / count * 1e6 for stage in (*STAGES, REST)}
    return {**spent, "all stages": sum(spent[stage] for stage in STAGES)}


def _commits(before: Mapping[str, float], after: Mapping[str, float], count: int) -> Figures:
    commits = max(1, after["commits"] - before["commits"])
    took = after["commit_seconds_sum"] - before["commit_seconds_sum"]
    return {"messages in a commit": count / commits, "µs of a commit": took / commits * 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.mqtt_stages", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load for each case (default 2)")
    parser.add_argument("--repeat", type=int, default=1, help="rounds (default 1)")
    asked = parser.parse_args()
    watch, report = Stopwatch(), Report()
    for stage, entrances in STAGES.items():
        for owner, names in entrances:
            watch.wrap(stage, owner, *names)
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=BUILD) as folder:
        for number, (title, (qos, readers)) in itertools.product(range(asked.repeat), CASES.items()):
            place = Path(folder) / f"{number}-{qos}-{readers}"
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                figures = runner.run(_measured(place, qos, readers, asked.seconds, watch))
            # A row for each stage, a column for each case
            for name, figure in figures.items():
                report.samples.append(Sample("MQTT, µs for each message", name, title, number, {"": figure}))
    print(report.tables(markdown=False))


if __name__ == "__main__":
    main()
