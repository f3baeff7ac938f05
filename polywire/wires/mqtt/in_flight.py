"""What a session knows of messages on their way: Session State of MQTT 5 §4.1, without subscriptions and queues.

It outlives its connection. Towards the client a PUBLISH of QoS 1 or 2 holds its packet id until its exchange is over:

    QoS 1, §4.3.2:   PUBLISH ─▶ UNACKNOWLEDGED ─ PUBACK ─▶ over
    QoS 2, §4.3.3:   PUBLISH ─▶ UNACKNOWLEDGED ─ PUBREC ─▶ RECORDED ─ PUBREL ─▶ RELEASED ─ PUBCOMP ─▶ over

From the client only QoS 2 is remembered, from PUBLISH to PUBREL, so that none counts twice. It is handed over, then
in a transaction, then promised:

    PUBLISH ─▶ HANDED ─▶ STORED ─ PUBREC ─▶ ACKNOWLEDGED ─ PUBREL ─▶ over
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, Final

import msgspec

from polywire.wires.mqtt.reasons import MqttError, Reason

__all__ = ["MOST_IDS", "Received", "Sent", "SessionState", "Stage"]

MOST_IDS: Final = 65_535
"""Packet ids are 1 to this [MQTT-2.2.1-4]."""


class Stage:
    """Where a message to the client is. Plain integers, in their order."""

    UNACKNOWLEDGED: Final = 0
    RECORDED: Final = 1  # PUBREC has come
    RELEASED: Final = 2  # and PUBREL is sent


class Received:
    """Where a message from the client is. Plain integers, in their order."""

    HANDED: Final = 0
    STORED: Final = 1
    ACKNOWLEDGED: Final = 2


class Sent(msgspec.Struct, gc=False):
    """A PUBLISH to the client. ``token`` says which message it is, in the words of whoever sent it; ``reason`` is what
    the client answered, 0x80 and above: it did not take it."""

    id: int
    token: Any
    qos: int
    reason: int = Reason.SUCCESS
    stage: int = Stage.UNACKNOWLEDGED

    @property
    def released(self) -> bool:
        """PUBREC has come: all that may be sent of it is PUBREL [MQTT-4.3.3-6]."""
        return self.stage > Stage.UNACKNOWLEDGED


class SessionState:
    """Packet ids in both directions. One connection at a time has it.

    ``sent`` is in the order in which everything is sent again [MQTT-4.6.0-1, MQTT-4.6.0-4]: what has no PUBREC by its
    first sending, what has one by the order of those.
    """

    __slots__ = ("_exactly_once", "_next", "again", "received", "sent")

    def __init__(self) -> None:
        self.received: dict[int, int] = {}
        """Ids of QoS 2 from the client, each with where it is (`Received`)."""
        self.sent: dict[int, Sent] = {}
        self.again: dict[int, None] = {}
        """Ids that an earlier connection sent, unacknowledged, and the present one has not sent again yet."""
        self._exactly_once = 0  # of sent, those of QoS 2
        self._next = 1

    # Connections

    def reconnected(self) -> None:
        """A connection begins: of what is unacknowledged it has sent nothing yet."""
        self.again = {packet_id: None for packet_id, entry in self.sent.items() if not entry.released}

    @property
    def outstanding(self) -> int:
        """What counts against the client's Receive Maximum (§4.9). A PUBREL that is sent again counts, too, which is
        more careful than must be."""
        return len(self.sent) - len(self.again)

    # To the client

    def take_ids(self, tokens: Sequence[Any], qos: int) -> Sequence[int]:
        """An id for each, none of which is in use [MQTT-2.2.1-4]. Raises ValueError when there are not that many."""
        count, first, sent = len(tokens), self._next, self.sent
        if not count:
            return ()
        ids: Sequence[int] = range(first, first + count)
        if first + count > MOST_IDS + 1 or not sent.keys().isdisjoint(ids):
            ids = self._free_ids(count)
        sent.update(zip(ids, map(Sent, ids, tokens, repeat(qos)), strict=False))
        self._next = ids[-1] % MOST_IDS + 1
        if qos == 2:
            self._exactly_once += count
        return ids

    def _free_ids(self, count: int) -> list[int]:
        if len(self.sent) + count > MOST_IDS:
            raise ValueError(f"{count} packet ids of {MOST_IDS - len(self.sent)} that are free")
        ids: list[int] = []
        packet_id, sent = self._next, self.sent
        while len(ids) < count:
            if packet_id not in sent:
                ids.append(packet_id)
            packet_id = packet_id % MOST_IDS + 1
        return ids

    def puback(self, ids: Sequence[int]) -> list[Sent]:
        """Those whose exchange this ends; ids of none are passed over. Raises `MqttError` if one was sent at QoS 2."""
        sent = self.sent
        if self._exactly_once or self.again:
            for packet_id in ids:
                entry = sent.get(packet_id)
                if entry is not None and entry.qos != 1:
                    raise MqttError(
                        Reason.PROTOCOL_ERROR, f"PUBACK for message {packet_id}, which was sent at QoS {entry.qos}"
                    )
                self.again.pop(packet_id, None)
        before = len(sent)
        found = list(map(sent.pop, ids, repeat(None)))
        if before - len(sent) == len(found):
            return found  # type: ignore[return-value]  # every one was there
        return [entry for entry in found if entry is not None]

    def pubrec(self, id: int, reason: int) -> Sent | None:
        """What this settles: below 0x80 its id stays in use until PUBCOMP. None: nothing, it is unknown or was settled
        before. Raises `MqttError` if it was sent at QoS 1."""
        entry = self.sent.get(id)
        if entry is None or entry.released:
            return None
        if entry.qos != 2:
            raise MqttError(Reason.PROTOCOL_ERROR, f"PUBREC for message {id}, which was sent at QoS {entry.qos}")
        entry.reason = reason
        self._over(entry)
        if reason < 0x80:
            self._await_release(entry)
        return entry

    def _await_release(self, entry: Sent) -> None:
        entry.stage = Stage.RECORDED
        self.sent[entry.id] = entry  # behind those whose PUBREC came before
        self._exactly_once += 1

    def release(self, id: int) -> bool:
        """Whether PUBREL may be sent for it: its PUBREC has come."""
        entry = self.sent.get(id)
        if entry is None or not entry.released:
            return False
        entry.stage = Stage.RELEASED
        return True

    def pubcomp(self, id: int) -> bool:
        """Whether this ends an exchange. Raises `MqttError` if its PUBREL was not sent."""
        entry = self.sent.get(id)
        if entry is None:
            return False
        if entry.stage != Stage.RELEASED:
            raise MqttError(Reason.PROTOCOL_ERROR, f"PUBCOMP for message {id}, for which no PUBREL was sent")
        self._over(entry)
        return True

    def give_up(self, ids: Iterable[int]) -> None:
        """Their messages are gone and cannot be sent again. At QoS 1 the ids are free. At QoS 2 the client may hold
        them as received: they are ``released`` from now on, as if PUBREC had come."""
        for packet_id in ids:
            entry = self.sent.get(packet_id)
            if entry is not None and not entry.released:
                self._over(entry)
                if entry.qos == 2:
                    self._await_release(entry)

    def _over(self, entry: Sent) -> None:
        del self.sent[entry.id]
        self.again.pop(entry.id, None)
        self._exactly_once -= entry.qos == 2

    # From the client

    def mark_stored(self, ids: Iterable[int]) -> None:
        """Their messages are in a transaction that is being made, or was: `pack_received` counts them from now on."""
        for packet_id in ids:
            if self.received.get(packet_id) == Received.HANDED:
                self.received[packet_id] = Received.STORED

    # Across restarts

    def pack_received(self) -> bytes:
        """The ids whose messages are stored, for the transaction that stores the last of them; b"" if there are none.

        Not those that were only handed over: a client that sends them again after a crash must be heard.
        """
        ids = [packet_id for packet_id, stage in self.received.items() if stage != Received.HANDED]
        return struct.pack(f">B{len(ids)}H", _FORMAT, *ids) if ids else b""

    def unpack_received(self, packed: bytes) -> None:
        """Raises ValueError for what `pack_received` did not make."""
        ids = struct.unpack(f">{_count(packed, 2)}H", packed[1:])
        received = dict.fromkeys(ids, Received.ACKNOWLEDGED)
        _require(len(received) == len(ids) and 0 not in received)
        self.received = received

    def pack_sent(self) -> bytes:
        """Everything in ``sent``, in its order; tokens must be integers of 64 bits. b"" if there is nothing.

        A PUBREC that has come counts: PUBREL may be sent once this is stored.
        """
        sent = self.sent.values()
        if not sent:
            return b""
        ids, tokens = [entry.id for entry in sent], [entry.token for entry in sent]
        kinds = [_RELEASED if entry.stage else entry.qos for entry in sent]
        return struct.pack(f">B{len(ids)}H{len(ids)}B{len(ids)}q", _FORMAT, *ids, *kinds, *tokens)

    def unpack_sent(self, packed: bytes) -> None:
        """Raises ValueError for what `pack_sent` did not make."""
        count = _count(packed, 11)
        columns = struct.unpack(f">{count}H{count}B{count}q", packed[1:])
        ids, kinds, tokens = columns[:count], columns[count : 2 * count], columns[2 * count :]
        _require(len(set(ids)) == count and 0 not in ids and _STAGES.keys() >= set(kinds))
        self.sent = {
            packet_id: Sent(
                packet_id, token, min(kind, 2), stage=Stage.RECORDED if kind == _RELEASED else Stage.UNACKNOWLEDGED
            )
            for packet_id, kind, token in zip(ids, kinds, tokens, strict=True)
        }
        self.again = {}
        self._exactly_once = count - kinds.count(1)
        self._next = ids[-1] % MOST_IDS + 1 if ids else 1


_FORMAT: Final = 1
_RELEASED: Final = 3
_STAGES: Final = {1: Stage.UNACKNOWLEDGED, 2: Stage.UNACKNOWLEDGED, _RELEASED: Stage.RECORDED}
"""How an entry of ``sent`` is stored: QoS 1, QoS 2, QoS 2 with its PUBREC."""


def _count(packed: bytes, size: int) -> int:
    """Entries of ``size`` bytes."""
    _require(not packed or (packed[0] == _FORMAT and len(packed) > 1 and len(packed) % size == 1))
    return len(packed) // size


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("these are not packet ids in a form that is known")
