"""What a topic was declared to hold, as JSON in and out.

Any type msgspec knows: dataclasses, `msgspec.Struct`, attrs, `TypedDict` and plain types. ``bytes`` are taken as they are; ``Any`` is
anything, untouched.
"""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar

import msgspec

from polywire.core.errors import FieldError, Invalid

__all__ = ["JSON", "OCTETS", "Codec", "field_error"]

T = TypeVar("T")

JSON = "application/json"
OCTETS = "application/octet-stream"
_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)


class Codec(Generic[T]):
    """Values of one declared type ↔ payload bytes. Construction raises `TypeError` for a type that cannot be one."""

    def __init__(self, type: Any) -> None:
        self.type = type
        self.raw = type is bytes
        self.untyped = type is Any
        try:
            self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(Any if self.raw else type)
        except TypeError as error:
            raise TypeError(f"{getattr(type, '__qualname__', type)} cannot be a message type: {error}") from None
        self._encode = msgspec.json.Encoder().encode

    @property
    def content_type(self) -> str:
        return OCTETS if self.raw else JSON

    def encode(self, value: T) -> bytes:
        """Raises `Invalid` for a value that is not of the type."""
        if isinstance(value, bytes) and (self.raw or self.untyped):
            return value
        try:
            return self._encode(value)
        except (TypeError, ValueError, msgspec.ValidationError) as error:
            raise Invalid(f"the value cannot be written as JSON: {error}") from None

    def decode(self, payload: bytes) -> T:
        """Raises `Invalid`, naming the field that is wrong."""
        if self.raw:
            return payload  # type: ignore[return-value]
        try:
            return self._decoder.decode(payload)
        except msgspec.ValidationError as error:
            field = field_error(str(error))
            raise Invalid(f"the message is not a valid {self.name}: {field.message} at {field.path}", fields=[field]) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Invalid(f"the message is not JSON: {error}", fields=[FieldError("$", str(error))]) from None
        except RecursionError:
            raise Invalid("the message is nested too deeply", fields=[FieldError("$", "nested too deeply")]) from None

    @property
    def name(self) -> str:
        return str(getattr(self.type, "__name__", self.type))


def field_error(text: str) -> FieldError:
    """msgspec's ``Expected `float`, got `str` - at `$.celsius``` as path and message."""
    match = _AT.match(text)
    assert match is not None
    return FieldError(match["path"] or "$", match["what"])
