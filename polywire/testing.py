"""Testing an application: the hub on real sockets, in milliseconds, with a clock that the test moves.

async with polywire.testing.serve(hub) as t:
    requests.post(f"{t.http_url}/topics/readings", json={...})
    await t.settled()
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from polywire.core.clock import ManualClock
from polywire.core.durations import parse_duration
from polywire.core.engine import Engine
from polywire.engines.sqlite import SqliteEngine, SqliteSettings
from polywire.serving import Server, ServeSettings

if TYPE_CHECKING:
    from polywire.hub import Hub

__all__ = ["Served", "TestClock", "serve"]


class TestClock(ManualClock):
    """Real time, plus what the test adds. Everything in the hub that waits goes by it."""

    __test__ = False  # not a test case, whatever pytest thinks of its name

    def advance(self, time: int | str) -> None:
        """Move on by ``"1h"``, or by so many ms; what is due then runs."""
        super().advance(time if isinstance(time, int) else parse_duration(time))


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

    async def settled(self, timeout: float = 10.0) -> None:
        """Wait until everything published is stored and every subscription with consumers is drained.

        Messages that wait for a retry or a delay are not waited for: `clock.advance` makes them due. Raises `TimeoutError`, naming what is left.
        """
        core = self.hub.core
        try:
            async with asyncio.timeout(timeout):
                while True:
                    await core.log.published()
                    if not any(s.busy for s in core.subscriptions):
                        return
                    await asyncio.sleep(0.002)
        except TimeoutError:
            left = ", ".join(f"{s.name} ({s.pending.count} pending)" for s in core.subscriptions if s.busy)
            raise TimeoutError(f"not settled after {timeout} s: {left or 'the log'}") from None


@asynccontextmanager
async def serve(
    hub: Hub, *, settings: ServeSettings | None = None, data: str | None = None, engine: Engine | None = None
) -> AsyncIterator[Served]:
    """Serve ``hub`` on free ports of the loopback interface; its data lives in ``data``, or in a folder that is removed afterwards."""
    folder = data or tempfile.mkdtemp(prefix="polywire-test-")
    hub.configure(data=folder)
    settings = settings or ServeSettings()
    server = Server(hub, msgspec.structs.replace(settings, http=settings.http.replace(port=0)))
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
        if data is None:
            shutil.rmtree(folder, ignore_errors=True)
