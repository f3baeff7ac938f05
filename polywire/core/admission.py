"""What any record must keep to before a topic's own check sees it, sizes and values that can be stored; and any pattern
of keys."""

from __future__ import annotations

from polywire.core.errors import FieldError, Invalid, TooLarge
from polywire.core.limits import Limits
from polywire.core.message import Record

__all__ = ["check_pattern", "check_record"]

_ID = 1_024  # characters of an id, a reply-to, a correlation id, a content type
_INTEGER = 1 << 63
_HEADER_VALUES = "must be text, bytes, a 64-bit integer, a float, a boolean or null"


def check_record(record: Record, limits: Limits) -> None:
    """Raises `TooLarge`, `Invalid`.

    What passes can be stored: a value that cannot would fail the commit of its neighbours too.
    """
    if len(record.payload) > limits.message_size:
        raise TooLarge(f"a message has at most {limits.message_size} bytes, not {len(record.payload)}")
    if record.key is not None and len(record.key) > limits.key_size:
        raise TooLarge(f"a key has at most {limits.key_size} bytes, not {len(record.key)}")
    if record.headers:
        _check_headers(record, limits)
    if len(record.id) > _ID:
        raise _too_long("id", record.id)
    if record.content_type is not None and len(record.content_type) > _ID:
        raise _too_long("content type", record.content_type)
    if record.reply_to is not None and len(record.reply_to) > _ID:
        raise _too_long("reply-to", record.reply_to)
    if record.correlation_id is not None and len(record.correlation_id) > _ID:
        raise _too_long("correlation id", record.correlation_id)
    if record.native is not None and len(record.native) > limits.headers_size:
        raise TooLarge(f"a message's properties have at most {limits.headers_size} bytes, not {len(record.native)}")


def _too_long(name: str, value: str | bytes) -> TooLarge:
    return TooLarge(f"a message's {name} has at most {_ID} characters, not {len(value)}")


def check_pattern(pattern: str | None, limits: Limits) -> None:
    """No key is longer, so such a pattern would mean nothing, and cost at every message. Raises `TooLarge`."""
    if pattern is not None and len(pattern) > limits.key_size:
        raise TooLarge(
            f"a key has at most {limits.key_size} bytes, and a pattern no more characters",
            extra={"limit": limits.key_size},
        )


def _check_headers(record: Record, limits: Limits) -> None:
    size = 0
    for name, value in record.headers:
        if not _storable(name, value):
            wrong = f"$.headers.{str(name)[:80]}"
            raise Invalid(f"header {str(name)[:80]!r} cannot be stored", fields=[FieldError(wrong, _HEADER_VALUES)])
        # Also an empty one takes its place.
        size += max(1, len(name) + (len(value) if isinstance(value, (str, bytes)) else 8))
    if size > limits.headers_size:
        raise TooLarge(f"headers have at most {limits.headers_size} bytes, not {size}")


def _storable(name: object, value: object) -> bool:
    if not isinstance(name, str) or not _is_unicode(name):
        return False
    if isinstance(value, str):
        return _is_unicode(value)
    if isinstance(value, int):
        return -_INTEGER <= value < _INTEGER
    return value is None or isinstance(value, (bytes, float))


def _is_unicode(value: str) -> bool:
    """Lone surrogates are no characters, and no encoding has them."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
