"""MQTT connections themselves: how fast they are accepted, and many that do nothing."""

from __future__ import annotations

import itertools
import select
import socket
import time
from contextlib import ExitStack

from bench.figures import Figures
from bench.load.mqtt_client import ACCEPTED, DISCONNECT, connect, connect_packet, same
from bench.machine import LoadMeter, on_load_core, settled
from bench.processes import Running

__all__ = ["connect_rate", "memory_each"]

_STALL = 10.0


def memory_each(server: Running, _seconds: float, *, count: int) -> Figures:
    """What the server's process holds for each of ``count`` connections that do nothing; the system's buffers not."""
    connect(server.port).close()  # what the first connection loads is not a connection's
    server.begin()
    before = settled(server.pids)
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connect(server.port))
        return {"KiB each": (settled(server.pids) - before) / count / 1_024}


def connect_rate(server: Running, seconds: float, *, at_once: int) -> Figures:
    """Connect, CONNECT, CONNACK, DISCONNECT, close; ``at_once`` of them under way.

    Raises `ConnectionError` if one is refused, `TimeoutError` if one is not answered.
    """
    with on_load_core(), select.epoll() as epoll:
        server.begin()
        meter = LoadMeter(server.pids)
        began = time.perf_counter()
        load = _Connects(server.port, epoll)
        for _ in range(at_once):
            load.open()
        while load.waiting:
            load.read(again=time.perf_counter() < began + seconds)
        elapsed = time.perf_counter() - began
        return {"connects/s": load.accepted / elapsed, **meter.stop(load.accepted)}


class _Connects:
    def __init__(self, port: int, epoll: select.epoll) -> None:
        self._address = ("127.0.0.1", port)
        self._epoll = epoll
        self._names = itertools.count()
        self.waiting: dict[int, socket.socket] = {}
        self.accepted = 0

    def open(self) -> None:
        opened = socket.socket()  # no more than what must be: the load has one core, as the server has
        opened.connect(self._address)  # on loopback done at once
        opened.sendall(connect_packet(f"bench-{next(self._names)}"))
        self._epoll.register(opened.fileno(), select.EPOLLIN)
        self.waiting[opened.fileno()] = opened

    def read(self, *, again: bool) -> None:
        """``again``: for each one that was accepted the next one is opened."""
        ready = self._epoll.poll(_STALL)
        if not ready:
            raise TimeoutError(f"{len(self.waiting)} connections wait for CONNACK")
        for number, _ in ready:
            with self.waiting.pop(number) as opened:
                same(opened.recv(len(ACCEPTED)), ACCEPTED, "CONNACK")
                opened.sendall(DISCONNECT)
            self.accepted += 1
            if again:
                self.open()
