"""The Accept header, as RFC 9110 §12.5.1 has it."""

from __future__ import annotations

import tracemalloc

import pytest

from polywire.wires.rest.accept import NotAcceptable, accepts, choose, require

OFFERS = ("application/json", "application/xml", "text/xml")
CHROMIUM = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "application/json"),
        (b"", "application/json"),
        (b"*/*", "application/json"),
        (b"*", "application/json"),
        (b"application/*", "application/json"),
        (b"text/*", "text/xml"),
        (b"application/xml", "application/xml"),
        (b"APPLICATION/XML", "application/xml"),
        (b"application/xml, application/json", "application/json"),
        (b"application/xml, application/json;q=0.9", "application/xml"),
        (b"application/json;q=0.1, */*;q=0.2", "application/xml"),
        (b"application/json;q=0, */*", "application/xml"),
        (b"*/*;q=0.1, application/json;q=0", "application/xml"),
        (b"application/xml;q=1.000 , application/json ; q=0.999", "application/xml"),
        (b"application/xml;charset=utf-8;q=0.9, application/json;q=0.8", "application/xml"),
        (b"image/png, application/xml;q=0.001", "application/xml"),
        (b",, application/xml ,", "application/xml"),
        (b"nonsense, application/xml", "application/xml"),
        (b"application/json;q=2, application/xml;q=0.5", "application/xml"),  # not a weight: not wanted
        (CHROMIUM, "application/json"),
        (b"text/html, application/xml", "application/xml"),
        (b"image/png", None),
        (b"application/json;q=0, application/xml;q=0, text/xml;q=0", None),
        (b"text/plain", None),
        (b"\xff\xfe", None),
        (b"," * 10_000 + b"application/xml", None),  # what comes after so many is not looked at
        (b"application/xml," + b"x/y," * 10_000, "application/xml"),
        (b"application/xml," + b"x" * 10_000, "application/xml"),
    ],
)
def test_choosing(accept: bytes | None, chosen: str | None) -> None:
    assert choose(accept, OFFERS) == chosen


def test_what_strangers_send_is_not_kept() -> None:
    tracemalloc.start()
    for index in range(100):
        choose(b"application/xml, " + b"x" * 60_000 + b"%d" % index, OFFERS)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 500_000


def test_what_cannot_be_answered_is_told_with_what_can() -> None:
    with pytest.raises(NotAcceptable) as caught:
        require(b"image/png", OFFERS)
    assert "image/png" in caught.value.detail
    assert "application/xml" in (caught.value.hint or "")


def test_named_and_meant_by_a_wildcard() -> None:
    assert accepts(b"application/json", "application/json")
    assert not accepts(b"*/*, application/*", "application/json")
    assert not accepts(b"application/json;q=0", "application/json")
    assert not accepts(None, "application/json")
