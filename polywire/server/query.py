"""The query of an HTTP request, read once and strictly: what nobody asked for is named, not ignored."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from urllib.parse import unquote_to_bytes

from polywire.core.durations import parse_duration
from polywire.core.errors import FieldError, Invalid

__all__ = ["CREDENTIALS", "NO_QUERY", "Query", "parse_query"]

MOST_FIELDS = 64
CREDENTIALS = "api_key"
"""Allowed on every route, for clients that cannot set a header."""


class Query:
    """Names and values, percent-decoded. Getters raise `Invalid` and name the parameter."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, bytes]) -> None:
        self._fields = fields

    def bytes(self, name: str) -> bytes | None:
        return self._fields.get(name)

    def text(self, name: str) -> str | None:
        value = self._fields.get(name)
        return None if value is None else _utf8(value, name)

    def integer(self, name: str, default: int, *, least: int = 0, most: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 18) or not least <= int(text) <= most:
            raise _invalid(name, f"expected a whole number from {least} to {most}, got {text[:32]!r}")
        return int(text)

    def duration(self, name: str, default: int, *, most: int) -> int:
        """Milliseconds; more than ``most`` is taken as ``most``, as the reader gets an answer either way."""
        text = self.text(name)
        if text is None:
            return default
        try:
            return min(parse_duration(text), most)
        except Invalid as error:
            raise _invalid(name, error.detail, hint=error.hint) from None

    def flag(self, name: str) -> bool:
        text = self.text(name)
        if text in (None, "0", "false"):
            return False
        if text in ("1", "true", ""):
            return True
        raise _invalid(name, f"expected 1 or 0, got {text[:32]!r}")


NO_QUERY = Query({})


def parse_query(raw: bytes, allowed: Collection[str] = ()) -> Query:
    """Read ``a=1&b=2``. Raises `Invalid` for a parameter that is not ``allowed``, or that stands there twice."""
    if not raw:
        return NO_QUERY
    parts = raw.split(b"&", MOST_FIELDS)
    if len(parts) > MOST_FIELDS:
        raise Invalid(f"more than {MOST_FIELDS} query parameters")
    fields: dict[str, bytes] = {}
    for part in parts:
        if not part:
            continue
        name, _, value = part.partition(b"=")
        key = _name(name, allowed)
        if key in fields:
            raise _invalid(key, "given twice")
        fields[key] = unquote_to_bytes(value.replace(b"+", b" "))
    return Query(fields)


def _name(raw: bytes, allowed: Collection[str]) -> str:
    name = unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8", "replace")
    if name in allowed or name == CREDENTIALS:
        return name
    near = get_close_matches(name[:64], allowed, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(allowed) or 'none'}"
    raise _invalid(name[:64], "unknown query parameter", hint=hint)


def _utf8(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _invalid(name, "not UTF-8") from None


def _invalid(name: str, message: str, *, hint: str | None = None) -> Invalid:
    return Invalid(f"query parameter {name!r}: {message}", hint=hint, fields=[FieldError(f"query.{name}", message)])
