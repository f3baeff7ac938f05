"""WebSocket load over raw sockets: frames encoded beforehand, answers counted by their bytes."""

from __future__ import annotations

import base64
import os
import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench.figures import Figures, percentile
from bench.machine import LoadMeter, on_load_core
from bench.processes import Running

__all__ = ["PAYLOAD", "connect", "echo", "fan_out"]

PAYLOAD = 100  # bytes of a message
WINDOW = 20  # messages the slowest reader may be behind
_BREATH = 0.0002  # seconds between two looks at the sockets: reading each frame alone would make the load the limit
_STALL = 10.0
_BINARY = 0x82  # FIN, opcode 2


def frame(body: bytes, *, masked: bool) -> bytes:
    """A short binary frame; clients mask theirs (RFC 6455 §5.3), here with zeros."""
    assert len(body) < 126
    return bytes([_BINARY, len(body) | (0x80 if masked else 0)]) + (b"\0\0\0\0" if masked else b"") + body


def connect(port: int, path: str) -> socket.socket:
    """Raises `ConnectionError` if the handshake is refused."""
    opened = socket.create_connection(("127.0.0.1", port))
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(os.urandom(16)).decode()
    opened.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = opened.recv(1)
        if not byte:
            break
        answer += byte
    if not answer.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(f"{path}: {answer.decode(errors='replace')}")
    return opened


def _connect_all(stack: ExitStack, port: int, paths: Sequence[str]) -> dict[int, socket.socket]:
    """By file number, not blocking."""
    opened = {}
    for path in paths:
        one = stack.enter_context(connect(port, path))
        one.setblocking(False)
        opened[one.fileno()] = one
    return opened


def _watch(sockets: dict[int, socket.socket]) -> select.epoll:
    epoll = select.epoll()
    for number in sockets:
        epoll.register(number, select.EPOLLIN)
    return epoll


def echo(server: Running, paths: Sequence[str], seconds: float) -> Figures:
    """One message under way on each connection, sent anew when it is back."""
    with ExitStack() as stack, on_load_core():
        return _Echo(_connect_all(stack, server.port, paths)).run(server.pids, seconds)


class _Echo:
    def __init__(self, sockets: dict[int, socket.socket]) -> None:
        self._sockets = sockets
        self._out = frame(b"x" * PAYLOAD, masked=True)
        self._length = len(frame(b"x" * PAYLOAD, masked=False))
        self._missing = dict.fromkeys(sockets, 0)
        self._sent = dict.fromkeys(sockets, 0.0)
        self._waits: list[float] = []

    def run(self, pids: Sequence[int], seconds: float) -> Figures:
        meter = LoadMeter(pids)
        began = time.perf_counter()
        for number in self._sockets:
            self._send(number)
        with _watch(self._sockets) as epoll:
            while time.perf_counter() < began + seconds:
                self._read(epoll, again=True)
            while any(missing > 0 for missing in self._missing.values()):
                self._read(epoll, again=False)
        elapsed = time.perf_counter() - began
        return {
            "round trips/s": len(self._waits) / elapsed,
            "p50 ms": percentile(self._waits, 50) * 1e3,
            "p99 ms": percentile(self._waits, 99) * 1e3,
            **meter.stop(len(self._waits)),
        }

    def _send(self, number: int) -> None:
        self._missing[number] = self._length
        self._sent[number] = time.perf_counter()
        self._sockets[number].send(self._out)

    def _read(self, epoll: select.epoll, *, again: bool) -> None:
        ready = epoll.poll(_STALL)
        if not ready:
            raise TimeoutError(f"nothing came back for {_STALL} s")
        for number, _ in ready:
            came = len(self._sockets[number].recv(65_536))
            if not came:
                raise ConnectionError("the server closed a connection")
            self._missing[number] -= came
            if self._missing[number] <= 0:
                self._waits.append(time.perf_counter() - self._sent[number])
                if again:
                    self._send(number)


def fan_out(server: Running, *, readers: str, writer: str, count: int, seconds: float) -> Figures:
    """One writer, ``count`` readers; the writer goes on when the slowest reader has kept up.

    Raises `TimeoutError` when a message is lost.
    """
    with ExitStack() as stack, on_load_core():
        sockets = _connect_all(stack, server.port, [readers] * count)
        source = stack.enter_context(connect(server.port, writer))
        time.sleep(0.3)  # the peer registers its readers after the handshake
        return _FanOut(sockets, source).run(server.pids, seconds)


class _FanOut:
    def __init__(self, sockets: dict[int, socket.socket], source: socket.socket) -> None:
        self._sockets = sockets
        self._source = source
        self._out = frame(b"x" * PAYLOAD, masked=True)
        self._length = len(frame(b"x" * PAYLOAD, masked=False))
        self._got = dict.fromkeys(sockets, 0)
        self._buffer = bytearray(1 << 18)
        self._sent = 0
        self._last = 0.0

    def run(self, pids: Sequence[int], seconds: float) -> Figures:
        meter = LoadMeter(pids)
        began = self._last = time.perf_counter()
        with _watch(self._sockets) as epoll:
            while True:
                slowest = min(self._got.values()) // self._length
                if time.perf_counter() < began + seconds:
                    self._publish(slowest + WINDOW - self._sent)
                elif slowest >= self._sent:
                    break
                time.sleep(_BREATH)
                self._read(epoll)
        elapsed = self._last - began
        deliveries = sum(self._got.values()) // self._length
        assert deliveries == self._sent * len(self._sockets), "a message came twice"
        return {"deliveries/s": deliveries / elapsed, "messages/s": self._sent / elapsed, **meter.stop(deliveries)}

    def _publish(self, room: int) -> None:
        if room >= WINDOW // 2:
            self._source.sendall(self._out * room)
            self._sent += room

    def _read(self, epoll: select.epoll) -> None:
        for number, _ in epoll.poll(0.02, 2_048):
            came = self._sockets[number].recv_into(self._buffer)
            if not came:
                raise ConnectionError("the server closed a connection")
            if self._got[number] % self._length == 0 and self._buffer[0] != _BINARY:
                raise ConnectionError(f"not the frame that was sent: {bytes(self._buffer[:20])!r}")
            self._got[number] += came
            self._last = time.perf_counter()
        if time.perf_counter() - self._last > _STALL:
            raise TimeoutError(
                f"{self._sent} messages sent, the slowest reader has {min(self._got.values()) // self._length}"
            )
