"""What a topic was declared to hold, as JSON in and out.

Any type msgspec knows: dataclasses, `msgspec.Struct`, attrs, `TypedDict` and plain types. ``bytes`` are taken as they
are; ``Any`` is anything, untouched.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec

from polywire.core.errors import FieldError, Invalid

__all__ = ["JSON", "OCTETS", "Codec", "field_error"]

T = TypeVar("T")

_LISTS = (list, Sequence)
JSON = "application/json"
OCTETS = "application/octet-stream"


class Codec(Generic[T]):
    """Values of one declared type ↔ payload bytes. Construction raises `TypeError` for a type that cannot be one."""

    def __init__(self, type: Any) -> None:
        self.type = type
        self.raw = type is bytes
        self.untyped = type is Any
        try:
            self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any if self.raw else type)
            unknown = _foreign(type)
        except TypeError as error:
            raise TypeError(f"{_qualified(type)} cannot be a message type: {error}") from None
        if unknown is not None:
            raise TypeError(
                f"{_qualified(type)} cannot be a message type: {_qualified(unknown)} is neither a dataclass, Struct, "
                "attrs class, TypedDict, enum nor a plain type"
            )
        self._encode = msgspec.json.Encoder().encode

    @property
    def content_type(self) -> str:
        return OCTETS if self.raw else JSON

    def encode(self, value: T) -> bytes:
        """Raises `Invalid` for a value that is not of the type."""
        if isinstance(value, bytes) and (self.raw or self.untyped):
            return value
        if self.raw:
            raise Invalid(f"the value is not bytes but {type(value).__qualname__}")
        try:
            return self._encode(value)
        except (TypeError, ValueError, RecursionError, msgspec.ValidationError) as error:
            raise Invalid(f"the value cannot be written as JSON: {error}") from None

    def decode(self, payload: bytes) -> T:
        """Raises `Invalid`, naming the field that is wrong."""
        if self.raw:
            return payload  # type: ignore[return-value]
        try:
            return cast("T", self._decoder.decode(payload))
        except msgspec.ValidationError as error:
            field = field_error(str(error))
            raise Invalid(
                f"the message is not a valid {self.name}: {field.message} at {field.path}", fields=[field]
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Invalid(f"the message is not JSON: {error}", fields=[FieldError("$", str(error))]) from None
        except RecursionError:
            raise Invalid("the message is nested too deeply", fields=[FieldError("$", "nested too deeply")]) from None
        except Exception as error:  # the type's own checks (``__post_init__``) may raise anything
            text = f"{type(error).__name__}: {error}"
            raise Invalid(f"the message is not a valid {self.name}: {text}", fields=[FieldError("$", text)]) from error

    @property
    def takes_lists(self) -> bool:
        """Whether a list is one value, and not several."""
        return typing.get_origin(self.type) in _LISTS or self.type in _LISTS

    @property
    def name(self) -> str:
        return str(getattr(self.type, "__name__", self.type))


def _qualified(type: Any) -> str:
    return str(getattr(type, "__qualname__", type))


def _foreign(type: Any) -> Any | None:
    """A class within the type that msgspec can neither read nor write by itself."""
    seen: set[int] = set()
    waiting: list[Any] = [msgspec.inspect.type_info(type)]
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.CustomType):
            return info.cls
        if not isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field)) or id(info) in seen:
            continue
        seen.add(id(info))
        for name in info.__struct_fields__:
            part = getattr(info, name)
            waiting.extend(part if isinstance(part, tuple) else (part,))
    return None


def field_error(text: str) -> FieldError:
    """The ``Expected `float`, got `str` - at `$.celsius``` of msgspec as path and message."""
    what, at, path = text.partition(" - at `")
    return FieldError(path.removesuffix("`") if at else "$", what)
