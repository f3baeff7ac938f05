"""The wire: what all connections of MQTT share, and its life beside the listeners'."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from polywire.contract.contract import Contract
from polywire.core.access import Principal
from polywire.core.clock import Timer
from polywire.core.core import Core
from polywire.core.errors import Unavailable
from polywire.server.connections import Connections
from polywire.server.encodings import Encodings
from polywire.wires.mqtt.calls import Calls
from polywire.wires.mqtt.connection import Connection
from polywire.wires.mqtt.encoding import Encoder, Form
from polywire.wires.mqtt.reasons import Reason
from polywire.wires.mqtt.session import Rules
from polywire.wires.mqtt.sessions import Sessions
from polywire.wires.mqtt.settings import MqttSettings
from polywire.wires.mqtt.sys_topics import SysTopics

if TYPE_CHECKING:
    from polywire.wires.mqtt.client_session import Granted

__all__ = ["Mqtt"]

_logger = logging.getLogger("polywire.mqtt")
_PATROL = 1_000  # ms between looks for clients that have gone silent
_AT_ONCE = 256


class Mqtt:
    """Life: construct → `start` (restores sessions) → listeners call `connection` → `drain` → `close`."""

    def __init__(self, core: Core, contract: Contract, *, settings: MqttSettings, version: str = "") -> None:
        self.core = core
        self.settings = settings
        self.counters = core.counters.wire("mqtt")
        self.rules = Rules(
            maximum_packet_size=settings.max_packet_size,
            receive_maximum=settings.receive_maximum,
            topic_alias_maximum=settings.topic_alias_maximum,
            in_flight=settings.in_flight,
            maximum_request_size=settings.max_request_size,
        )
        self.connections = Connections(core.access, settings.max_connections_per_principal)
        self.encoder = Encoder(Encodings(settings.encoded_size), core.clock)
        self.sessions = Sessions(self)
        self.sys = SysTopics(self, version)
        self.calls = Calls(self, contract)
        self.slow_closed = 0
        self.silent_closed = 0
        self.skipped = 0
        """Messages that a client was not sent, because MQTT or it cannot be told them."""
        self.missed = 0
        """Messages that a client was too slow for, and that are gone."""
        self._open: dict[Connection, None] = {}
        self._draining = False
        self._patrol_timer: Timer | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    async def start(self) -> None:
        """Before anything listens."""
        self.sessions.start()
        self.sys.start()
        self._patrol_at()

    def connection(self, principal: Principal | None = None) -> Connection:
        """A protocol for a transport that was just accepted; ``principal``: who asked for the WebSocket."""
        return Connection(self, principal)

    def require_ready(self) -> None:
        """Raises `Unavailable`."""
        if self._draining or not self.core.ready:
            raise Unavailable("the hub is stopping", retry_after=1)

    @property
    def open(self) -> int:
        """Connections now."""
        return len(self._open)

    def arrived(self, connection: Connection) -> None:
        self._open[connection] = None
        self.counters.connections += 1
        self._empty.clear()

    def gone(self, connection: Connection) -> None:
        if self._open.pop(connection, connection) is None:
            self.counters.connections -= 1
        if not self._open:
            self._empty.set()

    # Time

    def _patrol_at(self) -> None:
        clock = self.core.clock
        self._patrol_timer = clock.call_at(clock.now() + _PATROL, self._patrol)

    def _patrol(self) -> None:
        """Close what is silent for too long: one look at all each second costs less than a timer for each."""
        self._look(list(self._open), 0)

    def _look(self, connections: list[Connection], first: int) -> None:
        now = self.core.clock.now()
        for connection in connections[first : first + _AT_ONCE]:
            connection.mind_silence(now)
        if first + _AT_ONCE < len(connections):
            asyncio.get_running_loop().call_soon(self._look, connections, first + _AT_ONCE)
        else:
            self._patrol_at()

    # How readers are told messages

    def form(self, granted: tuple[Granted, ...], level: int) -> Form:
        """Of one that has these subscriptions to a message."""
        options = [one.options for one in granted]
        identifiers = tuple(one.identifier for one in granted if one.identifier) if level >= 5 else ()
        return Form(
            level,
            qos=max((one.qos for one in options), default=0),
            retain_as_published=level >= 5 and any(one.retain_as_published for one in options),
            identifiers=identifiers,
        )

    # Ending

    async def drain(self, seconds: float) -> None:
        """Tell clients to go; what they published and is being stored is still acknowledged."""
        self._draining = True
        await self.calls.drain(seconds)
        for number, connection in enumerate(list(self._open)):
            connection.end(Reason.SERVER_SHUTTING_DOWN, "the hub is stopping", lingers=False)
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
        if self._open:
            try:
                await asyncio.wait_for(self._empty.wait(), seconds)
            except TimeoutError:
                _logger.info("%d clients did not go in %.1f s", len(self._open), seconds)

    async def close(self) -> None:
        for connection in list(self._open):
            connection.abort()
        self.sessions.stop()
        self.sys.stop()
        await self.calls.stop()
        if self._patrol_timer is not None:
            self._patrol_timer.cancel()
