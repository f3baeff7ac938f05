"""Values of a declared type, as JSON in and out.

Any type that JSON can tell: dataclasses, `msgspec.Struct`, attrs, `TypedDict`, models of pydantic and plain types.
``bytes`` alone are taken as they are; ``Any`` is anything, untouched.

msgspec reads a payload at once into the type. Only what it refuses is looked at again, with the tree, so that all wrong
fields can be named. Where msgspec (or pydantic) would take more than the tree says, the tree looks first.
"""

from __future__ import annotations

import base64
import functools
import json
import typing
from collections.abc import Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec

from polywire.contract.building import Types
from polywire.contract.checking import MOST, NOT_FINITE, Checker, non_finite
from polywire.contract.duplicates import colons, count_members, counter, duplicates
from polywire.contract.finite import Finite
from polywire.contract.libraries import field_error, library_for
from polywire.contract.paths import ROOT
from polywire.contract.tree import Anything, Tree, types_in
from polywire.core.errors import FieldError, Invalid

__all__ = ["JSON", "OCTETS", "Codec", "field_error"]

T = TypeVar("T")

_LISTS = (list, Sequence)
JSON = "application/json"
OCTETS = "application/octet-stream"
_TOO_DEEP = "nested too deeply"
_read_anything = msgspec.json.Decoder().decode


class Codec(Generic[T]):
    """Values of one declared type ↔ payload bytes, and ↔ JSON-like builtins.

    Construction raises `TypeError` for a type that cannot be one, and names the field.
    """

    def __init__(self, type: Any) -> None:
        self.type = type
        self.raw = type is bytes
        self.untyped = type is Any
        types = Types()
        try:
            root = types.add(type)
            self.tree = Tree(root, types.definitions)
            self._library = library_for(type, types, self.tree)
        except TypeError as error:
            raise TypeError(f"{_qualified(type)} cannot be a message type: {error}") from None
        self._judged, self._models = types.findings.judged, types.findings.models
        self._looks_first = types.findings.inexact or self._models
        self._needs = None if self.untyped else counter(types, root)
        self._finite = Finite(self.tree)
        self._open = any(isinstance(one, Anything) for one in types_in(self.tree))

    @property
    def content_type(self) -> str:
        return OCTETS if self.raw else JSON

    @property
    def takes_lists(self) -> bool:
        """Whether a list is one value, and not several."""
        return typing.get_origin(self.type) in _LISTS or self.type in _LISTS

    @property
    def name(self) -> str:
        return str(getattr(self.type, "__name__", self.type))

    @functools.cached_property
    def _checker(self) -> Checker:
        return Checker(self.tree, self._judged)

    # --- bytes ---------------------------------------------------------------------------------------------------

    def encode(self, value: T) -> bytes:
        """Raises `Invalid` for a value that JSON cannot tell."""
        if isinstance(value, bytes) and (self.raw or self.untyped):
            return value
        if self.raw:
            raise Invalid(f"the value is not bytes but {type(value).__qualname__}")
        try:
            payload = self._library.encode(value)
            if self._finite.written(payload) and not self._finite.sure(value):
                self._refuse_non_finite(value, payload)
        except Invalid:
            raise
        except Exception as error:
            raise Invalid(f"the value cannot be written as JSON: {error}") from error
        return payload

    def decode(self, payload: bytes) -> T:
        """Raises `Invalid`, naming all wrong fields."""
        if self.raw:
            return payload  # type: ignore[return-value]
        if self._looks_first:
            return self._look_and_decode(payload)
        try:
            value = self._library.make(payload, None)
            needs = self._needs
            if needs is not None:
                members = needs if isinstance(needs, int) else needs(value)
                if payload.count(b":") != members and (most := colons(payload)) != members:
                    self._refuse_duplicates(payload, most, count_members(_read_anything(payload)))
        except Invalid:
            raise
        except Exception as error:  # noqa: BLE001 - the type's own code may raise anything
            raise self._refusal(payload, error) from _own(error)
        return cast("T", value)

    def _look_and_decode(self, payload: bytes) -> T:
        try:
            builtins = _read_anything(payload)
            members = count_members(builtins)
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise self._refusal(payload, error) from None
        wrong = self._checker.wrong(builtins)
        if wrong:
            raise self._invalid(self._with_own(_twice(payload) + wrong, builtins))
        if payload.count(b":") != members:
            self._refuse_duplicates(payload, colons(payload), members)
        try:
            return cast("T", self._library.make(payload, builtins))
        except Invalid:
            raise
        except Exception as error:  # noqa: BLE001 - the type's own code may raise anything
            raise self._invalid(self._told(error, builtins)) from _own(error)

    # --- builtins ------------------------------------------------------------------------------------------------

    def from_builtins(self, value: Any) -> T:
        """The value that ``value``, as a JSON reader would make it, says. Raises `Invalid`, naming all wrong fields."""
        wrong = self._checker.wrong(value)
        if self._open and not wrong:
            wrong = non_finite(value)
        if wrong:
            raise self._invalid(self._with_own(wrong, value))
        try:
            return cast("T", self._library.convert(value))
        except Invalid:
            raise
        except Exception as error:  # noqa: BLE001 - the type's own code may raise anything
            raise self._invalid(self._told(error, value)) from _own(error)

    def to_builtins(self, value: T) -> Any:
        """The value as a JSON reader would make it of its JSON. Raises `Invalid` for one that JSON cannot tell."""
        if isinstance(value, bytes) and (self.raw or self.untyped):
            return base64.b64encode(value).decode()
        return _read_anything(self.encode(value))

    # --- what is wrong -------------------------------------------------------------------------------------------

    def _refusal(self, payload: bytes, error: Exception) -> Invalid:
        """What is wrong with a payload that was not read."""
        try:
            builtins = _read_roughly(payload)
            wrong = _twice(payload) + self._checker.wrong(builtins)
        except RecursionError:
            return Invalid(f"the message is {_TOO_DEEP}", fields=[FieldError(ROOT, _TOO_DEEP)])
        except (ValueError, msgspec.MsgspecError) as malformed:
            return Invalid(f"the message is not JSON: {malformed}", fields=[FieldError(ROOT, str(malformed))])
        if wrong:
            return self._invalid(self._with_own(wrong, builtins))
        return self._invalid(non_finite(builtins) or self._told(error, builtins))

    def _told(self, error: Exception, builtins: Any) -> list[FieldError]:
        if isinstance(error, RecursionError):
            return [FieldError(ROOT, _TOO_DEEP)]
        return self._library.wrong_fields(error, builtins)

    def _refuse_duplicates(self, payload: bytes, most: int, members: int) -> None:
        """It has ``most`` members at most; ``members`` were left of it when it was read."""
        if most != members and (wrong := _twice(payload)):
            raise self._invalid(wrong)

    def _refuse_non_finite(self, value: T, payload: bytes) -> None:
        told = self._checker.wrong(_read_anything(payload))
        wrong = non_finite(self._library.to_builtins(value)) or [one for one in told if one.message == NOT_FINITE]
        if wrong:
            text = f"{wrong[0].message} at {wrong[0].path}"
            raise Invalid(f"the value cannot be written as JSON: {text}", fields=wrong)

    def _with_own(self, wrong: list[FieldError], builtins: Any) -> list[FieldError]:
        """With what the validators of a model say of the fields that the tree finds right."""
        if not self._models or len(wrong) >= MOST:
            return wrong
        try:
            self._library.convert(builtins)
        except Exception as error:  # noqa: BLE001 - a validator may raise anything
            own = self._told(error, builtins)
            wrong = wrong + [one for one in own if not any(_overlap(one.path, field.path) for field in wrong)]
        return wrong

    def _invalid(self, wrong: list[FieldError]) -> Invalid:
        wrong = wrong[:MOST]
        first, more = wrong[0], len(wrong) - 1
        others = f" (and {more} more)" if more else ""
        return Invalid(f"the message is not a valid {self.name}: {first.message} at {first.path}{others}", fields=wrong)


def _qualified(type: Any) -> str:
    return str(getattr(type, "__qualname__", type))


def _own(error: Exception) -> Exception | None:
    """What the type's own code raised is kept as the cause; what a library says is in the message."""
    return None if isinstance(error, (ValueError, msgspec.MsgspecError, RecursionError)) else error


def _overlap(one: str, other: str) -> bool:
    """Whether one path leads into what the other leads to."""
    short, long = sorted((one, other), key=len)
    return short == long or long.startswith((f"{short}.", f"{short}["))


def _read_roughly(payload: bytes) -> Any:
    """As builtins; numbers that are out of range as infinity, so that it can be said where they are.

    Raises `ValueError`, `msgspec.DecodeError`, `RecursionError`.
    """
    try:
        return _read_anything(payload)
    except msgspec.ValidationError:
        return json.loads(payload, parse_int=_number)


def _number(text: str) -> int | float:
    return int(text) if len(text) < 4000 else float(text)


def _twice(payload: bytes) -> list[FieldError]:
    try:
        return duplicates(payload)
    except (RecursionError, ValueError):
        return []
