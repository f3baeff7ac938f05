"""What MQTT clients know, what a hub has, and whether the one fits the other.

Times are places in the journal: a publish was stored somewhere between its sending and its acknowledgement, and a
subscription holds somewhere between SUBSCRIBE and SUBACK, until somewhere between UNSUBSCRIBE and UNSUBACK.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tests.crash.mqtt_journal import NEVER, Memory

__all__ = ["Client", "Found", "Life", "faults", "matches", "shared_out"]


class Client(NamedTuple):
    """``qos`` is that of what it publishes, ``subscribes`` has its filters with theirs. ``share``: one of the clients
    that share messages."""

    memory: Memory
    qos: int = 0
    subscribes: Mapping[str, int] = {}
    share: bool = False


class Life(NamedTuple):
    """A connection that had a will, and how often that may be published."""

    will: str
    fewest: int = 0
    most: int = 1


class Found(NamedTuple):
    """What a hub has, once clients have come back to it and all is delivered: names of messages and of wills, in the
    order of the log."""

    log: Sequence[str]
    wills: Sequence[str] = ()


def faults(clients: Mapping[str, Client], found: Found, lives: Sequence[Life] = ()) -> list[str]:
    """Every promise that was broken."""
    judge = _Judge(clients, found)
    return [
        *(wrong for client in clients.values() for wrong in client.memory.wrong),
        *judge.published(),
        *judge.received(),
        *judge.shared(),
        *_wills(found.wills, lives),
    ]


def shared_out(clients: Mapping[str, Client], log: Sequence[str]) -> bool:
    """Whether somebody has each message that one of those that share must have."""
    return next(_Judge(clients, Found(log)).unshared(), None) is None


class _Sent(NamedTuple):
    """When a message was stored: after ``sent``, before ``acked``."""

    topic: str
    qos: int
    sent: int
    acked: int


class _Judge:
    def __init__(self, clients: Mapping[str, Client], found: Found) -> None:
        self._clients = clients
        self._log = found.log
        self._counts = Counter(found.log)
        self._sent: dict[str, _Sent] = {}
        for client in clients.values():
            memory = client.memory
            for put in memory.puts:
                acked = memory.acked.get(put.name, NEVER)
                self._sent[put.name] = _Sent(put.topic, client.qos, memory.sent[put.name], acked)

    # Publishing

    def published(self) -> Iterator[str]:
        for name, sent in self._sent.items():
            count = self._counts[name]
            if sent.acked < NEVER and not count:
                yield f"{name} was acknowledged and is not in the log"
            if sent.qos == 2 and count > 1:
                yield f"{name} is in the log {count} times"
        for name in self._counts.keys() - self._sent.keys():
            yield f"{name} is in the log, and nobody published it"
        yield from _disordered("the log", self._log)

    # Subscribing

    def received(self) -> Iterator[str]:
        for who, client in self._clients.items():
            if client.subscribes and not client.share:
                yield from self._received(who, client)

    def _received(self, who: str, client: Client) -> Iterator[str]:
        memory = client.memory
        got = Counter(memory.got)
        for name in self._counts:
            qos = self._granted(client, name)
            if self._must_have(client, name) and not got[name]:
                yield f"{who} did not get {name}"
            if got[name] and not self._may_have(client, name):
                yield f"{who} got {name}, which it was not subscribed to"
            if got[name] > 1 and qos == 2 and name in self._sent and self._sent[name].qos == 2:
                yield f"{who} got {name} {got[name]} times"
        for name in got.keys() - self._counts.keys():
            yield f"{who} got {name}, which is not in the log"
        for name, count in memory.came.items():
            if count and self._counts[name] == 1:
                yield f"{who} got {name} again after it was settled"
        # What was published twice (QoS 1) may have been missed the first time.
        yield from _disordered(who, [name for name in memory.got if self._counts[name] == 1])

    def _granted(self, client: Client, name: str) -> int:
        topic = self._sent[name].topic if name in self._sent else ""
        return max((qos for one, qos in client.subscribes.items() if matches(one, topic)), default=0)

    def _windows(self, client: Client, name: str) -> Iterator[tuple[_Sent, tuple[int, int, int, int]]]:
        sent = self._sent.get(name)
        if sent is not None:
            for one, windows in client.memory.windows.items():
                if matches(one, sent.topic):
                    yield from ((sent, window) for window in windows)

    def _must_have(self, client: Client, name: str) -> bool:
        """Who leaves need not get what is queued and not begun (MQTT 5 §3.10.4)."""
        windows = self._windows(client, name)
        return any(granted < sent.sent and leaving == NEVER for sent, (_, granted, leaving, _) in windows)

    def _may_have(self, client: Client, name: str) -> bool:
        return any(asked < sent.acked and sent.sent < left for sent, (asked, _, _, left) in self._windows(client, name))

    def shared(self) -> Iterator[str]:
        got = {name for client in self._sharing for name in client.memory.got}
        for name in self.unshared():
            yield f"nobody of those that share got {name}"
        for name in got - self._counts.keys():
            yield f"somebody of those that share got {name}, which is not in the log"

    def unshared(self) -> Iterator[str]:
        got = {name for client in self._sharing for name in client.memory.got}
        for name in self._counts.keys() - got:
            if any(self._must_have(client, name) for client in self._sharing):
                yield name

    @property
    def _sharing(self) -> list[Client]:
        return [client for client in self._clients.values() if client.share]


def _disordered(where: str, names: Sequence[str]) -> Iterator[str]:
    """The first time that each comes: in the order of its publisher."""
    last: dict[str, int] = {}
    for name in dict.fromkeys(names):
        publisher, _, number = name.rpartition("-")
        if int(number) < last.get(publisher, -1):
            yield f"{where}: {name} comes after number {last[publisher]}"
        last[publisher] = max(int(number), last.get(publisher, -1))


def _wills(published: Sequence[str], lives: Sequence[Life]) -> Iterator[str]:
    counts = Counter(published)
    for life in lives:
        count = counts.pop(life.will, 0)
        if not life.fewest <= count <= life.most:
            yield f"{life} was published {count} times"
    for name in counts:
        yield f"a will {name} was published, and nobody has it"


def matches(filter: str, topic: str) -> bool:
    """MQTT 5 §4.7, for what these tests subscribe to."""
    wanted = filter.removeprefix("$share/g/").split("/")
    levels = topic.split("/")
    if wanted[-1] == "#":
        wanted, levels = wanted[:-1], levels[: len(wanted) - 1]
    return len(wanted) == len(levels) and all(w in ("+", level) for w, level in zip(wanted, levels, strict=True))
