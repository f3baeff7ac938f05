"""A message as the application sees it: the core's message with its payload as a value of the declared type."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Generic, TypeVar

from polywire.contract.codec import Codec
from polywire.core import message as core
from polywire.core.address import key_text
from polywire.core.position import Cursor, Position

__all__ = ["Message"]

T = TypeVar("T")


class Message(Generic[T]):
    """``value`` is decoded when it is first asked for and raises `Invalid` if the payload is not a ``T``."""

    __slots__ = ("_codec", "_decoded", "_message", "_value")

    def __init__(self, message: core.Message, codec: Codec[T]) -> None:
        self._message = message
        self._codec = codec
        self._decoded = False
        self._value: T | None = None

    @property
    def value(self) -> T:
        if not self._decoded:
            self._value = self._codec.decode(self._message.record.payload)
            self._decoded = True
        return self._value  # type: ignore[return-value]

    @property
    def payload(self) -> bytes:
        return self._message.record.payload

    @property
    def id(self) -> str:
        return self._message.record.id

    @property
    def topic(self) -> str:
        return self._message.topic

    @property
    def key(self) -> str | None:
        key = self._message.record.key
        return None if key is None else key_text(key)

    @property
    def content_type(self) -> str | None:
        return self._message.record.content_type

    @property
    def headers(self) -> list[core.Header]:
        """In order; names may repeat."""
        return self._message.record.headers

    @property
    def time(self) -> datetime:
        """When the hub took it, in UTC."""
        return datetime.fromtimestamp(self._message.appended / 1000, UTC)

    @property
    def position(self) -> Position:
        return self._message.position

    @property
    def cursor(self) -> Cursor:
        """Where a reader stands that has seen this message."""
        return Cursor(self._message.position.epoch, self._message.position.offset)

    @property
    def raw(self) -> core.Message:
        return self._message

    def __repr__(self) -> str:
        return f"<Message {self.topic} {self.position} key={self.key!r}>"
