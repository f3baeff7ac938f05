"""What was measured: samples, their medians, and tables of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from bench.machine import LOAD

__all__ = ["HUB", "Figures", "Missing", "Report", "Sample", "percentile"]

HUB = "Polywire"
Figures = dict[str, float]
"""Name with unit → figure."""
Measure = Callable[[], Figures]


class Missing(Exception):
    """Something that this machine does not have is needed; the text says what, and where to get it."""


class Sample(msgspec.Struct, frozen=True):
    """One round of one side of a comparison."""

    bench: str
    case: str
    side: str
    round: int
    figures: Figures


class Report:
    """Gathers samples; each is printed as it comes, and appended to ``lines`` as a line of JSON."""

    def __init__(self, lines: Path | None = None) -> None:
        self.samples: list[Sample] = []
        self.omitted: list[str] = []
        self._lines = lines

    def read(self, file: Path) -> None:
        """Take in the samples of earlier runs. Raises `msgspec.DecodeError`."""
        self.samples += msgspec.json.Decoder(Sample).decode_lines(file.read_bytes())

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)
        shown = ", ".join(f"{name} {_number(value)}" for name, value in sample.figures.items())
        print(f"{sample.bench} · {sample.case} · {sample.side}: {shown}", flush=True)
        if self._lines is not None:
            with self._lines.open("ab") as file:
                file.write(msgspec.json.encode(sample) + b"\n")

    def omit(self, what: str, why: Missing) -> None:
        self.omitted.append(f"{what}: not measured, {why}")
        print(self.omitted[-1], flush=True)

    def alternate(self, bench: str, case: str, sides: Mapping[str, Measure], rounds: int) -> None:
        """One side after the other, ``rounds`` times; every second round backwards, so that drift hits all alike."""
        order = list(sides)
        for number in range(rounds):
            for side in order if number % 2 == 0 else reversed(order):
                self.add(Sample(bench, case, side, number, sides[side]()))

    def tables(self, *, markdown: bool) -> str:
        parts = []
        for bench in dict.fromkeys(sample.bench for sample in self.samples):
            rows = _rows([sample for sample in self.samples if sample.bench == bench])
            parts.append(f"### {bench}\n\n{_markdown(rows)}" if markdown else f"{bench}\n{_columns(rows)}")
        return "\n\n".join(parts + [f"- {line}" for line in self.omitted])


def percentile(values: Sequence[float], percent: float) -> float:
    """0 for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


# Tables: a row for each figure of each case, a column for each side.


def _rows(samples: Sequence[Sample]) -> list[list[str]]:
    sides = list(dict.fromkeys(sample.side for sample in sorted(samples, key=lambda sample: sample.side != HUB)))
    rows = [["case", "figure", *sides]]
    for case in dict.fromkeys(sample.case for sample in samples):
        of_case = [sample for sample in samples if sample.case == case]
        figures = dict.fromkeys(name for sample in of_case for name in sample.figures)
        rows += [[case, figure, *(_cell(of_case, side, figure) for side in sides)] for figure in figures]
    return rows


def _cell(samples: Iterable[Sample], side: str, figure: str) -> str:
    """Median [lowest-highest]; beside a peer's, how many times as large Polywire's is."""
    by_side: dict[str, dict[int, float]] = {}
    for sample in samples:
        if figure in sample.figures:
            by_side.setdefault(sample.side, {})[sample.round] = sample.figures[figure]
    values, ours = by_side.get(side, {}), by_side.get(HUB, {})
    if not values:
        return ""
    spread = f" [{_number(min(values.values()))}-{_number(max(values.values()))}]" if len(values) > 1 else ""
    ratios = [ours[turn] / value for turn, value in values.items() if side != HUB and value and turn in ours]
    ratio = f", x{statistics.median(ratios):.2f}" if ratios and figure != LOAD else ""
    return f"{_number(statistics.median(values.values()))}{spread}{ratio}"


def _number(value: float) -> str:
    """Three digits of what is small, no fractions of what is not."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---|---|" + "---:|" * (len(rows[0]) - 2))
    return "\n".join(lines)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
