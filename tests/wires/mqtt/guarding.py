"""A hub with API keys, and clients that log in with them over MQTT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.wires.mqtt.paho_client import PahoClient
from tests.wires.mqtt.raw_client import RawClient
from tests.wires.served_hub import ServedHub

__all__ = ["Guarded", "guarded"]


class Guarded:
    """A hub with keys, and clients that log in with them."""

    def __init__(self, served: ServedHub) -> None:
        self.served = served
        self.core = served.core
        self.keys: dict[str, str] = {}
        self.opened: list[PahoClient | RawClient] = []

    @property
    def port(self) -> int:
        return self.served.served.mqtt_port

    def key(self, name: str, *allow: str) -> str:
        _, secret = self.served.run(self.core.access.create_key(self.core.access.system, name, allow))
        self.keys[name] = secret
        return secret

    def revoke(self, name: str) -> None:
        self.served.run(self.core.access.revoke_key(self.core.access.system, name))

    def login(self, name: str | None) -> tuple[str, str] | None:
        return (name, self.keys[name]) if name is not None else None

    def paho(self, who: str | None, client_id: str = "", *, connects: bool = True, **options: Any) -> PahoClient:
        port = self.served.port if options.get("transport") == "websockets" else self.port
        client = PahoClient("127.0.0.1", port, client_id, login=self.login(who), **options)
        self.opened.append(client)
        if connects:
            assert client.connect().reason == 0
        return client

    def raw(self, who: str | None, client_id: str = "", level: int = 5, **options: Any) -> RawClient:
        client = RawClient("127.0.0.1", self.port, level)
        self.opened.append(client)
        assert client.connect(client_id, login=self.login(who), **options).body[1] == 0
        return client

    def refused(self, login: tuple[str, str] | None, level: int = 5, **options: Any) -> int:
        """The code of CONNACK."""
        client = RawClient("127.0.0.1", self.port, level)
        self.opened.append(client)
        code = client.connect(options.pop("client_id", "refused"), login=login, **options).body[1]
        assert code
        assert client.rest() == []
        return code

    def payloads(self, topic: str) -> list[Any]:
        self.served.run(self.core.log.published())
        key = self.keys.get("all") or self.key("all", "*:#")
        answer = self.served.get(f"/topics/{topic}", headers={"Authorization": f"Bearer {key}"})
        return [message["data"] for message in answer.json().get("messages", [])]

    def until_gone(self, count: int = 0) -> None:
        counters = self.core.counters.wire("mqtt")
        self.served.until(lambda: counters.connections == count)


def guarded(served: ServedHub) -> Iterator[Guarded]:
    found = Guarded(served)
    try:
        yield found
    finally:
        for client in found.opened:
            client.close()
