"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polywire.core.errors import Invalid
from polywire.core.units import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1_000),
        ("64KiB", 65_536),
        ("64 kib", 65_536),
        ("1.5MiB", 1_572_864),
        ("10MB", 10_000_000),
        ("2gb", 2_000_000_000),
        ("1GiB", 1 << 30),
        ("1TiB", 1 << 40),
        ("7B", 7),
        ("999999999999999", 999_999_999_999_999),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "KiB", "-1", "1K", "1 XB", "1e3", "0x10", "1KiB2", "inf", "٣", "1" * 16, "1,5MB", "1iB"]
)
def test_what_is_no_size(text):
    with pytest.raises(Invalid):
        parse_size(text)


@given(st.integers(min_value=0, max_value=10**15 - 1))
def test_what_is_formatted_is_read_back(size):
    assert parse_size(format_size(size)) == size


def test_the_shortest_text():
    assert [format_size(size) for size in (0, 1_000, 1_024, 1 << 20, 3 << 30)] == [
        "0B",
        "1000B",
        "1KiB",
        "1MiB",
        "3GiB",
    ]
