from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polywire.core.durations import LONGEST, format_duration, parse_duration
from polywire.core.errors import Invalid


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("500ms", 500),
        ("30s", 30_000),
        ("10m", 600_000),
        ("1h", 3_600_000),
        ("7d", 604_800_000),
        ("1w", 604_800_000),
        ("1h30m", 5_400_000),
        ("1h 30m", 5_400_000),
        ("1.5s", 1_500),
        (" 2s ", 2_000),
        ("0", 0),
        ("0s", 0),
        ("5", 5_000),
        ("0.25", 250),
        (5, 5_000),
        (0.001, 1),
        (2.5, 2_500),
    ],
)
def test_reads_what_people_write(text: str | float, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-1s",
        "1x",
        "1s2",
        "1 2s",
        "1e3",
        "nan",
        "inf",
        "\u0661s",
        "1" * 40 + "s",
        "1s" * 1_000,
        "101y",
        "99999999d",
        -1,
        float("nan"),
        float("inf"),
        True,
        10**30,
    ],
)
def test_refuses_the_rest(text: str | float) -> None:
    with pytest.raises(Invalid, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0s"), (1, "1ms"), (1_500, "1s500ms"), (5_400_000, "1h30m"), (604_800_000, "7d"), (30_000, "30s")],
)
def test_shows_short_text(milliseconds: int, text: str) -> None:
    assert format_duration(milliseconds) == text


@given(st.integers(0, LONGEST))
def test_text_reads_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds)) == milliseconds


@given(st.text(max_size=80))
def test_any_text_is_a_duration_or_invalid(text: str) -> None:
    with suppress(Invalid):
        assert 0 <= parse_duration(text) <= LONGEST
