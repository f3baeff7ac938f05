"""The declaration of a topic, and the check it puts on every message that any wire publishes to it."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Generic, TypeVar

import msgspec

from polywire.contract.codec import JSON, OCTETS, Codec, field_error
from polywire.core.address import key_text
from polywire.core.errors import FieldError, Invalid
from polywire.core.message import Flag, Record
from polywire.core.topics import TopicSettings

__all__ = ["TopicContract"]

T = TypeVar("T")


class TopicContract(Generic[T]):
    """What a topic was declared to hold.

    ``key`` is the field of the payload that is the key of messages published without one (docs/promises.md,
    "Addresses").
    """

    def __init__(self, settings: TopicSettings, type: Any, key: str | None) -> None:
        self.settings = settings
        self.codec: Codec[T] = Codec(type)
        self.key = key
        self._field = key or ""  # its name in the payload
        self._field_type: Any = None
        if key is not None:
            self._find_field(type, key)

    def _find_field(self, type: Any, key: str) -> None:
        """Raises `TypeError` if values of the type have no such field."""
        if self.codec.untyped or typing.get_origin(type) is dict or type is dict:
            return
        fields = _fields(type)
        for field in fields:
            if key in (field.name, field.encode_name):
                self.key, self._field = field.name, field.encode_name
                self._field_type = _hints(type).get(field.name)
                return
        known = f" ({', '.join(field.encode_name for field in fields)})" if fields else ""
        raise TypeError(f"topic {self.settings.name!r}: key={key!r} is not a field of {self.codec.name}{known}")

    @property
    def checks(self) -> bool:
        """Whether `admit` has anything to say of a record."""
        return self.key is not None or not (self.codec.untyped or self.codec.raw)

    def admit(self, record: Record) -> None:
        """Check a record against the declared type; fill the key from the payload, or the payload's field from the key.

        Raises `Invalid` naming the field. An empty payload with the retained flag is a deletion and passes.
        """
        if not record.payload and record.flags & Flag.RETAINED:
            return
        if self.codec.untyped:
            self._take_key_if_json(record)
            return
        if self.key is None:
            self.codec.decode(record.payload)
        elif record.key is None:
            stated = _field_text(self.codec.decode(record.payload), self.key)
            record.key = stated.encode() if stated is not None else None
        else:
            self._agree(record, key_text(record.key))
        if _says_nothing_of_json(record.content_type):
            record.content_type = self.codec.content_type

    def _take_key_if_json(self, record: Record) -> None:
        """Anything may be published here; what is a JSON object with the field gets its key from it."""
        try:
            value = self.codec.decode(record.payload)
        except Invalid:
            return
        stated = _field_text(value, self.key or "")
        if record.key is None and stated is not None:
            record.key = stated.encode()
        elif stated is not None and stated != key_text(record.key or b""):
            raise self._differs(key_text(record.key or b""), stated)

    def _agree(self, record: Record, key: str) -> None:
        """The record has a key: the field says the same, or is missing and is filled."""
        stated: str | None = None
        try:
            stated = _field_text(self.codec.decode(record.payload), self.key or "")
        except Invalid:
            if not self._fill(record, key):
                raise
            return
        # The field may stand as its default in the value and be missing in the payload.
        if stated != key and not self._fill(record, key) and stated is not None:
            raise self._differs(key, stated)

    def _fill(self, record: Record, key: str) -> bool:
        """Give the payload its missing field. Raises `Invalid` if the key is no value of that field."""
        try:
            raw = msgspec.json.decode(record.payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if not isinstance(raw, dict) or self._field in raw:
            return False
        filled = msgspec.json.encode({self._field: self._field_value(key), **raw})
        self.codec.decode(filled)
        record.payload = filled
        return True

    def _field_value(self, key: str) -> Any:
        """The key as a value of the field: numbers and truth are text in a key."""
        if self._field_type is None:
            return key
        try:
            return msgspec.to_builtins(msgspec.convert(key, self._field_type, strict=False))
        except msgspec.ValidationError as error:
            field = FieldError(f"$.{self._field}", field_error(str(error)).message)
            raise Invalid(f"the key {key[:80]!r} is no value of the field {self._field}", fields=[field]) from None

    def _differs(self, key: str, stated: str) -> Invalid:
        return Invalid(
            f"the key {key[:80]!r} and the field {self._field} ({stated[:80]!r}) differ",
            fields=[FieldError(f"$.{self._field}", f"must be {key[:80]!r}, as the key is")],
        )

    def record(self, value: T) -> Record:
        """A record to publish, unchecked: the core lets `admit` see it."""
        payload = self.codec.encode(value)
        content_type = OCTETS if isinstance(value, bytes) else JSON
        return Record(payload, content_type=content_type)


def _fields(type: Any) -> Sequence[Any]:
    """As msgspec sees them; of a union those of its first member that has any."""
    infos = [msgspec.inspect.type_info(type)]
    if isinstance(infos[0], msgspec.inspect.UnionType):
        infos = list(infos[0].types)
    return next((found for info in infos if (found := getattr(info, "fields", ()))), ())


def _hints(type: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(type, include_extras=True)
    except (TypeError, NameError):  # a union, or a generic: its keys are taken as text
        return {}


def _says_nothing_of_json(content_type: str | None) -> bool:
    """A raw WebSocket says text or bytes of everything; here it was found to be JSON."""
    return content_type is None or content_type == OCTETS or content_type.startswith("text/plain")


def _field_text(value: Any, field: str) -> str | None:
    found = value.get(field) if isinstance(value, Mapping) else getattr(value, field, None)
    if isinstance(found, Enum):
        found = found.value
    if isinstance(found, bool):
        return "true" if found else "false"
    return None if found is None else str(found)
