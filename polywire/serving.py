"""A hub with its listeners: which wires ship, what they stand on, and how a process serves them."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from polywire.core.clock import Clock
from polywire.core.endings import Deadline
from polywire.core.engine import Engine
from polywire.core.errors import Invalid
from polywire.engines.sqlite import SqliteEngine
from polywire.server.listener import HttpListener
from polywire.server.settings import HttpSettings
from polywire.settings import Layers, Settings, load
from polywire.wires import rest, sse, websocket
from polywire.wires.rest.direct import DirectPublish

if TYPE_CHECKING:
    from polywire.hub import Hub

__all__ = ["ServeSettings", "Server", "code_settings", "configure", "run"]

_SAME_SIGNAL = 0.2  # seconds: a process group and its leader are often signalled both
LISTENERS = ("http",)
"""Everything that listens, by the name it has in settings, flags and the ready line.

REST, SSE and WebSocket mount on ``http``.
"""


class ServeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a server listens for, and the settings of its wires.

    ``only``: listen for these alone; ``without``: not for these. ``open``: reachable from elsewhere without API keys.
    """

    http: HttpSettings = HttpSettings()
    rest: rest.RestSettings = rest.RestSettings()
    sse: sse.SseSettings = sse.SseSettings()
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    open: bool = False

    def listens(self, name: str) -> bool:
        return name not in self.without and (not self.only or name in self.only)


class Server:
    """Life: construct → `start` (hub, then listeners) → serve → `stop` (drain, then close)."""

    def __init__(self, hub: Hub, settings: ServeSettings | None = None) -> None:
        self.hub = hub
        self.settings = settings or ServeSettings()
        self.http: HttpListener | None = None
        unknown = [name for name in (*self.settings.only, *self.settings.without) if name not in LISTENERS]
        if unknown:
            raise Invalid(
                f"no protocol listens under the name {unknown[0]!r}", hint=f"there are: {', '.join(LISTENERS)}"
            )

    @property
    def urls(self) -> dict[str, str]:
        """Where each listener is reached, by name."""
        return {"http": self.http.url} if self.http is not None else {}

    @property
    def access(self) -> Literal["open", "keys"]:
        return "open" if self.hub.core.access.open else "keys"

    def ready_line(self) -> bytes:
        """The machine contract's one line of JSON."""
        from polywire import __version__

        return msgspec.json.encode({
            "ready": True,
            "version": __version__,
            "hub": self.hub.name,
            "pid": os.getpid(),
            "data": os.path.abspath(self.hub.settings.data),  # noqa: PTH100 - no resolving of links
            "access": self.access,
            "wires": self.urls,
        })  # fmt: skip

    async def start(self, *, engine: Engine | None = None, clock: Clock | None = None) -> None:
        """Raises what `Hub.start` raises; `PortTaken`; `Invalid` for a reachable hub without keys."""
        await self.hub.start(engine=engine, clock=clock)
        try:
            if self.settings.listens("http"):
                self.http = self._http(self.settings)
                await self.http.start()
        except BaseException:
            await self.stop()
            raise

    def _http(self, settings: ServeSettings) -> HttpListener:
        from polywire import __version__

        core = self.hub.core
        self._require_loopback(settings.http.host)
        sockets = msgspec.structs.replace(settings.http.websocket, max_message_size=core.limits.message_size)
        origins = (*settings.http.origins, *self.hub.origins)
        listener = HttpListener(settings.http.replace(origins=origins, websocket=sockets), core.access)
        events = sse.SseApp(core, settings=settings.sse, connections=listener.connections)
        app = rest.RestApp(core, settings=settings.rest, events=events, name=self.hub.name, version=__version__)
        for path in rest.PREFIXES:
            listener.router.mount(path, app)
        for path in rest.EXACT:
            listener.router.mount_exact(path, app)
        DirectPublish(app).mount(listener.router)
        websocket.RawWebSockets(core, settings=sockets, connections=listener.connections).mount(listener.router)
        return listener

    def _require_loopback(self, host: str) -> None:
        if self.settings.open or self.access == "keys" or _is_loopback(host):
            return
        raise Invalid(
            f"the hub has no API keys and would listen on {host}",
            hint="make a key (polywire api-keys create NAME --allow '*:#' --data DIR), or say --open",
        )

    async def stop(self) -> None:
        """Refuse new work, end streams, finish what is under way (at most `Limits.drain`), close."""
        deadline = Deadline(self.hub.limits.drain / 1000)
        http, self.http = self.http, None
        try:
            # Until the hub has stopped there is an answer for those who ask: 503, and /ready says so too.
            await self.hub.stop()
        finally:
            if http is not None:
                await http.drain(deadline.left())
                await http.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


def code_settings(hub: Hub, **http: Any) -> Settings:
    """What the application gave: the weakest layer. Takes its origins: a stronger layer may want none of them."""
    origins, hub.origins = hub.origins, ()
    return Settings(hub=hub.settings, limits=hub.limits, http=HttpSettings(origins=origins).replace(**http))


def configure(
    hub: Hub, settings: Settings, *, only: tuple[str, ...] = (), without: tuple[str, ...] = (), open: bool = False
) -> tuple[ServeSettings, Engine]:
    """Give the hub its settings; what is left is for its server, and its engine."""
    hub.settings, hub.limits = settings.hub, settings.limits
    serve = ServeSettings(
        http=settings.http.replace(websocket=settings.websocket),
        rest=settings.rest,
        sse=settings.sse,
        only=only,
        without=without,
        open=open,
    )
    return serve, SqliteEngine(settings.hub.data, settings=settings.sqlite)


def run(
    hub: Hub,
    settings: ServeSettings | None = None,
    *,
    engine: Engine | None = None,
    started: Callable[[Server], None] | None = None,
    **http: Any,
) -> None:
    """Serve until SIGINT or SIGTERM; ``started`` is called once everything listens. A second signal ends the process
    at once.

    ``settings`` None: what the application gave, overruled by ``polywire.toml`` and the environment. ``http`` are
    fields of
    `HttpSettings`: ``hub.run(port=8080)``. ``engine`` None: the embedded one, in the hub's data folder.
    """
    if settings is None:
        settings, embedded = configure(hub, load(Layers({}, os.environ, None), code_settings(hub, **http)))
        engine = engine or embedded
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(hub, settings, engine, started or _announce))


async def _serve(hub: Hub, settings: ServeSettings, engine: Engine | None, started: Callable[[Server], None]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    server = Server(hub, settings)

    first = 0.0

    def signalled() -> None:
        nonlocal first
        if stop.is_set():
            if loop.time() - first < _SAME_SIGNAL:
                return
            sys.stderr.write("error: stopped at once by a second signal; the next start recovers\n")
            sys.stderr.flush()
            os._exit(1)
        first = loop.time()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signalled)
    starting = asyncio.ensure_future(server.start(engine=engine))
    waiting = asyncio.ensure_future(stop.wait())
    await asyncio.wait([starting, waiting], return_when=asyncio.FIRST_COMPLETED)
    try:
        await starting
        _calm_collector()
        started(server)
        await waiting
    finally:
        waiting.cancel()
        if not starting.exception():
            await server.stop()
        _leave(hub)


def _leave(hub: Hub) -> None:
    """Python would wait for what did not end in its time, for ever."""
    if any(not task.done() for task in hub.left_behind):
        logging.shutdown()
        sys.stderr.flush()
        os._exit(0)


def _calm_collector() -> None:
    """What was loaded stays; and messages have no cycles. So the garbage collector, whose full rounds stop the loop for
    tens of milliseconds, has little to find and is told to look seldom. This process is the hub's own."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _announce(server: Server) -> None:
    for name, url in server.urls.items():
        sys.stderr.write(f"{server.hub.name}: {name} on {url}\n")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
