"""The brokers that one set of tests judges: the hub, and a mosquitto of its own process where it is installed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec

from polywire import Hub
from polywire.serving import ServeSettings
from tests.conftest import require_tool
from tests.wires.mqtt.differences import DIFFERENCES
from tests.wires.mqtt.paho_client import PahoClient
from tests.wires.mqtt.raw_client import RawClient
from tests.wires.served_hub import ServedHub

__all__ = ["BACKENDS", "Broker", "Settings"]


class Settings(NamedTuple):
    """What a test asks of its broker, in MQTT's words; None: the broker's own default.

    ``login``: nobody is let in without one. ``receive_maximum`` is that of the broker, as its CONNACK says it.
    """

    login: bool = False
    max_keepalive: int | None = None
    max_packet_size: int | None = None
    max_queued: int | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None


class Broker(ABC):
    """``user`` may do everything; ``narrow`` may publish and subscribe below ``allowed`` alone. Each is a name and a
    password, where `Settings.login` asked for it."""

    name: ClassVar[str]
    host = "127.0.0.1"

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.port = 0
        self.user = self.narrow = ("", "")
        self.faults: list[str] = []
        """What went wrong within the broker, whatever a client did: nothing may."""
        self._open = contextlib.ExitStack()

    @abstractmethod
    def start(self) -> None:
        """Start, or start again with what was stored."""

    @abstractmethod
    def stop(self) -> None:
        """End as the broker's own users end it."""

    @property
    @abstractmethod
    def websocket_port(self) -> int:
        """MQTT over WebSocket is at path ``/mqtt`` of this port."""

    @abstractmethod
    def pass_time(self, seconds: float) -> None:
        """Time passes, for the broker."""

    def hurry(self, seconds: float) -> None:  # noqa: B027 - real time cannot be hurried
        """What is due within so many seconds may as well happen now. The test waits for it, in any case."""

    def differs(self, name: str) -> bool:
        """Whether this is a broker that does not do as the hub does, in the way `DIFFERENCES` tells under this name."""
        assert name in DIFFERENCES, name
        return self.name != "hub"

    def restart(self) -> None:
        self.close_clients()
        self.stop()
        self.start()

    def paho(self, client_id: str = "", *, transport: str = "tcp", **options: Any) -> PahoClient:
        """A client that is closed with the test, not connected yet: see `PahoClient`."""
        port = self.port if transport == "tcp" else self.websocket_port
        client = PahoClient(self.host, port, client_id, transport=transport, **options)
        self._open.callback(client.close)
        return client

    def connected(self, client_id: str = "", **options: Any) -> PahoClient:
        client = self.paho(client_id, **options)
        assert client.connect().reason == 0
        return client

    def raw(self, level: int = 4, **options: Any) -> RawClient:
        client = RawClient(self.host, self.port, level, **options)
        self._open.callback(client.close)
        return client

    def close_clients(self) -> None:
        self._open.close()


class HubBroker(Broker):
    name = "hub"

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings)
        self._keys: dict[str, str] = {}
        self._served: ServedHub | None = None

    @property
    def hub(self) -> ServedHub:
        assert self._served is not None, "it is not running"
        return self._served

    def start(self) -> None:
        given = {
            name: value for name, value in self.settings._asdict().items() if name != "login" and value is not None
        }
        serve = ServeSettings()
        mqtt = serve.mqtt.replace(sys_interval=1_000, **given)
        self._served = ServedHub(Hub("tested"), self.folder, msgspec.structs.replace(serve, mqtt=mqtt))
        self._served.start()
        self._served.call(self._watch_the_loop)
        self.port = self._served.served.mqtt_port
        if self.settings.login and not self._keys:
            self.user = ("device", self._make_key("device", "*:#"))
            self.narrow = ("narrow", self._make_key("narrow", "publish:allowed.#", "subscribe:allowed.#"))

    def _watch_the_loop(self) -> None:
        loop = asyncio.get_running_loop()

        def failed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            self.faults.append(f"{context.get('message')} {context.get('exception')!r}")
            loop.default_exception_handler(context)

        loop.set_exception_handler(failed)

    def _make_key(self, name: str, *allow: str) -> str:
        access = self.hub.core.access
        _, secret = self.hub.run(access.create_key(access.system, name, allow))
        self._keys[name] = secret
        return secret

    def stop(self) -> None:
        served, self._served = self._served, None
        if served is not None:
            served.stop()

    @property
    def websocket_port(self) -> int:
        return self.hub.port

    def pass_time(self, seconds: float) -> None:
        self.hub.call(self.hub.served.clock.advance, round(seconds * 1000))

    def hurry(self, seconds: float) -> None:
        self.pass_time(seconds)


class Mosquitto(Broker):
    name = "mosquitto"

    # By our names. Its `max_inflight_messages` is both its own window and what it grants.
    OPTIONS: ClassVar[dict[str, str]] = {
        "max_keepalive": "max_keepalive",
        "max_packet_size": "max_packet_size",
        "max_queued": "max_queued_messages",
        "receive_maximum": "max_inflight_messages",
    }

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings)
        self._command = require_tool("mosquitto")
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: tuple[int, int] = (0, 0)

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        if self.settings.login and self.user == ("", ""):
            self._make_users()
        for _ in range(5):
            if not self.port:
                self._ports = _free_ports()
            if self._started():
                self.port = self._ports[0]
                return
        raise RuntimeError((self.folder / "log").read_text())

    def _started(self) -> bool:
        """False: another process was quicker to take the port."""
        configuration = self.folder / "mosquitto.conf"
        configuration.write_text("\n".join(self._configuration()))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([self._command, "-c", str(configuration)], stderr=log)
        deadline = time.monotonic() + 10
        while self._process.poll() is None and time.monotonic() < deadline:
            if all(_listens(port) for port in self._ports):
                return True
            time.sleep(0.002)
        self.stop()
        return False

    def _configuration(self) -> list[str]:
        settings = self.settings
        lines = [
            "user root",  # started by root, it would else become a user who may not write here
            "log_type error",
            "log_type warning",
            "persistence true",
            f"persistence_location {self.folder}/",
            "sys_interval 1",
            "set_tcp_nodelay true",
            f"allow_anonymous {'false' if settings.login else 'true'}",
        ]
        if settings.login:
            lines += [f"password_file {self.folder}/users", f"acl_file {self.folder}/rights"]
        for name, option in self.OPTIONS.items():
            if (value := getattr(settings, name)) is not None:
                lines.append(f"{option} {value}")
        for port, protocol in zip(self._ports, ("mqtt", "websockets"), strict=True):
            lines += [f"listener {port} {self.host}", f"protocol {protocol}"]
            if settings.topic_alias_maximum is not None:
                lines.append(f"max_topic_alias {settings.topic_alias_maximum}")
        return [*lines, ""]

    def _make_users(self) -> None:
        self.user, self.narrow = ("device", "open sesame"), ("narrow", "open a little")
        users = self.folder / "users"
        users.touch(mode=0o600)
        for name, password in (self.user, self.narrow):
            subprocess.run([require_tool("mosquitto_passwd"), "-b", str(users), name, password], check=True)
        rights = self.folder / "rights"
        rights.write_text("user device\ntopic readwrite #\nuser narrow\ntopic readwrite allowed/#\n")
        rights.chmod(0o600)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(10)

    @property
    def websocket_port(self) -> int:
        return self._ports[1]

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)  # its clock is the real one


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


BACKENDS: dict[str, type[Broker]] = {broker.name: broker for broker in (HubBroker, Mosquitto)}
