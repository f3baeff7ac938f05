"""A hub that is killed between the acts of many scenes, which are played side by side.

A scene is a generator: at each ``yield`` the hub is killed with ``kill -9`` and started again.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import requests

from tests.cli.hub_process import Hub
from tests.wires.mqtt import raw_client as raw
from tests.wires.mqtt.raw_client import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, RawClient, acknowledge

__all__ = ["MAX_QUEUED", "Cast", "Scene", "play"]

BROKEN = Path(__file__).with_name("mqtt_broken_app.py")
MAX_QUEUED = 20
_FOREVER = b"\x11\xff\xff\xff\xff"


class Stage:
    """``broken``: the promise that its hub breaks, see `mqtt_breaks`; then nobody waits long for what does not come."""

    def __init__(self, data: Path, broken: str | None = None) -> None:
        self.patience = 10.0 if broken is None else 0.5
        self._data = data
        self._app = () if broken is None else (str(BROKEN),)
        self._settings = {"POLYWIRE_MQTT_MAX_QUEUED": str(MAX_QUEUED), "POLYWIRE_TEST_BREAKS": broken or ""}
        self.hub = self._start()

    def _start(self) -> Hub:
        return Hub(*self._app, data=self._data, env=self._settings)

    @property
    def mqtt_port(self) -> int:
        return int(self.hub.ready["wires"]["mqtt"].rpartition(":")[2])

    def kill(self) -> None:
        self.hub.signal(signal.SIGKILL)
        self.hub.end()
        self.hub = self._start()


class Cast:
    """The clients of one scene, at one level. ``topic`` is theirs alone, and their client ids begin so."""

    def __init__(self, stage: Stage, topic: str, level: int) -> None:
        self.topic = topic
        self.level = level
        self._stage = stage
        self._open = contextlib.ExitStack()
        self._fences = 0

    def raw(self, level: int = 4) -> RawClient:
        client = RawClient("127.0.0.1", self._stage.mqtt_port, level, patience=self._stage.patience)
        self._open.callback(client.close)
        return client

    def comes(self, who: str, *, present: bool | None = None, expiry: bytes = _FOREVER, **options: object) -> RawClient:
        """A client whose session lasts; ``present``: what CONNACK must say, where the level can."""
        client = self.raw(self.level)
        given = {"clean": False, "properties": expiry if self.level == 5 else b"", **options}
        connack = client.connect(f"{self.topic}-{who}", **given)
        assert connack.body[1] == 0, connack
        if present is not None and self.level > 3:
            assert connack.body[0] == present, f"Session Present is {connack.body[0]}"
        return client

    def subscriber(self, qos: int, filter: str | None = None, who: str = "s") -> RawClient:
        client = self.comes(who, present=False)
        assert client.subscribe((filter or self.topic, qos)).body[-1] == qos
        return client

    def store(self, *payloads: bytes, qos: int = 1, topic: str | None = None, retain: bool = False) -> None:
        """Published by somebody, and acknowledged."""
        client = self.raw()
        client.connect()
        for number, payload in enumerate(payloads, 1):
            client.publish(topic or self.topic, payload, qos, number, retain=retain)
            client.expect(PUBACK if qos == 1 else PUBREC)
            if qos == 2:
                client.send(acknowledge(PUBREL, number)).expect(PUBCOMP)
        client.close()

    def commit(self, client: RawClient) -> None:
        """Until what ``client`` has sent is stored: what it publishes now was taken after that."""
        self._fences += 1
        client.publish("fences", b"x", 1, 60_000 + self._fences)
        client.expect(PUBACK)

    def log(self, topic: str | None = None) -> list[str]:
        address = f"{self._stage.hub.url}/topics/{topic or self.topic}"
        answer = requests.get(address, params={"limit": "1000"}, timeout=10)
        return [message["data"] for message in answer.json()["messages"]] if answer.ok else []

    def retained(self, filter: str) -> list[str]:
        """Topics and payloads that a new subscriber is told."""
        self.store(b"edge", topic="edge", retain=True)
        client = self.raw()
        client.connect()
        client.subscribe((filter, 0))
        client.send(raw.subscribe(2, ("edge", 0)))
        found: list[str] = []
        while (packet := client.packet()) is not None:
            if packet.kind == PUBLISH:
                message = client.read(packet)
                if message.topic == "edge":
                    return found
                found.append(f"{message.topic} {message.payload.decode()}")
        raise AssertionError("the connection ended")

    def close(self) -> None:
        self._open.close()


Scene = Callable[[Cast], Iterator[None]]


def play(scenes: Mapping[str, Scene], levels: Mapping[str, int], data: Path, broken: str | None = None) -> None:
    """Each at each level, until the last has ended. Raises what went wrong in any of them. ``broken``: see `Stage`."""
    stage = Stage(data, broken)
    casts: dict[str, Cast] = {}
    acts: dict[str, Iterator[None]] = {}
    for name, said in itertools.product(scenes, levels):
        topic = f"{name}-{said}"
        casts[topic] = Cast(stage, topic, levels[said])
        acts[topic] = scenes[name](casts[topic])
    wrong: list[Exception] = []
    try:
        while acts:
            acts = {topic: act for topic, act in acts.items() if _goes_on(topic, act, wrong)}
            if acts:
                stage.kill()
            for cast in casts.values():
                cast.close()
    finally:
        stage.hub.end()
    if wrong:
        raise ExceptionGroup(f"{len(wrong)} of {len(casts)} scenes", wrong)


def _goes_on(topic: str, act: Iterator[None], wrong: list[Exception]) -> bool:
    try:
        next(act)
    except StopIteration:
        return False
    except Exception as error:  # noqa: BLE001 - the other scenes go on; it is raised at the end
        error.add_note(f"in scene {topic}")
        wrong.append(error)
        return False
    return True
