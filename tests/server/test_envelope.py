"""What is common to all wires that show messages as JSON."""

from __future__ import annotations

import tracemalloc

import pytest

from polywire.server.envelope import is_json_type, is_text_type


@pytest.mark.parametrize(
    ("content_type", "json", "text"),
    [
        ("application/json", True, False),
        ("Application/JSON ; charset=utf-8", True, False),
        ("application/problem+json", True, False),
        ("text/plain; x=" + "y" * 1_000, False, True),
        ("application/jsonx", False, False),
        ("", False, False),
    ],
)
def test_kinds_of_content(content_type: str, json: bool, text: bool) -> None:
    assert is_json_type(content_type) is json
    assert is_text_type(content_type) is text


def test_what_strangers_send_is_not_kept() -> None:
    tracemalloc.start()
    for index in range(100):
        assert not is_json_type("x" * 60_000 + str(index))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 500_000
