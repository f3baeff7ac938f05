"""What is wrong with one value that is no container, as functions that `polywire.contract.checking` puts together."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import re
import sys
import uuid
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from polywire.contract.texts import DECIMAL, DURATION, INTEGER, NUMBER
from polywire.contract.tree import (
    Binary,
    Boolean,
    Bounds,
    Constant,
    Date,
    DateTime,
    Decimal,
    Duration,
    Enumeration,
    Integer,
    Lengths,
    Null,
    Number,
    Text,
    Time,
    Uuid,
)
from polywire.core.errors import FieldError

__all__ = [
    "NOT_FINITE",
    "SCALARS",
    "Check",
    "Wrong",
    "constant",
    "expected",
    "is_of_another_kind",
    "key_check",
    "kinds_of",
    "lengths",
    "one_of",
]

NOT_FINITE = "must be a finite number"

Wrong = list[FieldError]
Check = Callable[[Any], Wrong | None]

_TOO_LARGE = "number out of range"
_LARGEST = int(sys.float_info.max)
_DECIMAL, _INTEGER, _NUMBER, _DURATION = (re.compile(text) for text in (DECIMAL, INTEGER, NUMBER, DURATION))
_WORDS = {type(None): "null", list: "array", dict: "object"}


def expected(word: str, value: Any) -> Wrong:
    kind = type(value)
    return [FieldError("", f"Expected `{word}`, got `{_WORDS.get(kind, kind.__name__)}`")]


def is_of_another_kind(wrong: Wrong) -> bool:
    return wrong[0].path == "" and wrong[0].message.startswith("Expected `")


def _null(_: Null) -> Check:
    return lambda value: None if value is None else expected("null", value)


def _boolean(_: Boolean) -> Check:
    return lambda value: None if type(value) is bool else expected("bool", value)


def _integer(node: Integer) -> Check:
    bounds = _bounds(node)

    def check(value: Any) -> Wrong | None:
        if type(value) is not int:
            huge = type(value) is float and math.isinf(value)  # it was, before it was read as one
            return [FieldError("", _TOO_LARGE)] if huge else expected("int", value)
        return bounds(value) if bounds is not None else None

    return check


def _number(node: Number) -> Check:
    bounds = _bounds(node)

    def check(value: Any) -> Wrong | None:
        if type(value) is float:
            if not math.isfinite(value):
                return [FieldError("", NOT_FINITE)]
        elif type(value) is not int:
            return expected("float", value)
        elif not -_LARGEST <= value <= _LARGEST:
            return [FieldError("", _TOO_LARGE)]
        return bounds(value) if bounds is not None else None

    return check


def _decimal(node: Decimal) -> Check:
    bounds = _bounds(node, decimal.Decimal)

    def check(value: Any) -> Wrong | None:
        if type(value) is float and not math.isfinite(value):
            return [FieldError("", NOT_FINITE)]
        if type(value) is str:
            if _DECIMAL.fullmatch(value) is None:
                unlike = value.lstrip("+-").lower().startswith(("nan", "snan", "inf"))
                return [FieldError("", NOT_FINITE if unlike else "must be a decimal number")]
        elif type(value) not in (int, float):
            return expected("decimal", value)
        try:
            exact = decimal.Decimal(value if type(value) is not float else repr(value))
        except decimal.InvalidOperation:
            return [FieldError("", _TOO_LARGE)]
        return bounds(exact) if bounds is not None else None

    return check


def _bounds(node: Bounds, kind: type[decimal.Decimal] | None = None) -> Check | None:
    tests: list[tuple[Callable[[Any], bool], str]] = []

    def bound(limit: float | None, test: Callable[[Any, Any], bool], words: str) -> None:
        if limit is not None:
            exact = kind(repr(limit)) if kind is not None else limit
            tests.append((lambda value: test(value, exact), f"must be {words} {limit}"))

    bound(node.minimum, lambda value, limit: value >= limit, ">=")
    bound(node.exclusive_minimum, lambda value, limit: value > limit, ">")
    bound(node.maximum, lambda value, limit: value <= limit, "<=")
    bound(node.exclusive_maximum, lambda value, limit: value < limit, "<")
    bound(node.multiple_of, _is_multiple, "a multiple of")
    return _all(tests)


def _is_multiple(value: Any, of: Any) -> bool:
    try:
        binary = isinstance(value, float) or isinstance(of, float)
        return bool((math.fmod(value, of) if binary else value % of) == 0)
    except (decimal.InvalidOperation, OverflowError):
        return False


def lengths(node: Lengths, of: str) -> Check | None:
    least, most = node.min_length, node.max_length
    tests: list[tuple[Callable[[Any], bool], str]] = []
    if least is not None:
        tests.append((lambda length: length >= least, f"must have at least {_count(least, of)}"))
    if most is not None:
        tests.append((lambda length: length <= most, f"must have at most {_count(most, of)}"))
    return _all(tests)


def _count(number: int, of: str) -> str:
    return f"{number} {of if number != 1 else of.removesuffix('s')}"


def _all(tests: list[tuple[Callable[[Any], bool], str]]) -> Check | None:
    def check(value: Any) -> Wrong | None:
        for test, message in tests:
            if not test(value):
                return [FieldError("", message)]
        return None

    return check if tests else None


def _text(node: Text) -> Check:
    sizes, pattern, shown = lengths(node, "characters"), _compiled(node.pattern), node.pattern

    def check(value: Any) -> Wrong | None:
        if type(value) is not str:
            return expected("str", value)
        wrong = sizes(len(value)) if sizes is not None else None
        if wrong is None and pattern is not None and pattern.search(value) is None:
            return [FieldError("", f"must match {shown}")]
        return wrong

    return check


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern) if pattern is not None else None
    except re.error:  # pydantic's patterns are Rust's: there it is checked
        return None


def _binary(node: Binary) -> Check:
    sizes = lengths(node, "bytes")
    written = _written(bytes, "bytes", "must be base64")

    def check(value: Any) -> Wrong | None:
        wrong = written(value)
        if wrong is None and sizes is not None:
            return sizes(len(value) // 4 * 3 - value[-2:].count("="))
        return wrong

    return check


def _written(type: Any, word: str, message: str) -> Check:
    """Text that msgspec reads as ``type``."""
    convert = msgspec.convert

    def check(value: Any) -> Wrong | None:
        if value.__class__ is not str:
            return expected(word, value)
        try:
            convert(value, type)
        except msgspec.ValidationError:
            return [FieldError("", message)]
        return None

    return check


def _moment(type: Any, word: str, aware: bool | None, example: str) -> Check:
    offset = {True: " with an offset", False: " without an offset", None: ""}[aware]
    hint = type if aware is None else Annotated[type, msgspec.Meta(tz=aware)]
    return _written(hint, word, f"must be {example}{offset} (RFC 3339)")


def _datetime(node: DateTime) -> Check:
    return _moment(dt.datetime, "datetime", node.aware, "a date and time")


def _time(node: Time) -> Check:
    return _moment(dt.time, "time", node.aware, "a time of day")


def _date(_: Date) -> Check:
    return _written(dt.date, "date", "must be a date (RFC 3339)")


def _duration(_: Duration) -> Check:
    message = "must be a duration in days or smaller units (ISO 8601)"
    written = _written(dt.timedelta, "duration", message)

    def check(value: Any) -> Wrong | None:
        wrong = written(value)
        return [FieldError("", message)] if wrong is None and _DURATION.fullmatch(value) is None else wrong

    return check


def _uuid(_: Uuid) -> Check:
    return _written(uuid.UUID, "uuid", "must be a UUID")


def constant(node: Constant | Enumeration) -> Check:
    allowed, words = {(type(value), value) for value in node.values}, one_of(node.values)
    kinds, words_of_kinds = {type(value) for value in node.values}, kinds_of(node)

    def check(value: Any) -> Wrong | None:
        if type(value) not in kinds:
            return expected(words_of_kinds, value)
        return None if (type(value), value) in allowed else [FieldError("", words)]

    return check


def kinds_of(node: Constant | Enumeration) -> str:
    return " | ".join(dict.fromkeys(_WORDS.get(kind, kind.__name__) for kind in map(type, node.values)))


def one_of(values: tuple[Any, ...]) -> str:
    shown = ", ".join(json.dumps(value, ensure_ascii=False) for value in values[:20])
    if len(values) > 20:
        shown += " ..."
    return f"must be {shown}" if len(values) == 1 else f"not one of {shown}"


def key_check(node: Any, check: Check | None) -> Check | None:
    """Names of members are text; numbers are written in it."""
    pattern, read = {Integer: (_INTEGER, int), Number: (_NUMBER, float)}.get(node.__class__, (None, None))
    if isinstance(node, (Constant, Enumeration)):
        return _written_constant(node)
    if pattern is None or read is None or check is None:
        return check

    def key(value: Any) -> Wrong | None:
        if pattern.fullmatch(value) is None or len(value) > 4000:
            return [FieldError("", f"its name must be {'an integer' if read is int else 'a number'}")]
        return check(read(value))

    return key


def _written_constant(node: Constant | Enumeration) -> Check:
    allowed, words = {str(value) for value in node.values}, one_of(node.values)
    return lambda value: None if value in allowed else [FieldError("", f"its name is {words}")]


SCALARS: dict[Any, Callable[[Any], Check]] = {
    Null: _null,
    Boolean: _boolean,
    Integer: _integer,
    Number: _number,
    Decimal: _decimal,
    Text: _text,
    Binary: _binary,
    DateTime: _datetime,
    Date: _date,
    Time: _time,
    Duration: _duration,
    Uuid: _uuid,
    Constant: constant,
}
