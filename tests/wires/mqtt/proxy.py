"""What stands between a client and its broker, and fails."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

__all__ = ["Proxy", "proxy"]


class _Pair:
    """One connection of a client and one to the broker."""

    def __init__(self, client: socket.socket, broker: socket.socket) -> None:
        self._ends = (client, broker)
        self.frozen = False
        for source, sink in (self._ends, reversed(self._ends)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.frozen:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def end(self, *, reset: bool = False) -> None:
        for one in self._ends:
            with contextlib.suppress(OSError):
                if reset:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    one.shutdown(socket.SHUT_RD)  # wakes the thread that reads, and sends nothing
                else:
                    one.shutdown(socket.SHUT_RDWR)
            one.close()


class Proxy:
    """``port`` is where clients connect."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listening = socket.create_server((host, 0))
        self.port = int(self._listening.getsockname()[1])
        self._pairs: list[_Pair] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                broker = socket.create_connection(self._target)
                for one in (client, broker):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pairs.append(_Pair(client, broker))

    def cut(self) -> None:
        """All connections end, on both sides."""
        self._end()

    def reset(self) -> None:
        """All connections are reset (RST), on both sides."""
        self._end(reset=True)

    def freeze(self) -> None:
        """All connections are half open: nothing goes through any more, and nobody is told. New ones work."""
        for pair in self._pairs:
            pair.frozen = True

    def _end(self, *, reset: bool = False) -> None:
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.end(reset=reset)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._end()


@contextlib.contextmanager
def proxy(host: str, port: int) -> Iterator[Proxy]:
    made = Proxy(host, port)
    try:
        yield made
    finally:
        made.close()
