"""Records → PUBLISH packets, once for all readers that are told the same.

What a packet looks like depends on its reader by little: a `Form`. Packets of one batch in one form are kept with the
batch as long as further readers are likely (`polywire.server.encodings`): at QoS 0 in one piece for a slice, else a
head and a tail for each record, between which the packet id goes. What has an end of life is not kept, for a reader is
told how much is left of it.

A message that MQTT cannot say (`names.mqtt_name`), that has expired, or whose packet is larger than the reader takes
[MQTT-3.1.2-24] is left out; the caller sees how many are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from polywire.core.clock import Clock
from polywire.core.message import Batch, Flag, Message
from polywire.server.encodings import Encodings
from polywire.wires.mqtt.codec import PACKET_IDS, publish_head
from polywire.wires.mqtt.fields import varint
from polywire.wires.mqtt.names import mqtt_name
from polywire.wires.mqtt.packets import Property
from polywire.wires.mqtt.records import WIRE, block_of, expiry_of, payload_of

__all__ = ["LARGEST", "Aliases", "Encoded", "Encoder", "Form", "Peer", "PublishPacket", "Selected"]

LARGEST: Final = 268_435_455 + 5
"""Bytes of the largest packet there is."""
_NEVER: Final = LARGEST + 1
"""In place of the size of what cannot be sent: no reader takes so much."""
_UNKNOWN: Final = LARGEST + 2
"""In place of a size that has to be looked at, again or for the first time."""

_SHAPES: Final = 1_024
_REMEMBERED: Final = 16_384
_USUAL: Final = 128
"""So many names are remembered, of keys with no more than so many bytes."""
_SMALL: Final = 4_096
_WORTH_KEEPING: Final = 16
"""Records that are kept in one piece, if they are not a whole batch."""
_PER_RECORD: Final = 150
"""Bytes that a record's head and tail take beside its payload, about."""


# --- readers ---------------------------------------------------------------------------------------------------------


class _Shape:
    """What packets have in common. There is one of each kind: it is known by its identity."""

    __slots__ = ("has_properties", "identifiers", "no_properties", "retain")

    def __init__(self, has_properties: bool, retain: bool, identifiers: tuple[int, ...]) -> None:
        self.has_properties = has_properties
        self.retain = retain
        self.identifiers = b"".join([_IDENTIFIER + varint(one) for one in identifiers])
        self.no_properties = varint(len(self.identifiers)) + self.identifiers if has_properties else b""
        """What stands before the payload of a message that has no properties of its own."""


_IDENTIFIER: Final = bytes((Property.SUBSCRIPTION_IDENTIFIER,))
_shape = lru_cache(maxsize=_SHAPES)(_Shape)


class Form:
    """How a reader is told messages: at its ``level``, at ``qos`` at most.

    ``retain_as_published``: RETAIN as the publisher said it, else 0 [MQTT-3.3.1-12, MQTT-3.3.1-13]. ``identifiers``:
    those of its subscriptions [MQTT-3.3.4-3].
    """

    __slots__ = ("level", "qos", "shape")

    def __init__(
        self, level: int, qos: int, *, retain_as_published: bool = False, identifiers: tuple[int, ...] = ()
    ) -> None:
        self.level = level
        self.qos = qos
        self.shape = _shape(level >= 5, retain_as_published, identifiers)


class Aliases:
    """Topic aliases towards one client (§3.3.2.3.4). The names that come first have them, while it is connected."""

    __slots__ = ("_aliases", "_maximum")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._aliases: dict[bytes, int] = {}

    def of(self, name: bytes) -> tuple[bytes, bytes]:
        """What stands in the place of the topic, and the property. The packet must be sent: the alias holds then."""
        alias = self._aliases.get(name)
        if alias is not None:
            return b"", _ALIAS + PACKET_IDS[alias]
        if len(self._aliases) >= self._maximum:
            return name, b""
        alias = self._aliases[name] = len(self._aliases) + 1
        return name, _ALIAS + PACKET_IDS[alias]


_ALIAS: Final = bytes((Property.TOPIC_ALIAS,))
_ALIAS_SIZE: Final = 4
"""By how much an alias can make a packet larger: the property, and one byte more of a length."""


class Peer:
    """What one client takes: packets of so many bytes, and topic aliases (level 5)."""

    __slots__ = ("aliases", "maximum")

    def __init__(self, maximum: int = LARGEST, topic_alias_maximum: int = 0) -> None:
        self.maximum = maximum
        self.aliases = Aliases(topic_alias_maximum) if topic_alias_maximum else None


ANYONE: Final = Peer()


# --- packets ---------------------------------------------------------------------------------------------------------


class Encoded(NamedTuple):
    """Packets, and how many they are."""

    data: bytes
    packets: int


class PublishPacket(NamedTuple):
    """``size`` is that of the whole packet, with its id."""

    head: bytes
    tail: bytes
    size: int

    def whole(self, id: bytes = b"") -> bytes:
        """``id``: its two bytes (`codec.PACKET_IDS`), or none at QoS 0."""
        return b"".join((self.head, id, self.tail))


def _packet(
    name: bytes, properties: bytes, payload: bytes, qos: int, *, retain: bool, dup: bool = False
) -> PublishPacket:
    """``properties`` with their length. Raises ValueError if no packet can be so large."""
    following = len(properties) + len(payload) + (2 if qos else 0)
    head = publish_head(name, qos, retain, dup, following)
    return PublishPacket(head, properties + payload, len(head) + following)


class _Split(NamedTuple):
    """Heads and tails of records, and the sizes of the whole packets: empty, and `_NEVER`, for what cannot be sent."""

    heads: list[bytes]
    tails: list[bytes]
    sizes: list[int]


class Selected:
    """Records of a batch that a reader can be sent. `write` it in the same turn."""

    __slots__ = ("_aliases", "_batch", "_qos", "_split", "indexes")

    def __init__(self, batch: Batch, indexes: Sequence[int], split: _Split, qos: int, aliases: Aliases | None) -> None:
        self.indexes = indexes
        self._batch = batch
        self._split = split
        self._qos = qos
        self._aliases = aliases

    def __len__(self) -> int:
        return len(self.indexes)

    def write(self, ids: Sequence[int] = ()) -> bytes:
        """The packets, joined. ``ids``: one for each, none at QoS 0."""
        if self._aliases is not None:
            return self._write_aliased(self._aliases, ids)
        heads, tails, _ = self._split
        parts: list[bytes] = []
        if self._qos:
            for index, packet_id in zip(self.indexes, ids, strict=True):
                parts += (heads[index], PACKET_IDS[packet_id], tails[index])
        else:
            for index in self.indexes:
                parts += (heads[index], tails[index])
        return b"".join(parts)

    def _write_aliased(self, aliases: Aliases, ids: Sequence[int]) -> bytes:
        heads, tails, qos = self._split.heads, self._split.tails, self._qos
        records, topic = self._batch.records, self._batch.topic
        parts: list[bytes] = []
        for number, index in enumerate(self.indexes):
            name, alias = aliases.of(mqtt_name(topic, records[index].key) or b"")
            tail = _with_property(tails[index], alias) if alias else tails[index]
            head = publish_head(name, qos, bool(heads[index][0] & 1), False, len(tail) + (2 if qos else 0))
            parts += (head, PACKET_IDS[ids[number]], tail) if qos else (head, tail)
        return b"".join(parts)


def _with_property(tail: bytes, property: bytes) -> bytes:
    """A tail at level 5 with one property more, in front."""
    size, at = tail[0], 1
    if size > 0x7F:
        size = size & 0x7F
        while tail[at - 1] > 0x7F:
            size |= (tail[at] & 0x7F) << 7 * at
            at += 1
    return b"".join((varint(size + len(property)), property, tail[at:]))


# --- the encoder -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _first_bytes(first: int) -> list[bytes]:
    """Fixed headers of packets that begin so, by Remaining Length."""
    return [bytes((first,)) + varint(size) for size in range(_SMALL)]


class Encoder:
    """Of all connections of the wire."""

    def __init__(self, encodings: Encodings, clock: Clock) -> None:
        self._encodings = encodings
        self._clock = clock
        self._fields: dict[str, dict[bytes | None, bytes | None]] = {}
        self._known = 0

    # Batches

    def qos0(self, batch: Batch, first: int, end: int, form: Form, peer: Peer = ANYONE) -> Encoded:
        """Records ``[first, end)`` at QoS 0, joined. Readers that take the same slices share them."""
        # Small pieces of a batch are many: they are put together from what is kept of the records.
        shared = end - first >= _WORTH_KEEPING or end - first == len(batch)
        if shared and (peer.aliases is None or not form.shape.has_properties):
            encoded = self._slice(batch, first, end, form.shape)
            if len(encoded.data) <= peer.maximum:
                return encoded
        selected = self.select(batch, range(first, end), form, 0, peer)
        return Encoded(selected.write(), len(selected))

    def select(self, batch: Batch, indexes: Sequence[int], form: Form, qos: int, peer: Peer = ANYONE) -> Selected:
        """Those of these records that can be sent, all at this QoS."""
        aliases = peer.aliases if form.shape.has_properties else None
        maximum = peer.maximum if aliases is None else peer.maximum - _ALIAS_SIZE
        split = self._split(batch, form.shape, qos)
        sizes = split.sizes
        chosen = [index for index in indexes if sizes[index] <= maximum]
        if len(chosen) < len(indexes):
            unknown = [index for index in indexes if sizes[index] == _UNKNOWN]
            if unknown:
                self._learn(batch, split, unknown, form.shape, qos)
                chosen = [index for index in indexes if sizes[index] <= maximum]
                _forget_expiring(batch, split, unknown)
        return Selected(batch, chosen, split, qos, aliases)

    def _slice(self, batch: Batch, first: int, end: int, shape: _Shape) -> Encoded:
        name = (shape, first, end)
        encoded: Encoded | None = batch.encoded.get(name)
        if encoded is None:
            (heads, tails, _), lasting = self._encode(batch, range(first, end), shape, 0)
            parts = [part for pair in zip(heads, tails, strict=True) for part in pair]
            encoded = Encoded(b"".join(parts), len(heads) - heads.count(b""))
            if lasting:
                self._encodings.keep(batch, name, encoded, len(encoded.data))
        return encoded

    def _split(self, batch: Batch, shape: _Shape, qos: int) -> _Split:
        name = (shape, qos)
        split: _Split | None = batch.encoded.get(name)
        if split is None:
            count = len(batch)
            split = _Split([b""] * count, [b""] * count, [_UNKNOWN] * count)
            self._encodings.keep(batch, name, split, batch.size + _PER_RECORD * len(batch))
        return split

    def _learn(self, batch: Batch, split: _Split, indexes: Sequence[int], shape: _Shape, qos: int) -> None:
        found, _ = self._encode(batch, indexes, shape, qos)
        if indexes == list(range(len(batch))):
            split.heads[:], split.tails[:], split.sizes[:] = found
            return
        for index, head, tail, size in zip(indexes, *found, strict=True):
            split.heads[index], split.tails[index], split.sizes[index] = head, tail, size

    def _encode(self, batch: Batch, indexes: Sequence[int], shape: _Shape, qos: int) -> tuple[_Split, bool]:
        """These records in their order, and whether it stays right: what expires is told how much is left of it."""
        encoded = heads, tails, sizes = _Split([], [], [])
        lasting = True
        topic, records, fields = batch.topic, batch.records, self._fields_of(batch.topic)
        headers, id_size = _first_bytes(0x30 | qos << 1), 2 if qos else 0
        plain, has_properties, retain = shape.no_properties, shape.has_properties, shape.retain
        overhead = len(plain) + id_size
        for index in indexes:
            record = records[index]
            key = record.key
            try:
                field = fields[key]
            except KeyError:
                field = self._field(topic, key)
            payload, native = record.payload, record.native
            if (
                field is not None
                and record.expires is None
                and (native is None or len(native) == 1)
                and not (has_properties and (native is None or (by := record.origin) is None or by.wire != WIRE))
                and not (retain and record.flags & Flag.RETAINED)
                and (size := len(field) + overhead + len(payload)) < _SMALL
            ):
                header = headers[size]
                heads.append(header + field)
                tails.append(plain + payload)
                sizes.append(len(header) + size)
            else:
                lasting = lasting and record.expires is None
                packet = self._message(batch.message(index), shape, qos) or _NOTHING
                heads.append(packet.head)
                tails.append(packet.tail)
                sizes.append(packet.size)
        return encoded, lasting

    def _fields_of(self, topic: str) -> dict[bytes | None, bytes | None]:
        """Names as they stand in packets, with their length, by key; None for what MQTT cannot say."""
        fields = self._fields.get(topic)
        if fields is None:
            self._make_room()
            fields = self._fields[topic] = {}
        return fields

    def _field(self, topic: str, key: bytes | None) -> bytes | None:
        name = mqtt_name(topic, key)
        field = None if name is None else PACKET_IDS[len(name)] + name
        if key is None or len(key) <= _USUAL:
            self._make_room()
            self._fields.setdefault(topic, {})[key] = field
        return field

    def _make_room(self) -> None:
        self._known += 1
        if self._known > _REMEMBERED:
            self._fields.clear()
            self._known = 1

    # Single messages

    def message(
        self, message: Message, form: Form, qos: int, *, retain: bool | None = None, dup: bool = False
    ) -> PublishPacket | None:
        """Not kept. ``retain`` True: sent as it is the retained one [MQTT-3.3.1-8]. ``dup``: it was sent before
        [MQTT-3.3.1-1], and does not expire any more [MQTT-4.3.3-7]. None: it is left out."""
        return self._message(message, form.shape, qos, retain=retain, dup=dup)

    def named(
        self, name: bytes, message: Message, form: Form, qos: int, *, retain: bool = False, dup: bool = False
    ) -> PublishPacket | None:
        """The same under a name that is no address: ``$SYS/…``, a client's own replies."""
        return self._named(name, message, form.shape, qos, retain=retain, dup=dup)

    def _message(
        self, message: Message, shape: _Shape, qos: int, *, retain: bool | None = None, dup: bool = False
    ) -> PublishPacket | None:
        record = message.record
        name = mqtt_name(message.topic, record.key)
        if name is None:
            return None
        if retain is None:
            retain = shape.retain and bool(record.flags & Flag.RETAINED)
        return self._named(name, message, shape, qos, retain=retain, dup=dup)

    def _named(
        self, name: bytes, message: Message, shape: _Shape, qos: int, *, retain: bool, dup: bool
    ) -> PublishPacket | None:
        expires, now = message.record.expires, 0
        if expires is not None:
            now = self._clock.now()
            if expires <= now and not dup:
                return None
        try:
            properties = _properties(message, shape, now) if shape.has_properties else b""
            return _packet(name, properties, payload_of(message), qos, retain=retain, dup=dup)
        except ValueError:  # no packet can be so large
            return None


_NOTHING: Final = PublishPacket(b"", b"", _NEVER)


def _properties(message: Message, shape: _Shape, now: int) -> bytes:
    properties = b"".join((shape.identifiers, expiry_of(message.record, now), block_of(message)))
    return varint(len(properties)) + properties


def _forget_expiring(batch: Batch, split: _Split, indexes: Sequence[int]) -> None:
    """Another reader, later, is told another rest of their lives."""
    for index in indexes:
        if batch.records[index].expires is not None:
            split.sizes[index] = _UNKNOWN
