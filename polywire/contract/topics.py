"""The declaration of a topic, and the check it puts on every message that any wire publishes to it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Generic, TypeVar

import msgspec

from polywire.contract.codec import JSON, OCTETS, Codec
from polywire.core.address import key_text
from polywire.core.errors import FieldError, Invalid
from polywire.core.message import Flag, Record
from polywire.core.topics import TopicSettings

__all__ = ["TopicContract"]

T = TypeVar("T")


class TopicContract(Generic[T]):
    """``key``: the field of the payload that is the key of messages published without one (semantics §1)."""

    def __init__(self, settings: TopicSettings, type: Any, key: str | None) -> None:
        self.settings = settings
        self.codec: Codec[T] = Codec(type)
        self.key = key
        if key is not None:
            _require_field(settings.name, type, key)

    @property
    def checks(self) -> bool:
        return not (self.codec.untyped or self.codec.raw)

    def admit(self, record: Record) -> None:
        """Check a record against the declared type; fill the key from the payload, or the payload's field from the key.

        Raises `Invalid` naming the field. An empty payload with the retained flag is a deletion and passes.
        """
        if not record.payload and record.flags & Flag.RETAINED:
            return
        if record.content_type is None or (record.content_type == OCTETS and self.checks):
            record.content_type = self.codec.content_type
        if self.key is None:
            self.codec.decode(record.payload)
            return
        value = self._decode_filled(record, self.key)
        stated = _field_text(value, self.key)
        if record.key is None:
            record.key = stated.encode() if stated is not None else None
        elif stated is not None and stated != key_text(record.key):
            raise Invalid(
                f"the key {key_text(record.key)[:80]!r} and the field {self.key} ({stated[:80]!r}) differ",
                fields=[FieldError(f"$.{self.key}", f"must be {key_text(record.key)[:80]!r}, as the key is")],
            )

    def _decode_filled(self, record: Record, field: str) -> T:
        try:
            return self.codec.decode(record.payload)
        except Invalid:
            filled = _fill(record, field) if record.key is not None else None
            if filled is None:
                raise
            value = self.codec.decode(filled)
            record.payload = filled
            return value

    def record(self, value: T) -> Record:
        """A record to publish, unchecked: the core lets `admit` see it."""
        payload = self.codec.encode(value)
        content_type = OCTETS if isinstance(value, bytes) else JSON
        return Record(payload, content_type=content_type)


def _require_field(topic: str, type: Any, key: str) -> None:
    try:
        info = msgspec.inspect.type_info(type)
    except TypeError:
        return
    fields = getattr(info, "fields", None)
    if fields is not None and all(key not in (field.name, field.encode_name) for field in fields):
        known = ", ".join(field.encode_name for field in fields)
        raise TypeError(f"topic {topic!r}: key={key!r} is not a field of {getattr(type, '__name__', type)} ({known})")


def _field_text(value: Any, field: str) -> str | None:
    found = value.get(field) if isinstance(value, Mapping) else getattr(value, field, None)
    if isinstance(found, Enum):
        found = found.value
    if isinstance(found, bool):
        return "true" if found else "false"
    return None if found is None else str(found)


def _fill(record: Record, field: str) -> bytes | None:
    """The payload with its missing field taken from the key; None if there is nothing to fill."""
    try:
        raw = msgspec.json.decode(record.payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(raw, dict) or field in raw:
        return None
    return msgspec.json.encode({field: key_text(record.key), **raw})
