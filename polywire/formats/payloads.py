"""What a payload is shown as, where its publisher said nothing of it."""

from __future__ import annotations

import re

import msgspec
from msgspec import Raw

from polywire.core.message import Record

__all__ = ["type_of"]

_skim = msgspec.json.Decoder(Raw).decode
_INDENT = 32
"""Bytes in which a payload begins, if it may be taken for JSON."""
_CONTROL = re.compile(rb"[\x00-\x06\x0b\x0e-\x1a\x1c-\x1f\x7f]")
"""What no text has, be it for a terminal."""


def type_of(record: Record) -> str | None:
    """The content type of a message, or what it looks like: many protocols and their clients say none.

    A JSON object or array is JSON; other text in UTF-8, without control characters, is text. So is a number: else
    ``12`` and ``012`` of one publisher would be shown in two ways. Of anything else nothing is known.
    """
    payload = record.payload
    if record.content_type is not None or not payload:
        return record.content_type
    if not payload.isascii() and not _is_utf8(payload):
        return None
    if payload[:_INDENT].lstrip()[:1] in (b"{", b"[") and _is_json(payload):
        return "application/json"
    return None if _CONTROL.search(payload) else "text/plain; charset=utf-8"


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_json(payload: bytes) -> bool:
    try:
        _skim(payload)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
