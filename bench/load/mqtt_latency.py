"""How long a message takes at a fixed rate, far below what the server can do: one publisher, one reader."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench.figures import Figures, percentile
from bench.load.mqtt_client import connect, subscribe
from bench.load.mqtt_lanes import BUFFER, Publisher, Reader, Ring
from bench.machine import LoadMeter, on_load_core
from bench.processes import Running

__all__ = ["latency"]

TOPIC = "paced/lane-00"
WARM = 200  # messages that do not count
_STALL = 10.0


def latency(server: Running, seconds: float, *, rate: int, qos: int) -> Figures:
    """``rate`` messages a second. Raises `TimeoutError` or `ConnectionError` when one is lost, repeated or changed."""
    with ExitStack() as stack, on_load_core():
        ring = Ring([TOPIC], qos)
        opened = stack.enter_context(connect(server.port))
        subscribe(opened, [TOPIC], qos)
        paced = _Paced(Publisher(stack.enter_context(connect(server.port)), ring), Reader(opened, ring, ring.wanted()))
        paced.run(rate, WARM)
        server.begin()
        meter = LoadMeter(server.pids)
        paced.run(rate, max(1, int(rate * seconds)))
        figures = _waits(paced.delivered[WARM:], "")
        if qos:
            figures |= _waits(paced.acknowledged[WARM:], "PUBACK ")
        return {**figures, **meter.stop(len(paced.delivered) - WARM)}


def _waits(waits: Sequence[float], what: str) -> Figures:
    return {f"{what}p{percent} ms": percentile(waits, percent) * 1e3 for percent in (50, 99)}


class _Paced:
    def __init__(self, publisher: Publisher, reader: Reader) -> None:
        self._publisher = publisher
        self._reader = reader
        self._buffer = memoryview(bytearray(BUFFER))
        self._sent: list[float] = []  # when, of each message
        self.delivered: list[float] = []
        self.acknowledged: list[float] = []
        """Seconds since it was sent, of each message."""

    def run(self, rate: int, count: int) -> None:
        """Each message at its time, whether or not the last has arrived. Returns when all are settled."""
        began = time.perf_counter()
        for number in range(count):
            while (due := began + number / rate - time.perf_counter()) > 0:
                self._look(due)
            self._publish()
        while min(len(self.delivered), len(self.acknowledged)) < len(self._sent):
            if not self._look(_STALL):
                counts = f"{len(self.delivered):,} arrived, {len(self.acknowledged):,} are acknowledged"
                raise TimeoutError(f"of {len(self._sent):,} messages {counts}")
        self._reader.finish()

    def _publish(self) -> None:
        self._sent.append(time.perf_counter())
        self._publisher.send(len(self._sent))
        assert self._publisher.whole, "the server does not read"
        self._note(self.acknowledged, 0 if self._publisher.qos else self._publisher.acknowledged)

    def _look(self, timeout: float) -> bool:
        """Whether anything came. With `select.select`, whose time-outs are exact to the microsecond."""
        ready, _, _ = select.select([self._reader.socket, self._publisher.socket], [], [], timeout)
        if self._reader.socket in ready:
            self._reader.read(self._buffer)
            self._note(self.delivered, self._reader.got)
        if self._publisher.socket in ready:
            self._publisher.read(self._buffer)
            self._note(self.acknowledged, self._publisher.acknowledged)
        return bool(ready)

    def _note(self, waits: list[float], count: int) -> None:
        now = time.perf_counter()
        waits += [now - sent for sent in self._sent[len(waits) : count]]
