"""Testing an application: the hub on real sockets, in milliseconds, with a clock that the test moves.

    served = polywire.testing.fixture(hub)                      # or: async with polywire.testing.serve(hub) as served

    async def test_alert(served):
        url = f"{served.http_url}/topics/readings"
        await asyncio.to_thread(requests.post, url, json={"sensor": "a", "celsius": 41})
        await served.settled()
        assert ...

The hub runs on the test's own event loop: clients that block belong into a thread, as above.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from polywire.core.clock import ManualClock
from polywire.core.durations import parse_duration
from polywire.core.engine import Engine
from polywire.engines.sqlite import SqliteEngine, SqliteSettings
from polywire.serving import Server, ServeSettings

if TYPE_CHECKING:
    from polywire.hub import Hub

__all__ = ["Served", "TestClock", "fixture", "serve"]


class TestClock(ManualClock):
    """Real time, plus what the test adds. Everything in the hub that waits goes by it."""

    __test__ = False  # not a test case, whatever pytest thinks of its name

    def advance(self, milliseconds: int | str) -> None:
        """Move on by so many ms, or by a duration as ``"1h"``; what is due then runs."""
        super().advance(milliseconds if isinstance(milliseconds, int) else parse_duration(milliseconds))


class Served:
    """A hub that serves, for a test."""

    def __init__(self, server: Server, clock: TestClock) -> None:
        self.server = server
        self.hub = server.hub
        self.clock = clock

    @property
    def http_url(self) -> str:
        return self.server.urls["http"]

    @property
    def ws_url(self) -> str:
        return self.http_url.replace("http", "ws", 1)

    @property
    def mqtt_url(self) -> str:
        return self.server.urls["mqtt"]

    @property
    def mqtt_port(self) -> int:
        return int(self.mqtt_url.rpartition(":")[2])

    async def settled(self, within: float = 10.0) -> None:
        """Wait until everything published is stored, every subscription with consumers is drained, and every job and
        schedule that is due has run.

        What waits for a retry or a delay is not waited for: `clock.advance` makes it due. Raises
        `TimeoutError` after ``within`` seconds, naming what is left.
        """
        core = self.hub.core
        try:
            async with asyncio.timeout(within):
                await core.log.published()
                while self._left():
                    await asyncio.sleep(0.002)
                    await core.log.published()
        except TimeoutError:
            left = ", ".join(self._left())
            raise TimeoutError(f"not settled after {within} s: {left or 'the log'}") from None

    def _left(self) -> list[str]:
        """What is due and not done."""
        core = self.hub.core
        busy = (s for s in core.subscriptions if s.busy or (s.filling is not None and s.consumers))
        return [
            *(f"{s.name} ({s.pending.count} pending)" for s in busy),
            *(f"schedule {s.name}" for s in core.schedules if s.running is not None),
            *(["delayed messages"] if core.delays.releasing else []),
            *([f"{core.jobs.running} jobs"] if core.jobs.running else []),
        ]


@asynccontextmanager
async def serve(
    hub: Hub, *, settings: ServeSettings | None = None, data: str | None = None, engine: Engine | None = None
) -> AsyncIterator[Served]:
    """Serve ``hub`` on free ports of the loopback interface: every protocol, or those of ``settings.only``.

    Its data lives in ``data``, or in a folder that is removed afterwards. The same hub may be served again.
    """
    folder = data or tempfile.mkdtemp(prefix="polywire-test-")
    usual = hub.settings.data
    hub.configure(data=folder)
    settings = settings or ServeSettings()
    free = {"http": settings.http.replace(port=0), "mqtt": settings.mqtt.replace(port=0, tls_port=0)}
    server = Server(hub, msgspec.structs.replace(settings, **free))
    clock = TestClock()
    try:
        # A test's disk has no acknowledged messages worth 64 MiB of reserve.
        engine = engine or SqliteEngine(folder, settings=SqliteSettings(reserve_size=0))
        await server.start(engine=engine, clock=clock)
        try:
            yield Served(server, clock)
        finally:
            await server.stop()
    finally:
        hub.configure(data=usual)
        if data is None:
            shutil.rmtree(folder, ignore_errors=True)


def fixture(hub: Hub, **options: Any) -> Any:
    """A pytest fixture (it needs pytest-asyncio) that serves ``hub`` for one test; ``options`` are those of `serve`."""
    import pytest_asyncio

    async def served() -> AsyncIterator[Served]:
        async with serve(hub, **options) as serving:
            yield serving

    return pytest_asyncio.fixture(served)
