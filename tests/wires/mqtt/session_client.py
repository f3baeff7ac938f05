"""A client that speaks to a `Session` without a network: packets in, packets out, and what the hub was told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from polywire.wires.mqtt.codec import Decoder, encode
from polywire.wires.mqtt.in_flight import Sent, SessionState
from polywire.wires.mqtt.packets import Acks, Connack, Connect, Disconnect, Packet, Puback, Publish
from polywire.wires.mqtt.session import Broken, Completed, Event, Publishes, Release, Rules, Session, Settled

__all__ = [
    "RULES", "Client", "MakeClient", "broken", "completed", "handed", "make_client", "reasons", "released", "settled",
]  # fmt: skip

RULES = Rules(maximum_packet_size=10_000, receive_maximum=10, topic_alias_maximum=5, in_flight=20)
T = TypeVar("T")


class Client:
    """``piece``: how many bytes reach the session at once; 0: all that are sent."""

    def __init__(self, level: int = 5, rules: Rules = RULES, piece: int = 0) -> None:
        self.level = level
        self.session = Session(rules)
        self.events: list[Event] = []
        """What the session told, not taken yet."""
        self._piece = piece
        self._decoder = Decoder(maximum_packet_size=1 << 20, level=level)

    def send(self, *packets: Packet | bytes) -> list[Event]:
        """What it leads to."""
        data = b"".join(one if isinstance(one, bytes) else encode(one, self.level) for one in packets)
        step = self._piece or len(data)
        for start in range(0, len(data), step or 1):
            self.session.receive_data(data[start : start + step])
        return list(self.session.events())

    def ask(self, **options: Any) -> list[Event]:
        """CONNECT."""
        return self.send(Connect(self.level, "client", **options))

    def connect(self, state: SessionState | None = None, *, present: bool = False, **options: Any) -> Connack:
        """CONNECT, accepted: the CONNACK."""
        self.ask(**options)
        self.session.accept(state or SessionState(), Connack(session_present=present))
        connack = self.heard().pop(0)
        assert isinstance(connack, Connack)
        return connack

    def raw(self) -> bytes:
        """The bytes that are to be written."""
        return b"".join(self.session.data_to_send())

    def heard(self) -> list[Packet]:
        """What the session says; a run of PUBACK one by one."""
        heard: list[Packet] = []
        for packet in self._decoder.receive(self.raw()):
            heard += map(Puback, packet.ids) if isinstance(packet, Acks) else [packet]
        assert self._decoder.error is None, self._decoder.error.detail
        return heard


MakeClient = Callable[..., Client]


@pytest.fixture(name="make", params=[0, 1], ids=["whole", "byte by byte"])
def make_client(request: pytest.FixtureRequest) -> MakeClient:
    """Makes clients whose bytes arrive whole, or one by one: nothing may depend on how they are cut."""

    def made(level: int = 5, rules: Rules = RULES) -> Client:
        return Client(level, rules, request.param)

    return made


def of(events: Sequence[Event], kind: type[T]) -> list[T]:
    return [event for event in events if isinstance(event, kind)]


def handed(events: Sequence[Event]) -> list[Publish]:
    return [publish for event in of(events, Publishes) for publish in event.publishes]


def settled(events: Sequence[Event]) -> list[Sent]:
    return [entry for event in of(events, Settled) for entry in event.entries]


def completed(events: Sequence[Event]) -> list[int]:
    return [packet_id for event in of(events, Completed) for packet_id in event.ids]


def released(events: Sequence[Event]) -> list[tuple[int, int]]:
    return [(event.id, event.reason) for event in of(events, Release)]


def broken(events: Sequence[Event]) -> int:
    """The reason of the violation that comes last."""
    assert isinstance(events[-1], Broken), events
    return events[-1].error.reason


def reasons(packets: Sequence[Packet]) -> list[tuple[type, int]]:
    """Of CONNACK and DISCONNECT."""
    return [(type(packet), packet.reason) for packet in packets if isinstance(packet, (Connack, Disconnect))]
