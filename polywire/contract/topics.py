"""The declaration of a topic, and the check it puts on every message that any wire publishes to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Generic, TypeVar

import msgspec

from polywire.contract.checking import TWICE, Checker
from polywire.contract.codec import JSON, OCTETS, Codec
from polywire.contract.paths import ROOT, member
from polywire.contract.tree import Anything, Field, Map, Object, Tree, Union
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
        self._checker: Checker | None = None  # of the field's values
        if key is not None:
            self._find_field(key)

    def _find_field(self, key: str) -> None:
        """Raises `TypeError` if values of the type have no such field."""
        tree = self.codec.tree
        if isinstance(tree.root, (Anything, Map)):
            return
        fields = _fields(tree)
        for field in fields:
            if key in (field.name, field.attribute):
                self.key, self._field = field.attribute, field.name
                self._checker = Checker(Tree(field.type, tree.definitions))
                return
        known = f" ({', '.join(field.name for field in fields)})" if fields else ""
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
        except Invalid as error:
            if any(field.message == TWICE for field in error.fields) or not self._fill(record, key):
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
        if self._checker is None:
            return key
        wrong: list[FieldError] = []
        for value in _readings(key):
            wrong = self._checker.wrong(value)
            if not wrong:
                return value
        field = FieldError(self._path, wrong[0].message)
        raise Invalid(f"the key {key[:80]!r} is no value of the field {self._field}", fields=[field])

    def _differs(self, key: str, stated: str) -> Invalid:
        return Invalid(
            f"the key {key[:80]!r} and the field {self._field} ({stated[:80]!r}) differ",
            fields=[FieldError(self._path, f"must be {key[:80]!r}, as the key is")],
        )

    @property
    def _path(self) -> str:
        return ROOT + member(self._field)

    def record(self, value: T) -> Record:
        """A record to publish, unchecked: the core lets `admit` see it."""
        payload = self.codec.encode(value)
        content_type = OCTETS if isinstance(value, bytes) else JSON
        return Record(payload, content_type=content_type)


def _fields(tree: Tree) -> tuple[Field, ...]:
    """Of an object; of a union those of its first member that has any."""
    members = tree.root.members if isinstance(tree.root, Union) else (tree.root,)
    objects = [found for one in members if isinstance(found := tree.resolve(one), Object)]
    return next((found.fields for found in objects if found.fields), ())


def _readings(key: str) -> Iterator[Any]:
    """What the text may be as a value in JSON, itself first."""
    yield key
    try:
        value = msgspec.json.decode(key)
    except (msgspec.MsgspecError, RecursionError):
        return
    if isinstance(value, (bool, int, float)):
        yield value


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
