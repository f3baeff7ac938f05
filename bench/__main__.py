"""``python -m bench [NAME…]``: run benches, print what they measured. See README.md."""

from __future__ import annotations

import argparse
import importlib
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from bench.figures import Missing, Report
from bench.machine import describe
from bench.settings import Run

BENCHES = ("publish", "calls", "websocket", "mqtt", "inprocess", "memory", "startup")
MILLION = 1_000_000
SCRATCH = Path(__file__).parents[1] / "build"


def main() -> int:
    """1 if something could not be measured."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with the servers that were started
    asked = _arguments().parse_args()
    report = Report(asked.json)
    if asked.read is not None:
        report.read(asked.read)
    else:
        _measure(report, asked)
        print()
    if asked.markdown:
        print(f"{describe()}; medians [lowest-highest] of the rounds.\n")
    print(report.tables(markdown=asked.markdown))
    return 1 if report.omitted else 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    option = parser.add_argument
    option("names", nargs="*", metavar="NAME", type=_bench, help=f"of {', '.join(BENCHES)}; none: all")
    option("--repeat", type=_positive, default=3, help="rounds, each with the peer and the hub (default 3)")
    option("--seconds", type=float, default=3.0, help="of load in each measurement (default 3)")
    option("--messages", type=_positive, default=10 * MILLION, help="that the memory bench stores (default 10 M)")
    option("--folder", type=Path, default=SCRATCH, help="on the disk to measure (default: build/)")
    option("--json", type=Path, metavar="FILE", help="append each measurement as a line of JSON")
    option("--read", type=Path, metavar="FILE", help="measure nothing: print the tables of an earlier --json FILE")
    option("--markdown", action="store_true", help="print the tables as Markdown, for README.md")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def _bench(name: str) -> str:
    if name not in BENCHES:
        raise argparse.ArgumentTypeError(f"no bench is named {name!r}; there are {', '.join(BENCHES)}")
    return name


def _measure(report: Report, asked: argparse.Namespace) -> None:
    asked.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=asked.folder))
    run = Run(asked.repeat, asked.seconds, asked.messages, folder)
    print(f"{describe()}; {run.repeat} rounds of {run.seconds:g} s", flush=True)
    try:
        for name in asked.names or BENCHES:
            try:
                importlib.import_module(f"bench.{name}").run(report, run)
            except Missing as why:
                report.omit(name, why)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
