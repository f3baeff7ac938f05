"""The JSON bodies this wire takes, as types. What is not a field of them is refused by name."""

from __future__ import annotations

import re
from typing import Literal, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from polywire.core.durations import parse_duration
from polywire.core.errors import FieldError, Invalid

__all__ = [
    "BackoffBody",
    "BackupBody",
    "Duration",
    "ExtendBody",
    "KeyBody",
    "MoveBody",
    "NackBody",
    "PullBody",
    "RedriveBody",
    "RejectBody",
    "ResetBody",
    "SourceBody",
    "SubscriptionBody",
    "TokensBody",
    "TopicBody",
    "decode",
    "duration",
]

Duration = str | int | float
"""``"30s"`` or a number of seconds; see `polywire.core.durations`."""

MOST_TOKENS = 10_000
T = TypeVar("T")


class TopicBody(Struct, forbid_unknown_fields=True):
    durability: Literal["durable", "memory"] | UnsetType = UNSET
    retention: Duration | UnsetType | None = UNSET
    retention_size: int | UnsetType | None = UNSET
    hard_limit: int | UnsetType | None = UNSET
    overflow: Literal["refuse", "drop-oldest", "dead-letter"] | UnsetType = UNSET
    latest: bool | UnsetType = UNSET
    dedup: bool | UnsetType = UNSET


class SourceBody(Struct, forbid_unknown_fields=True):
    topic: str
    key: str | None = None
    headers: dict[str, str] = {}


class BackoffBody(Struct, forbid_unknown_fields=True):
    first: Duration | UnsetType = UNSET
    factor: float | UnsetType = UNSET
    max: Duration | UnsetType = UNSET
    jitter: float | UnsetType = UNSET


class SubscriptionBody(Struct, forbid_unknown_fields=True):
    sources: list[SourceBody]
    start: str = "now"
    ordered: bool | UnsetType = UNSET
    attempts: int | UnsetType | None = UNSET
    backoff: BackoffBody | UnsetType | None = UNSET
    ack_timeout: Duration | UnsetType | None = UNSET
    expires: Duration | UnsetType | None = UNSET
    durable: bool | UnsetType = UNSET
    dead_letters: bool | UnsetType = UNSET


class PullBody(Struct, forbid_unknown_fields=True):
    max: int = 1
    wait: Duration = 0
    lease: Duration | None = None


class TokensBody(Struct, forbid_unknown_fields=True):
    tokens: list[str]


class NackBody(TokensBody, forbid_unknown_fields=True):
    delay: Duration | None = None


class RejectBody(TokensBody, forbid_unknown_fields=True):
    reason: str = "rejected"


class ExtendBody(TokensBody, forbid_unknown_fields=True):
    lease: Duration | None = None


class ResetBody(Struct, forbid_unknown_fields=True):
    to: str


class MoveBody(Struct, forbid_unknown_fields=True):
    topic: str
    key: str | None = None


class CursorBody(Struct, forbid_unknown_fields=True):
    cursor: str


class RedriveBody(Struct, forbid_unknown_fields=True):
    limit: int | None = None
    seqs: list[int] | None = None


class KeyBody(Struct, forbid_unknown_fields=True):
    name: str
    allow: list[str]


class BackupBody(Struct, forbid_unknown_fields=True):
    folder: str


_PLACED = re.compile(r"(?P<message>.*?)(?: - at `(?P<path>.*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)


def decode(body: bytes, type: type[T]) -> T:
    """An empty body is ``{}``. Raises `Invalid` that names the field, or the byte where the body stops being JSON."""
    try:
        value = msgspec.json.decode(body or b"{}", type=type)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the body is not well-formed JSON: {str(error)[:200]}") from None
    if isinstance(value, TokensBody) and not 1 <= len(value.tokens) <= MOST_TOKENS:
        raise _wrong("$.tokens", f"expected 1 to {MOST_TOKENS} tokens")
    return value


def _wrong_field(text: str) -> Invalid:
    match = _PLACED.fullmatch(text)
    message, path = (match["message"], match["path"] or "$") if match else (text, "$")
    for pattern, said in ((_UNKNOWN, "unknown field"), (_MISSING, "required")):
        if named := pattern.fullmatch(message):
            return _wrong(f"{path}.{named[1][:64]}", said)
    return _wrong(path, message)


def _wrong(path: str, message: str) -> Invalid:
    return Invalid(f"{path}: {message}", fields=[FieldError(path, message)])


def duration(value: Duration, path: str) -> int:
    """Milliseconds. Raises `Invalid` naming ``path``."""
    try:
        return parse_duration(value)
    except Invalid as error:
        raise Invalid(f"{path}: {error.detail}", hint=error.hint, fields=[FieldError(path, error.detail)]) from None
