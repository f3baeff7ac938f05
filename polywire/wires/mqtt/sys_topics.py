"""``$SYS/broker/…``: figures of the hub as topics, as brokers show them. Never stored; told at once on SUBSCRIBE, and
again when they changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from polywire.core.access import Action, Principal
from polywire.core.clock import Timer
from polywire.core.message import Record
from polywire.wires.mqtt.names import Filter

if TYPE_CHECKING:
    from polywire.wires.mqtt.client_session import Granted
    from polywire.wires.mqtt.live_feed import LiveFeed
    from polywire.wires.mqtt.server import Mqtt

__all__ = ["SysTopics"]


class SysTopics:
    """Costs nothing while nobody is subscribed."""

    def __init__(self, wire: Mqtt, version: str) -> None:
        self._wire = wire
        self._core = wire.core
        self._started = wire.core.clock.now()
        self._readers: dict[LiveFeed, dict[Granted, Principal]] = {}
        self._told: dict[bytes, bytes] = {}
        self._timer: Timer | None = None
        self._figures: dict[bytes, Callable[[], object]] = {
            b"$SYS/broker/version": lambda: f"polywire {version}",
            b"$SYS/broker/uptime": lambda: f"{(self._core.clock.now() - self._started) // 1_000} seconds",
            b"$SYS/broker/clients/connected": lambda: wire.open,
            b"$SYS/broker/clients/total": lambda: len(wire.sessions),
            b"$SYS/broker/messages/received": lambda: wire.counters.received,
            b"$SYS/broker/messages/sent": lambda: wire.counters.delivered,
        }

    def start(self) -> None:
        self._started = self._core.clock.now()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def subscribe(self, principal: Principal, filter: Filter, reader: LiveFeed, granted: Granted) -> None:
        """Raises `Denied`, `Unauthenticated`."""
        self._core.access.require(principal, Action.SUBSCRIBE, filter.dotted)
        before = [one for one in self._readers.get(reader, ()) if one.filter.text == filter.text]
        for one in before:
            self.unsubscribe(reader, one)
        self._readers.setdefault(reader, {})[granted] = principal
        if self._timer is None:
            self._told = self._now()
            self._tell_again()

    def unsubscribe(self, reader: LiveFeed, granted: Granted) -> None:
        mine = self._readers.get(reader, {})
        mine.pop(granted, None)
        if not mine:
            self._readers.pop(reader, None)

    def leave(self, reader: LiveFeed) -> None:
        self._readers.pop(reader, None)

    def retained(self, filter: Filter) -> list[tuple[bytes, bytes]]:
        """What a new subscription is told at once: names and values."""
        return [(name, value) for name, value in self._now().items() if filter.matches(name)]

    def _may(self, principal: Principal, filter: Filter) -> bool:
        """Still: rights are taken away while connections stand."""
        return self._core.access.allows(principal, Action.SUBSCRIBE, filter.dotted)

    def _now(self) -> dict[bytes, bytes]:
        return {name: str(figure()).encode() for name, figure in self._figures.items()}

    def _tell_again(self) -> None:
        clock, interval = self._core.clock, self._wire.settings.sys_interval
        if interval:
            self._timer = clock.call_at(clock.now() + interval, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if not self._readers:
            return
        now = self._now()
        changed = {name: value for name, value in now.items() if self._told.get(name) != value}
        self._told = now
        for reader, mine in list(self._readers.items()):
            allowed = [one for one, principal in mine.items() if self._may(principal, one.filter)]
            for name, value in changed.items():
                granted = tuple(one for one in allowed if one.filter.matches(name))
                if granted:
                    reader.tell(name, Record(value), granted)
        self._tell_again()
