"""A hub with its listeners: which wires ship, what they stand on, and how a process serves them."""

from __future__ import annotations

import asyncio
import gc
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
from polywire.server.asgi import is_loopback
from polywire.server.connections import Connections
from polywire.server.listener import HttpListener
from polywire.server.mounted import Applications
from polywire.server.router import Router
from polywire.server.settings import HttpSettings
from polywire.server.sockets import allow_descriptors
from polywire.server.stream_listener import Endpoint, StreamListener
from polywire.settings import Layers, Settings, load
from polywire.wires import rest, sse, websocket
from polywire.wires.mqtt import Mqtt, MqttSettings
from polywire.wires.mqtt.settings import LARGEST_PACKET
from polywire.wires.mqtt.websocket import OverWebSocket
from polywire.wires.rest.direct import DirectPublish
from polywire.wires.rest.direct_calls import DirectCalls

if TYPE_CHECKING:
    from polywire.hub import Hub

__all__ = [
    "ServeSettings",
    "Server",
    "assemble",
    "code_settings",
    "configure",
    "http_settings",
    "mqtt_settings",
    "run",
    "serve_settings",
]

_SAME_SIGNAL = 0.2  # seconds: a process group and its leader are often signalled both
_PATIENCE = 0.2  # of the time to drain: for requests to mounted applications that are under way
_GOODBYE = 0.1  # of the time to drain: for MQTT clients to hear that they must go
_AROUND_A_MESSAGE = 128 << 10
"""What a packet of MQTT holds besides the payload: topic name, properties."""
LISTENERS: dict[str, tuple[str, str]] = {
    "http": ("http", "port"),
    "mqtt": ("mqtt", "port"),
    "mqtts": ("mqtt", "tls_port"),
}
"""Everything that listens, by the name it has in flags and the ready line, and the setting of its port.

REST, SSE, WebSocket and MQTT over WebSocket mount on ``http``; ``mqtts`` listens once there is a certificate.
"""


class ServeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a server listens for, and the settings of its wires, each with the TLS that is its own.

    ``only``: listen for these alone; ``without``: not for these. ``open``: reachable from elsewhere without API keys.
    """

    http: HttpSettings = HttpSettings()
    rest: rest.RestSettings = rest.RestSettings()
    sse: sse.SseSettings = sse.SseSettings()
    jsonrpc: websocket.JsonRpcSettings = websocket.JsonRpcSettings()
    mqtt: MqttSettings = MqttSettings()
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    open: bool = False

    def listens(self, name: str) -> bool:
        if name == "mqtts" and self.mqtt.tls is None:
            return False
        return name not in self.without and (not self.only or name in self.only)

    def check(self) -> None:
        """Raises `Invalid` for a name that nothing listens under, and for TLS alone without a certificate."""
        unknown = [name for name in (*self.only, *self.without) if name not in LISTENERS]
        if unknown:
            raise Invalid(
                f"no protocol listens under the name {unknown[0]!r}", hint=f"there are: {', '.join(LISTENERS)}"
            )
        if "mqtts" in self.only and self.mqtt.tls is None:
            raise Invalid("mqtts needs a certificate", hint="give --tls-cert and --tls-key, or [tls]")


class Server:
    """Life: construct → `start` (hub, then listeners) → serve → `stop` (drain, then close)."""

    def __init__(self, hub: Hub, settings: ServeSettings | None = None) -> None:
        """Raises what `ServeSettings.check` raises."""
        self.hub = hub
        self.settings = settings or ServeSettings()
        self.settings.check()
        self.http: HttpListener | None = None
        self.mqtt: Mqtt | None = None
        self._streams: list[StreamListener] = []

    @property
    def urls(self) -> dict[str, str]:
        """Where each listener is reached, by name."""
        http = {"http": self.http.url} if self.http is not None else {}
        return http | {listener.endpoint.name: listener.url for listener in self._streams}

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
        """Raises what `Hub.start` raises; `PortTaken`; `Invalid` for a reachable hub without keys and for files of TLS;
        `ValueError` and `RuntimeError` for a mounted application on a path that is taken, or that cannot start."""
        await self.hub.start(engine=engine, clock=clock)
        try:
            await self._listen()
        except BaseException:
            await self.stop()
            raise

    async def _listen(self) -> None:
        """Wires first, then addresses; nobody is let in before everything stands."""
        settings, http, mqtt = self.settings, None, None
        if settings.listens("http"):
            http = http_settings(self.hub, settings)
            self._require_loopback(http.host)
        if settings.listens("mqtt") or settings.listens("mqtts"):
            mqtt = mqtt_settings(self.hub, settings)
            self._require_loopback(mqtt.host or "")
            await self._start_mqtt(mqtt)
        applications = self._assemble(http) if http is not None else None
        for listener in self._listeners:
            listener.bind()
        if applications is not None:
            await applications.start()
        allow_descriptors(sum(one.max_connections for one in (http, mqtt) if one is not None))
        for listener in reversed(self._listeners):  # who asks /ready finds all of them
            await listener.start()

    @property
    def _listeners(self) -> list[HttpListener | StreamListener]:
        return [*([self.http] if self.http is not None else []), *self._streams]

    def _assemble(self, http: HttpSettings) -> Applications:
        self.http = listener = HttpListener(http, self.hub.core.access)
        applications = assemble(self.hub, self.settings, http, listener.router, listener.connections, self.mqtt)

        async def end_mounted() -> None:
            listener.end_mounted()
            await applications.stop()

        self.hub.on_stop(end_mounted)
        return applications

    async def _start_mqtt(self, settings: MqttSettings) -> None:
        from polywire import __version__

        hub = self.hub
        self.mqtt = mqtt = Mqtt(hub.core, hub.contract, settings=settings, version=__version__)
        await mqtt.start()
        hub.on_stop(self._stop_mqtt)
        endpoint = Endpoint("mqtt", settings.host or "", settings.port, settings.backlog)
        secure = endpoint._replace(
            name="mqtts",
            port=settings.tls_port,
            tls=settings.tls,
            handshake_timeout=settings.connect_timeout / 1000,
        )
        self._streams = [
            StreamListener(one, mqtt.connection, lambda: settings.max_connections - mqtt.open)
            for one in (endpoint, secure)
            if self.settings.listens(one.name)
        ]

    async def _stop_mqtt(self) -> None:
        """While the core still takes what sessions leave behind."""
        for listener in self._streams:
            await listener.close()
        if (mqtt := self.mqtt) is not None:
            try:
                await mqtt.drain(self.hub.limits.drain / 1000 * _GOODBYE)
            finally:
                await mqtt.close()

    def _require_loopback(self, host: str) -> None:
        if self.settings.open or self.access == "keys" or is_loopback(host):
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
            for listener in self._streams:  # again, where the hub's own stop did not come to them
                await listener.close()
            self.mqtt, self._streams = None, []
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


def http_settings(hub: Hub, settings: ServeSettings) -> HttpSettings:
    """As the hub completes them: its own origins, and the size of its messages."""
    sockets = msgspec.structs.replace(settings.http.websocket, max_message_size=hub.limits.message_size)
    return settings.http.replace(origins=(*settings.http.origins, *hub.origins), websocket=sockets)


def mqtt_settings(hub: Hub, settings: ServeSettings) -> MqttSettings:
    """As the hub completes them: the host that is everybody's, and the size of its messages."""
    mqtt, size = settings.mqtt, hub.limits.message_size + _AROUND_A_MESSAGE
    return mqtt.replace(
        host=settings.http.host if mqtt.host is None else mqtt.host,
        max_packet_size=mqtt.max_packet_size or min(size, LARGEST_PACKET),
    )


def assemble(
    hub: Hub,
    settings: ServeSettings,
    http: HttpSettings,
    router: Router,
    connections: Connections,
    mqtt: Mqtt | None = None,
) -> Applications:
    """Give every wire that mounts on HTTP its paths, and what the user mounted the others. The hub has started;
    ``http`` are of `http_settings`; ``mqtt`` has its place there too, where it runs. Returns what the user mounted, to
    be started. Raises `ValueError` for a path that is taken."""
    from polywire import __version__

    core = hub.core
    events = sse.SseApp(core, settings=settings.sse, connections=connections)
    app = rest.RestApp(core, hub.contract, settings=settings.rest, events=events, name=hub.name, version=__version__)
    app.mount(router)
    DirectPublish(app).mount(router)
    DirectCalls(app).mount(router)
    websocket.RawWebSockets(core, settings=http.websocket, connections=connections).mount(router)
    websocket.JsonRpc(
        core, hub.contract, settings=settings.jsonrpc, websocket=http.websocket, connections=connections
    ).mount(router)
    if mqtt is not None:
        OverWebSocket(mqtt.settings, mqtt.connection).mount(router)
    applications = Applications(hub.mounts, patience=hub.limits.drain / 1000 * _PATIENCE)
    routes = (operation.route for operation in hub.contract.operations)
    applications.mount(router, index=not any(route is not None and route.path == "/" for route in routes))
    return applications


def code_settings(hub: Hub, *, mqtt: MqttSettings | None = None, **http: Any) -> Settings:
    """What the application gave: the weakest layer. Takes its origins: a stronger layer may want none of them."""
    origins, hub.origins = hub.origins, ()
    given = HttpSettings(origins=origins).replace(**http)
    return Settings(hub=hub.settings, limits=hub.limits, http=given, mqtt=mqtt or MqttSettings())


def configure(
    hub: Hub, settings: Settings, *, only: tuple[str, ...] = (), without: tuple[str, ...] = (), open: bool = False
) -> tuple[ServeSettings, Engine]:
    """Give the hub its settings; what is left is for its server, and its engine."""
    hub.settings, hub.limits = settings.hub, settings.limits
    serve = msgspec.structs.replace(serve_settings(settings), only=only, without=without, open=open)
    return serve, SqliteEngine(settings.hub.data, settings=settings.sqlite)


def serve_settings(settings: Settings) -> ServeSettings:
    """Those of the wires, out of all."""
    http = settings.http.replace(websocket=settings.websocket, tls=settings.http.tls or settings.tls)
    mqtt = settings.mqtt.replace(tls=settings.mqtt.tls or settings.tls)
    return ServeSettings(http=http, rest=settings.rest, sse=settings.sse, jsonrpc=settings.jsonrpc, mqtt=mqtt)


def run(
    hub: Hub,
    settings: ServeSettings | None = None,
    *,
    engine: Engine | None = None,
    started: Callable[[Server], None] | None = None,
    only: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    mqtt: MqttSettings | None = None,
    **http: Any,
) -> None:
    """Serve until SIGINT or SIGTERM; ``started`` is called once everything listens. A second signal ends the process
    at once.

    ``settings`` None: what the application gave, overruled by ``polywire.toml`` and the environment: ``http`` are
    fields of `HttpSettings`, as in ``hub.run(port=8080)``; ``only`` and ``without`` name listeners, as in
    ``hub.run(only=("http",))``. ``engine`` None: the embedded one, in the hub's data folder.
    """
    if settings is None:
        layers = Layers({}, os.environ, None)
        found = load(layers, code_settings(hub, mqtt=mqtt, **http))
        settings, embedded = configure(hub, found, only=only, without=without)
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
