"""MQTT's topic names and filters ↔ the core's addresses (MQTT 5 §4.7; docs/promises.md, "Addresses").

The first level is the topic, the rest is the key, in which ``/`` and ``.`` change places. A first level that no topic
can be called leaves the whole name to the topic ``_other``, as its key:

| MQTT | topic | key |
|---|---|---|
| ``readings`` | ``readings`` | none |
| ``readings/`` | ``readings`` | ``b""`` |
| ``readings/kitchen/temp`` | ``readings`` | ``b"kitchen.temp"`` |
| ``plant.a/v1.2/x`` | ``plant.a`` | ``b"v1/2.x"`` |
| ``/a/b`` | ``_other`` | ``b".a.b"`` |
| ``café/v1.2`` | ``_other`` | ``b"café.v1/2"`` |

``operations/{name}`` is a call, and ``$…`` is never a topic.

A filter is said in two ways. `Filter.live_pattern` has a word for each level: the first as MQTT has it where it can be
a topic, all others with ``/`` and ``.`` exchanged. `Filter.sources` says the same to a queue, in which a level that is
literally ``*`` cannot be told from a wildcard: who reads the queue asks `Filter.matches`.

| MQTT | live_pattern | sources (topic, key) |
|---|---|---|
| ``readings`` | ``readings`` | ``readings``, messages without key |
| ``readings/#`` | ``readings`` ANY_REST | ``readings`` |
| ``readings/+/v1.2`` | ``readings`` ANY_WORD ``v1/2`` | ``readings``, ``*.v1/2`` |
| ``/a/#`` | ``""`` ``a`` ANY_REST | ``_other``, ``.a.#`` |
| ``+/a`` | ANY_WORD ``a`` | ``#``, ``a``; ``default``, ``a``; ``_other``, ``*.a`` |
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from polywire.core.address import OTHER, is_reserved, legal_topic
from polywire.core.live import ANY_REST, ANY_WORD, Pattern, Wild
from polywire.core.routing import Source
from polywire.wires.mqtt.reasons import MqttError, Reason

__all__ = ["Filter", "Name", "mqtt_name", "read_filter", "read_name"]

_LONGEST: Final = 65_535
"""Bytes of a name or filter [MQTT-4.7.3-3]."""
_USUAL: Final = 128
_REMEMBERED: Final = 16_384
"""Names that are remembered, in each direction, if they have no more than so many bytes."""
_LEVELS: Final = 200
"""Of a filter. A key has at most 1,024 bytes, and nobody's hierarchy is so deep."""
_DEFAULT: Final = "default"
_OPERATIONS: Final = "operations"
_SHOWN: Final = 80

_swap = bytes.maketrans(b"/.", b"./")
_swap_text = str.maketrans("/.", "./")


class Name(NamedTuple):
    """What a PUBLISH addresses: a topic and a key, or an operation."""

    topic: str
    key: bytes | None
    operation: str | None = None


def read_name(topic: bytes) -> Name:
    """The address of a topic name. Raises `MqttError`.

    0x81: not UTF-8, or U+0000 [MQTT-1.5.4-1, MQTT-1.5.4-2]. 0x82: empty [MQTT-4.7.3-1], or with a wildcard
    [MQTT-3.3.2-2]. 0x90: well formed, and nothing is published there.
    """
    return _read_usual(topic) if len(topic) <= _USUAL else _read(topic)


def _read(topic: bytes) -> Name:
    try:
        text = topic.decode()
    except UnicodeDecodeError as error:
        raise MqttError(Reason.MALFORMED_PACKET, f"the topic name is not UTF-8 at byte {error.start}") from None
    if not text:
        raise MqttError(Reason.PROTOCOL_ERROR, "the topic name is empty [MQTT-4.7.3-1]")
    if "\0" in text:
        raise MqttError(Reason.MALFORMED_PACKET, "the topic name contains U+0000 [MQTT-4.7.3-2]")
    if "+" in text or "#" in text:
        raise MqttError(Reason.PROTOCOL_ERROR, f"the topic name {text[:_SHOWN]!r} contains a wildcard [MQTT-3.3.2-2]")
    first, slash, rest = text.partition("/")
    if _is_topic(first):
        return Name(first, rest.translate(_swap_text).encode() if slash else None)
    if first == _OPERATIONS and rest:
        return Name(_OPERATIONS, None, rest)
    if first == _OPERATIONS or text[0] == "$":
        raise MqttError(Reason.TOPIC_NAME_INVALID, f"nobody can publish to {text[:_SHOWN]!r}")
    return Name(OTHER, topic.translate(_swap))


_read_usual = lru_cache(maxsize=_REMEMBERED)(_read)


def _is_topic(level: str) -> bool:
    return level == _DEFAULT or (legal_topic(level) and not is_reserved(level))


def mqtt_name(topic: str, key: bytes | None) -> bytes | None:
    """The topic name that `read_name` takes for this address; None where MQTT has none.

    It has none for a key that is not UTF-8 or contains ``+``, ``#`` or U+0000, for the hub's own topics, and for what
    another protocol put into ``_other`` that MQTT looks for elsewhere.
    """
    return _write_usual(topic, key) if key is None or len(key) <= _USUAL else _write(topic, key)


def _write(topic: str, key: bytes | None) -> bytes | None:
    if topic == OTHER:
        name = (key or b"").translate(_swap)
    else:
        name = topic.encode() if key is None else b"%b/%b" % (topic.encode(), key.translate(_swap))
    if len(name) > _LONGEST:
        return None
    try:
        return name if _read(name) == (topic, key, None) else None
    except MqttError:
        return None


_write_usual = lru_cache(maxsize=_REMEMBERED)(_write)


# --- filters ---------------------------------------------------------------------------------------------------------


class Filter:
    """A topic filter as a client wrote it (``text``).

    ``share`` names the queue of a shared subscription: a group and a filter together are one (§4.8.2). ``sys``: it
    asks for figures of the hub, ``$SYS/…``; ``operation``: for what is below ``operations/``. No message is in either.
    ``dotted`` is it as a pattern of addresses, for permissions.
    """

    __slots__ = ("_levels", "dotted", "live_pattern", "operation", "share", "sources", "sys", "text")

    def __init__(self, text: str, share: str | None, levels: Sequence[str]) -> None:
        first = levels[0]
        self.text = text
        self.share = share
        self.sys = first == "$SYS"
        self.operation = "/".join(levels[1:]) if first == _OPERATIONS else None
        self.dotted = _dotted(levels)
        self.live_pattern: Pattern = ()
        self.sources: list[Source] = []
        if not self.direct:
            self.live_pattern = tuple(_live_word(word) for word in _words(levels))
            self.sources = _sources(levels)
        self._levels = [level.encode() for level in levels]

    def __repr__(self) -> str:
        return f"<Filter {self.text!r}>"

    @property
    def topic(self) -> str | None:
        """The one topic that it means; None: any, or what lives in ``_other``, or none at all."""
        first = self._levels[0].decode()
        return first if _is_topic(first) else None

    @property
    def direct(self) -> bool:
        """Whether what it means never was in a topic."""
        return self.sys or self.operation is not None

    def matches(self, name: bytes) -> bool:
        """By MQTT's own rules (§4.7.1, §4.7.2)."""
        levels = name.split(b"/")
        mine = self._levels
        if name[:1] == b"$" and mine[0] in _WILDCARDS:
            return False  # [MQTT-4.7.2-1]
        if mine[-1] == b"#":
            # The parent of what "#" means is meant, too (§4.7.1.2).
            levels, mine = levels[: len(mine) - 1], mine[:-1]
        if len(levels) != len(mine):
            return False
        return all(ours in (theirs, b"+") for ours, theirs in zip(mine, levels, strict=True))


_WILDCARDS: Final = (b"+", b"#")


def read_filter(text: str) -> Filter:
    """A filter of SUBSCRIBE or UNSUBSCRIBE. Raises `MqttError`.

    0x81: U+0000 [MQTT-4.7.3-2]. 0x82: empty, a wildcard beside other characters or ``#`` before the end
    [MQTT-4.7.1-1, MQTT-4.7.1-2], a shared subscription without group or filter [MQTT-4.8.2-1, MQTT-4.8.2-2]. 0x8F: well
    formed, and the hub has nothing like it.
    """
    if "\0" in text:
        raise MqttError(Reason.MALFORMED_PACKET, "the topic filter contains U+0000 [MQTT-4.7.3-2]")
    share, own = _split_share(text) if text.startswith("$share") else (None, text)
    levels = own.split("/", _LEVELS)
    _check_wildcards(own, levels)
    if len(levels) > _LEVELS:
        raise MqttError(Reason.TOPIC_FILTER_INVALID, f"a topic filter has at most {_LEVELS} levels")
    if own[0] == "$" and (levels[0] != "$SYS" or share is not None):
        raise MqttError(Reason.TOPIC_FILTER_INVALID, f"nothing is published to {own[:_SHOWN]!r}")
    return Filter(text, share, levels)


def _split_share(text: str) -> tuple[str | None, str]:
    """The name of the queue, and the filter."""
    words = text.split("/", 2)
    if words[0] != "$share":
        return None, text
    if len(words) < 3 or not words[1] or not words[2] or "+" in words[1] or "#" in words[1]:
        raise MqttError(
            Reason.PROTOCOL_ERROR, f"{text[:_SHOWN]!r} is not $share/GROUP/FILTER [MQTT-4.8.2-1, MQTT-4.8.2-2]"
        )
    return f"{words[1]}/{words[2]}", words[2]


def _check_wildcards(text: str, levels: Sequence[str]) -> None:
    if not text:
        raise MqttError(Reason.PROTOCOL_ERROR, "the topic filter is empty [MQTT-4.7.3-1]")
    last = len(levels) - 1
    for index, level in enumerate(levels[:_LEVELS]):
        if ("#" in level and (level != "#" or index != last)) or ("+" in level and level != "+"):
            raise MqttError(
                Reason.PROTOCOL_ERROR,
                f"{text[:_SHOWN]!r}: + is a level of its own, and # the last one [MQTT-4.7.1-1, MQTT-4.7.1-2]",
            )


def _words(levels: Sequence[str]) -> list[str]:
    """The words of the addresses that the levels mean, wildcards as MQTT has them."""
    first = levels[0] if _is_topic(levels[0]) else levels[0].translate(_swap_text)
    return [first, *(level.translate(_swap_text) for level in levels[1:])]


def _live_word(word: str) -> str | Wild:
    return ANY_WORD if word == "+" else ANY_REST if word == "#" else word


def _key_pattern(words: Sequence[str]) -> str:
    return ".".join(["*" if word == "+" else word for word in words])


def _dotted(levels: Sequence[str]) -> str:
    whole = _key_pattern(_words(levels))
    return whole if levels[0][:1] == "$" or levels[0] in ("+", "#") or _is_topic(levels[0]) else f"{OTHER}.{whole}"


def _sources(levels: Sequence[str]) -> list[Source]:
    words = _words(levels)
    if levels[0] == "#":
        return [Source("#"), Source(_DEFAULT), Source(OTHER)]
    if levels[0] == "+":
        other = Source(OTHER, _key_pattern(words))
        return [_source("#", words[1:]), _source(_DEFAULT, words[1:]), other]
    if _is_topic(levels[0]):
        return [_source(levels[0], words[1:])]
    return [Source(OTHER, _key_pattern(words))]


def _source(topic: str, words: Sequence[str]) -> Source:
    if not words:
        return Source(topic, keyless=True)
    return Source(topic) if words == ["#"] else Source(topic, _key_pattern(words))
