"""TLS, for every listener alike: what certificate and key make, and connections that are accepted under it.

A server of asyncio's tells nobody of a connection before its handshake is done: a peer that begins one and says no more
holds a socket that no bound of a listener sees. So with TLS connections are accepted here, and counted (`TlsServer`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NoReturn, cast

from polywire.core.errors import Invalid
from polywire.server.settings import TlsSettings

__all__ = ["TlsServer", "server_context"]

log = logging.getLogger("polywire.tls")

_HINT: Final = (
    "PEM files, named with --tls-cert and --tls-key or in [tls]; polywire dev-certs makes some for this machine"
)
_RECOVERY: Final = 1.0
"""Seconds without accepting where the system refuses, as asyncio has it."""


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """TLS 1.2 or newer. Raises `Invalid`, naming setting and file, for what cannot be read or does not fit."""
    for name in ("certificate", "key", "client_ca"):
        _require_readable(name, getattr(settings, name))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a password of ours OpenSSL would ask for one on the terminal, and wait.
        context.load_cert_chain(settings.certificate, settings.key, lambda: settings.password or "")
    except ssl.SSLError as error:
        _refuse_pair(settings, error)
    if settings.client_ca is not None:
        try:
            context.load_verify_locations(settings.client_ca)
        except ssl.SSLError:
            raise _wrong("client_ca", settings.client_ca, "not a certificate in PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _require_readable(name: str, path: str | None) -> None:
    if path is None:
        return
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise _wrong(name, path, error.strerror or str(error)) from None


def _refuse_pair(settings: TlsSettings, error: ssl.SSLError) -> NoReturn:
    """Say which of the two is wrong; OpenSSL does not."""
    if error.reason == "KEY_VALUES_MISMATCH":
        raise _wrong("key", settings.key, f"not the key of {settings.certificate}") from None
    try:
        ssl.create_default_context(cafile=settings.certificate)
    except ssl.SSLError:
        raise _wrong("certificate", settings.certificate, "not a certificate in PEM") from None
    encrypted = b"ENCRYPTED" in Path(settings.key).read_bytes()
    reason = "it is encrypted, and tls.password does not open it" if encrypted else "not a private key in PEM"
    raise _wrong("key", settings.key, reason) from None


def _wrong(name: str, path: str, reason: str) -> Invalid:
    return Invalid(f"tls.{name}: {path}: {reason}", hint=_HINT)


class TlsServer:
    """Accepts connections and has ``protocol`` talk over each, once its handshake is done. Life: `listen` → `close`.

    A handshake has ``seconds``. ``room`` is asked how many connections there may be on top of those that are open: what
    is beyond is cut at once, and counted.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        protocol: Callable[[], asyncio.Protocol],
        *,
        room: Callable[[], int],
        seconds: float,
    ) -> None:
        self.failed = 0
        self.refused = 0
        self._context = context
        self._protocol = protocol
        self._room = room
        self._seconds = seconds
        self._accepting: set[asyncio.Task[None]] = set()
        self._handshakes: dict[socket.socket, asyncio.Task[None]] = {}

    @property
    def handshakes(self) -> int:
        """How many are under way."""
        return len(self._handshakes)

    def listen(self, bound: socket.socket, backlog: int) -> None:
        bound.setblocking(False)
        bound.listen(backlog)
        self._accepting.add(asyncio.ensure_future(self._accept(bound)))

    async def close(self) -> None:
        """Accept no more, and cut the handshakes that are under way. What is open stays."""
        tasks = {*self._accepting, *self._handshakes.values()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._accepting.clear()

    async def _accept(self, bound: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(bound)
                except ConnectionAbortedError:  # it left before it was accepted
                    continue
                except OSError as error:  # no more open files, most likely
                    log.error("cannot accept connections: %s", error.strerror)  # noqa: TRY400 - no fault of ours
                    await asyncio.sleep(_RECOVERY)
                    continue
                self._begin(accepted)
        finally:
            bound.close()

    def _begin(self, accepted: socket.socket) -> None:
        if len(self._handshakes) >= self._room():
            self.refused += 1
            accepted.close()
            return
        self._handshakes[accepted] = asyncio.ensure_future(self._shake_hands(accepted))

    async def _shake_hands(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Upgraded(partial(self._welcome, accepted)),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._seconds,
                ssl_shutdown_timeout=self._seconds,
            )
        except OSError as error:  # a peer that does not speak TLS, does not trust us, leaves, or is too slow
            self.failed += 1
            log.debug("a TLS handshake failed: %r", error)
        finally:
            self._handshakes.pop(accepted, None)

    def _welcome(self, accepted: socket.socket, transport: asyncio.Transport) -> None:
        """The handshake is done: from now on it is a connection, and counted as one."""
        del self._handshakes[accepted]
        protocol = self._protocol()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class _Upgraded(asyncio.Protocol):
    """Until the handshake is done."""

    def __init__(self, welcome: Callable[[asyncio.Transport], None]) -> None:
        self._welcome = welcome

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._welcome(cast("asyncio.Transport", transport))
