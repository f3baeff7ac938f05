"""MQTT as fast as it goes: a closed loop in which every message must arrive and every acknowledgement is awaited."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from bench.figures import Figures
from bench.load.mqtt_client import connect, subscribe
from bench.load.mqtt_lanes import BUFFER, RING, Lane, Publisher, Reader, Ring
from bench.machine import LoadMeter, on_load_core
from bench.processes import Running

__all__ = ["Shape", "crowd", "throughput"]

WINDOW = 2_000  # messages of a publisher that are not settled yet
WARM = 0.3  # seconds that do not count
CONNECTIONS = 100  # that a crowd's subscriptions share: the hub allows 1,000 on each
_BREATH = 0.0002  # seconds between two looks at the sockets: reading each packet alone would make the load the limit
_LONGEST = 0.02
_STALL = 10.0
_STRIDE = 7_919  # a prime


class Shape(NamedTuple):
    """``lanes`` publishers, each to a key of its own in ``topic``, which ``readers`` connections subscribe to."""

    qos: int
    lanes: int = 1
    readers: int = 1
    topic: str = "bench"


def throughput(server: Running, seconds: float, shape: Shape) -> Figures:
    """Raises `TimeoutError` or `ConnectionError` when a message is lost, repeated, changed or overtaken."""
    with ExitStack() as stack, on_load_core():
        lanes = [_lane(stack, server.port, shape, number) for number in range(shape.lanes)]
        return _measured(server, lanes, seconds)


def _lane(stack: ExitStack, port: int, shape: Shape, number: int) -> Lane:
    topic = f"{shape.topic}/lane-{number:02}"
    ring = Ring([topic], shape.qos)
    readers, wanted = [], ring.wanted()
    for _ in range(shape.readers):
        opened = stack.enter_context(connect(port))
        subscribe(opened, [topic], shape.qos)
        readers.append(Reader(opened, ring, wanted))
    return Lane(Publisher(stack.enter_context(connect(port)), ring), readers)


def crowd(server: Running, seconds: float, *, subscriptions: int, qos: int) -> Figures:
    """One publisher of commands to as many devices in turn, of which each has a subscription ``cmd/{id}/#``."""
    devices = [f"cmd/{number:06}" for number in range(subscriptions)]
    # Not one after the other: neighbours in a table are near in memory.
    ring = Ring([f"{devices[turn * _STRIDE % subscriptions]}/led" for turn in range(RING)], qos)
    with ExitStack() as stack, on_load_core():
        readers, elapsed = [], 0.0
        for number in range(CONNECTIONS):
            own = devices[number::CONNECTIONS]
            opened = stack.enter_context(connect(server.port))
            began = time.perf_counter()
            subscribe(opened, [f"{device}/#" for device in own], qos)
            elapsed += time.perf_counter() - began
            readers.append(Reader(opened, ring, ring.wanted({f"{device}/led" for device in own})))
        lane = Lane(Publisher(stack.enter_context(connect(server.port)), ring), readers, each=False)
        figures = _measured(server, [lane], seconds)
        return figures | {"subscriptions/s": subscriptions / elapsed} if subscriptions > CONNECTIONS else figures


def _measured(server: Running, lanes: Sequence[Lane], seconds: float) -> Figures:
    load = _Load(lanes)
    load.run(WARM)
    server.begin()
    before, meter = load.deliveries, LoadMeter(server.pids)
    elapsed = load.run(seconds)
    deliveries = load.deliveries - before
    return {"deliveries/s": deliveries / elapsed, **meter.stop(deliveries)}


class _Load:
    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._qos = qos = lanes[0].publisher.qos
        self._readers = [reader for lane in lanes for reader in lane.readers]
        self._ends: dict[int, Publisher | Reader] = {reader.socket.fileno(): reader for reader in self._readers}
        if qos:  # else the server has nothing to say to a publisher
            self._ends |= {lane.publisher.socket.fileno(): lane.publisher for lane in lanes}
        self._buffer = memoryview(bytearray(BUFFER))
        self._last = 0.0

    @property
    def deliveries(self) -> int:
        return sum(lane.deliveries for lane in self._lanes)

    def run(self, seconds: float) -> float:
        """How long it took until all was settled."""
        began = self._last = time.perf_counter()
        with select.epoll() as epoll:
            for number in self._ends:
                epoll.register(number, select.EPOLLIN)
            while (going := time.perf_counter() < began + seconds) or not self._settled():
                more = self._publish(going=going)
                if not more:
                    time.sleep(_BREATH)
                self._read(epoll, 0 if more else _LONGEST)
        ended = self._last
        for reader in self._readers:
            reader.finish()
        return (time.perf_counter() if self._qos else ended) - began

    def _settled(self) -> bool:
        return all(lane.settled >= lane.publisher.sent for lane in self._lanes)

    def _publish(self, *, going: bool) -> bool:
        """Whether a socket may take more at once."""
        more = False
        for lane in self._lanes:
            publisher = lane.publisher
            until = lane.settled + WINDOW if going else publisher.sent
            if not publisher.whole or until - publisher.sent >= WINDOW // 4:
                more |= publisher.send(until)
        return more

    def _read(self, epoll: select.epoll, timeout: float) -> None:
        for number, _ in epoll.poll(timeout):
            self._ends[number].read(self._buffer)
            self._last = time.perf_counter()
        for reader in self._readers:
            reader.acknowledge()
        if time.perf_counter() - self._last > _STALL:
            counts = ", ".join(f"{lane.settled:,} of {lane.publisher.sent:,}" for lane in self._lanes)
            raise TimeoutError(f"settled are {counts} messages, and nothing comes for {_STALL} s")
