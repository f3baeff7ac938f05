"""What MQTT clients saw and did, in one journal; and what each of them knows by it.

A client writes down what it sends before it sends it, and what it gets as soon as it has it. So at any moment the hub
has heard of nothing that is not in the journal, and what stands in it was true by then. What a client knows is what
follows from its entries: the beginning of a journal gives the clients as they were then.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Entry", "Journal", "Memory", "Window"]


class Entry(NamedTuple):
    """``name`` is that of a message, a filter or a will; ``id`` a packet id, or how often, or a number."""

    who: str
    what: str
    name: str = ""
    id: int = 0
    qos: int = 0
    topic: str = ""


class Journal:
    """Only grows; from any thread."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self.entries: list[Entry] = list(entries)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.entries)

    def write(self, entry: Entry) -> int:
        """Where it stands."""
        with self._lock:
            self.entries.append(entry)
            return len(self.entries) - 1


NEVER = 1 << 62


class Window(NamedTuple):
    """A subscription, by places in the journal: asked for, granted, to be ended, ended."""

    asked: int
    granted: int = NEVER
    leaving: int = NEVER
    left: int = NEVER


class Memory:
    """``eager``: it takes a message of QoS 2 when it comes, and then keeps its id; else it keeps the message, and takes
    it when it is released (MQTT 3.1.1 §4.3.3, both ways)."""

    def __init__(self, *, eager: bool = True) -> None:
        self.session: bool | None = False
        """Whether the hub has a session of it; None: perhaps."""
        self.renews = False
        """Whether it has asked for a clean session, and has not been answered: nothing else may come before that."""
        self.out: dict[int, Entry] = {}
        """By packet id what it published and is not over."""
        self.released: dict[int, None] = {}
        self.held: dict[int, str] = {}
        """Names of messages of QoS 2 that came and are not released, by packet id."""
        self.sent: dict[str, int] = {}
        """By name, where the journal says so."""
        self.acked: dict[str, int] = {}
        self.got: list[str] = []
        self.puts: list[Entry] = []
        """What it published, in order: of retained messages the last of a topic counts."""
        self.settled: set[str] = set()
        """Messages of QoS 1 that it acknowledged, and the hub proved later that it had stored that."""
        self.came: Counter[str] = Counter()
        """Messages of QoS 1, since they were settled."""
        self.windows: dict[str, list[Window]] = {}
        self.wrong: list[str] = []
        self._eager = eager
        self._expected: bool | None = False  # of Session Present
        self._taken: list[str] = []  # acknowledged at QoS 1
        self._proofs: dict[int, int] = {}  # how many of these stood before its own PUBLISH

    def take(self, entry: Entry, at: int) -> None:
        getattr(self, f"_{entry.what}")(entry, at)

    # Connections

    def _connecting(self, entry: Entry, at: int) -> None:
        self._expected = self.session
        if self.session is False:
            self._begin_anew()
            self.session = None
        # What was acknowledged on the connection before may not have arrived.
        self._taken.clear()
        self._proofs = dict.fromkeys(self._proofs, 0)

    def _renewing(self, entry: Entry, at: int) -> None:
        """As connecting, with a clean session, which ends with the connection."""
        self.renews, self._expected = True, False
        self._begin_anew()

    def _connected(self, entry: Entry, at: int) -> None:
        """``id`` is Session Present; ``qos``, whether CONNACK can say it."""
        if entry.qos and self._expected is not None and bool(entry.id) != self._expected:
            self.wrong.append(f"{entry.who} was told Session Present {entry.id}, which is not so")
        self.session = not self.renews
        self.renews = False

    def _begin_anew(self) -> None:
        """Nothing of a session is for the next [MQTT-3.1.2-6 of 3.1.1]."""
        self.out.clear()
        self.released.clear()
        self.held.clear()
        self._proofs.clear()

    # Publishing

    def _publishing(self, entry: Entry, at: int) -> None:
        self.out[entry.id] = entry
        self.sent[entry.name] = at
        self.puts.append(entry)
        self._proofs[entry.id] = len(self._taken)

    def _puback(self, entry: Entry, at: int) -> None:
        self._over(entry, at)

    def _pubrec(self, entry: Entry, at: int) -> None:
        if entry.id in self.out:
            self.released[entry.id] = None

    def _pubcomp(self, entry: Entry, at: int) -> None:
        self.released.pop(entry.id, None)
        self._over(entry, at)

    def _over(self, entry: Entry, at: int) -> None:
        published = self.out.pop(entry.id, None)
        if published is None:
            self.wrong.append(f"{entry} is for nothing that was published")
            return
        self.acked[published.name] = at
        self._prove(self._proofs.pop(entry.id))

    def _prove(self, count: int) -> None:
        """The hub took its acknowledgements before it took the PUBLISH that it has now acknowledged."""
        self.settled.update(self._taken[:count])
        del self._taken[:count]
        self._proofs = {packet_id: max(0, before - count) for packet_id, before in self._proofs.items()}

    # Subscribing

    def _subscribing(self, entry: Entry, at: int) -> None:
        self.windows.setdefault(entry.name, []).append(Window(at))

    def _subscribed(self, entry: Entry, at: int) -> None:
        self.windows[entry.name][-1] = self.windows[entry.name][-1]._replace(granted=at)

    def _unsubscribing(self, entry: Entry, at: int) -> None:
        self.windows[entry.name][-1] = self.windows[entry.name][-1]._replace(leaving=at)

    def _unsubscribed(self, entry: Entry, at: int) -> None:
        self.windows[entry.name][-1] = self.windows[entry.name][-1]._replace(left=at)

    def wants(self, name: str) -> bool:
        """Whether it is subscribed, as far as it knows."""
        windows = self.windows.get(name)
        return bool(windows) and windows[-1].granted < NEVER and windows[-1].leaving == NEVER

    def _came(self, entry: Entry, at: int) -> None:
        """A PUBLISH."""
        if entry.qos < 2:
            self.got.append(entry.name)
            self.came[entry.name] += entry.name in self.settled
            return
        known = self.held.get(entry.id)
        if known is None:
            self.held[entry.id] = entry.name
            if self._eager:
                self.got.append(entry.name)
        elif known != entry.name:
            self.wrong.append(f"{entry.who} takes {entry.name} for {known}: both have packet id {entry.id}")

    def _taking(self, entry: Entry, at: int) -> None:
        """It sends PUBACK."""
        self._taken.append(entry.name)

    def _pubrel(self, entry: Entry, at: int) -> None:
        name = self.held.pop(entry.id, None)
        if name is not None and not self._eager:
            self.got.append(name)

    # A client whose library keeps the packet ids to itself

    def _sending(self, entry: Entry, at: int) -> None:
        self.sent[entry.name] = at
        self.puts.append(entry)

    def _acked(self, entry: Entry, at: int) -> None:
        self.acked[entry.name] = at

    def _took(self, entry: Entry, at: int) -> None:
        self.got.append(entry.name)
