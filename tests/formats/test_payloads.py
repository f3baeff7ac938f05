"""What payloads look like whose publishers do not say what they are."""

from __future__ import annotations

import pytest

from polywire.core.message import Record
from polywire.formats.payloads import type_of

TEXT, JSON = "text/plain; charset=utf-8", "application/json"


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b'{"a": 1}', JSON),
        (b'\r\n  ["a", 1.50]\n', JSON),
        (b'{"a": 1', TEXT),
        (b"[on]", TEXT),
        (b"23.5", TEXT),
        (b"true", TEXT),
        (b'"quoted"', TEXT),
        ("grün\t\r\n".encode(), TEXT),
        (b"\x1b[31mred\x1b[0m", TEXT),
        (b"\x00\x00\x00\x2a", None),
        (b"abc\x7f", None),
        (b"\xff\xfe", None),
        (b'{"a": "\xff"}', None),
        (b"", None),
    ],
    ids=ascii,
)
def test_what_payloads_look_like(payload: bytes, shown: str | None) -> None:
    assert type_of(Record(payload)) == shown


def test_what_the_publisher_says_holds() -> None:
    assert type_of(Record(b'{"a": 1}', content_type="image/png")) == "image/png"
    assert type_of(Record(b"\xff", content_type="text/plain")) == "text/plain"


def test_what_is_nested_without_end_is_text() -> None:
    assert type_of(Record(b"[" * 200_000 + b"]" * 200_000)) == TEXT
