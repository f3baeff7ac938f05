"""MQTT 3.1.1, messages of 100 bytes: throughput, latency, connections, many subscriptions; mosquitto beside it.

``python -m bench.mqtt CASE…`` measures some of the cases; ``--profile`` shows where the hub's time goes instead.
"""

from __future__ import annotations

import argparse
import os
import pstats
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import mosquitto
from bench.figures import HUB, Figures, Measure, Missing, Report
from bench.load.mqtt_connections import connect_rate, memory_each
from bench.load.mqtt_latency import latency
from bench.load.mqtt_throughput import Shape, crowd, throughput
from bench.machine import raise_file_limit
from bench.processes import Running, hub
from bench.settings import Run

__all__ = ["CASES", "run"]

PEER = "mosquitto"
MEMORY = "Polywire, topic in memory"
RATE = 1_000  # messages a second
IDLE = 10_000
AT_ONCE = 64
ROWS = 40  # of a profile
BUILD = Path(__file__).parents[1] / "build"
_SPARE_FILES = 200

Load = Callable[[Running, float], Figures]
"""With the seconds that it lasts."""


class Case(NamedTuple):
    """``memory``: the same load on a topic of the hub that is in memory. ``nodelay``: what is better for mosquitto."""

    title: str
    load: Load
    memory: Load | None = None
    nodelay: bool = False
    files: int = 0


def _throughput(shape: Shape) -> Load:
    return partial(throughput, shape=shape)


CASES = {
    "qos0-1-1": Case("QoS 0, 1 to 1", _throughput(Shape(0)), _throughput(Shape(0, topic="memory"))),
    "qos0-1-10": Case("QoS 0, 1 to 10", _throughput(Shape(0, readers=10))),
    "qos0-10-10": Case("QoS 0, 10 pairs", _throughput(Shape(0, lanes=10))),
    "qos1-1-1": Case("QoS 1, 1 to 1", _throughput(Shape(1))),
    "qos1-1-10": Case("QoS 1, 1 to 10", _throughput(Shape(1, readers=10))),
    "qos1-10-10": Case("QoS 1, 10 pairs", _throughput(Shape(1, lanes=10))),
    "qos0-paced": Case(f"QoS 0, {RATE:,} messages/s", partial(latency, rate=RATE, qos=0), nodelay=True),
    "qos1-paced": Case(f"QoS 1, {RATE:,} messages/s", partial(latency, rate=RATE, qos=1), nodelay=True),
    "crowd-100": Case("QoS 0, 100 subscriptions cmd/{id}/#", partial(crowd, subscriptions=100, qos=0)),
    "crowd-100000": Case("QoS 0, 100,000 subscriptions cmd/{id}/#", partial(crowd, subscriptions=100_000, qos=0)),
    "connects": Case(f"connects, {AT_ONCE} at once", partial(connect_rate, at_once=AT_ONCE)),
    "idle": Case(f"{IDLE:,} idle connections", partial(memory_each, count=IDLE), files=IDLE + _SPARE_FILES),
}


def run(report: Report, run: Run) -> None:
    mosquitto.require()
    measure(report, run, CASES)


def measure(report: Report, run: Run, names: Iterable[str], only: str | None = None) -> None:
    """``only``: the one side to measure. Each measurement has a server of its own, and the hub a log of its own."""
    files = raise_file_limit()
    for case in map(CASES.__getitem__, names):
        if files < case.files:
            report.omit(f"mqtt · {case.title}", Missing(f"only {files} files may be open (ulimit -n)"))
            continue
        sides: dict[str, Measure] = {HUB: partial(_hub, case.load, run), PEER: partial(_peer, case, run)}
        if case.memory is not None:
            sides[MEMORY] = partial(_hub, case.memory, run)
        chosen = {side: one for side, one in sides.items() if only in (None, side)}
        report.alternate("mqtt", case.title, chosen, run.repeat)


def _hub(load: Load, run: Run) -> Figures:
    data = run.place("devices")
    with hub("devices.py", data, wire="mqtt") as server:
        figures = load(server, run.seconds)
    shutil.rmtree(data)  # gigabytes, after all cases
    return figures


def _peer(case: Case, run: Run) -> Figures:
    with mosquitto.broker(run.place("mosquitto"), nodelay=case.nodelay) as server:
        return case.load(server, run.seconds)


def profile(name: str, run: Run) -> None:
    """Print where the thread of the hub's event loop spends its time. It is slower than without."""
    stats = run.place("profile")
    wrapper = (sys.executable, "-m", "bench.profiled", str(stats))
    with hub("devices.py", run.place("devices"), wire="mqtt", polywire=wrapper) as server:
        begin = partial(os.kill, server.pids[0], signal.SIGUSR1)
        print(CASES[name].title, CASES[name].load(server._replace(begin=begin), run.seconds))
    pstats.Stats(str(stats)).sort_stats("tottime").print_stats(ROWS)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with the servers that were started
    asked = _arguments().parse_args()
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=BUILD) as folder:
        run = Run(asked.repeat, asked.seconds, 0, Path(folder))
        if asked.profile:
            for name in asked.cases:
                profile(name, run)
            return
        report = Report()
        measure(report, run, asked.cases, asked.side)
        print(f"\n{report.tables(markdown=False)}")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.mqtt", description=__doc__)
    option = parser.add_argument
    option("cases", nargs="+", metavar="CASE", choices=CASES, help=f"of {', '.join(CASES)}")
    option("--profile", action="store_true", help="show where the hub's time goes")
    option("--side", choices=(HUB, PEER, MEMORY), help="measure this one alone")
    option("--repeat", type=int, default=1, help="rounds (default 1)")
    option("--seconds", type=float, default=2.0, help="of load in each measurement (default 2)")
    return parser


if __name__ == "__main__":
    main()
