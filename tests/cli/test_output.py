"""Tables and failures: aligned in pipes, in colours on a terminal, never a peer's control characters."""

from __future__ import annotations

import io
import sys

import pytest

from polywire.cli.failures import show_failure
from polywire.cli.output import age, show_table, size

ROWS = [("short", 5, True, None), ("a much longer name than the others", 12_345, False, ["a", "b"])]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain(capsys):
    show_table(("name", ">count", "on", "list"), ROWS, empty="")
    assert capsys.readouterr().out.splitlines() == [
        "NAME                                COUNT  ON   LIST",
        "short                                   5  yes  -",
        "a much longer name than the others  12345  no   a, b",
    ]


def test_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    show_table(("name", ">count"), [("[red]not markup[/red]", 1)], empty="")
    text = sys.stdout.getvalue()
    assert "[red]not markup[/red]" in text
    assert "\x1b[1m" in text


def test_nothing_to_show(capsys):
    show_table(("name",), [], empty="there are none")
    assert tuple(capsys.readouterr()) == ("", "there are none\n")


def test_control_characters_do_not_reach_the_terminal(capsys):
    show_table(("name",), [("a\x1b[2Jb\nc",)], empty="")
    assert capsys.readouterr().out == "NAME\na·[2Jb·c\n"
    show_failure("two\nlines \x1b[31m")
    assert capsys.readouterr().err == "error: two lines  [31m\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, None), (0, "0 B"), (999, "999 B"), (1_000, "1.0 KiB"), (5 << 20, "5.0 MiB"), (1 << 40, "1.0 TiB")],
)
def test_size(count, text):
    assert size(count) == text


@pytest.mark.parametrize(("milliseconds", "text"), [(None, None), (12, "12ms"), (1_999, "1s"), (3_661_000, "1h1m1s")])
def test_age(milliseconds, text):
    assert age(milliseconds) == text
