"""How long until a hub serves: ``polywire run`` from the start of its process, and a test's hub after the import."""

from __future__ import annotations

import sys
import time
from functools import partial

import msgspec

from bench.figures import HUB, Figures, Report
from bench.processes import child, first_line, hub
from bench.settings import Run

__all__ = ["run"]

TIMES = 5  # in each round


def run(report: Report, run: Run) -> None:
    _ready(run)  # what is read from the disk for the first time is not the hub's
    report.alternate("startup", "polywire run, until its ready line", {HUB: partial(_ready, run)}, run.repeat * TIMES)
    report.alternate("startup", "polywire.testing.serve", {HUB: partial(_tests, run)}, run.repeat)


def _ready(run: Run) -> Figures:
    began = time.perf_counter()
    with hub("measured.py", run.place("startup")):
        return {"ms": (time.perf_counter() - began) * 1e3}


def _tests(run: Run) -> Figures:
    log = run.folder / "tests.log"
    with child((sys.executable, "-m", "bench.serving_tests"), log) as process:
        return msgspec.json.decode(first_line(process, log), type=dict[str, float])
