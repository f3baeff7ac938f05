"""What commands print: tables for people, aligned columns for pipes, JSON for scripts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from polywire.core.durations import format_duration

__all__ = ["age", "note", "show_facts", "show_json", "show_table", "size", "write_line"]


def show_json(value: Any) -> None:
    """One line of JSON on stdout."""
    write_line(value if isinstance(value, bytes) else msgspec.json.encode(value))


def write_line(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def note(text: str) -> None:
    """For the person in front of it, on stderr: stdout is for data."""
    print(text, file=sys.stderr, flush=True)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """``columns`` are headings, with a leading ``>`` if aligned to the right. ``empty``: said without rows."""
    if not rows:
        note(empty)
        return
    cells = [[_cell(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        _show_rich(columns, cells)
    else:
        _show_plain(columns, cells)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return "".join(char if char.isprintable() else "·" for char in text) or "-"


def _show_plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    headings = [column.removeprefix(">").upper() for column in columns]
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in [headings, *rows]:
        cells = [
            cell.rjust(width) if column.startswith(">") else cell.ljust(width)
            for column, cell, width in zip(columns, row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _show_rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        name = column.removeprefix(">")
        table.add_column(name, justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def show_facts(facts: Sequence[tuple[str, object]]) -> None:
    """One thing, a line for each of its properties."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(f"{name.ljust(width)}  {_cell(value)}")


def size(count: int | None) -> str | None:
    """Bytes, rounded for reading: ``1.4 MiB``."""
    if count is None:
        return None
    number = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1_000:
            return f"{count} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1_024
    return f"{number:.1f} TiB"


def age(milliseconds: int | None) -> str | None:
    """Rounded to whole seconds above one."""
    if milliseconds is None:
        return None
    return format_duration(milliseconds if milliseconds < 1_000 else milliseconds // 1_000 * 1_000)
