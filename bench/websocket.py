"""WebSockets: fan-out of one writer to many readers, and echo. The hub stores every message before it passes it on."""

from __future__ import annotations

from functools import partial

from bench.figures import HUB, Measure, Report
from bench.load.websockets import echo, fan_out
from bench.machine import raise_file_limit
from bench.processes import Running, hub, serve_websockets
from bench.settings import Run

__all__ = ["run"]

PEER = "websockets"
MEMORY = "Polywire, topic in memory"
READERS = (200, 1_000)
ECHOES = 50


def run(report: Report, run: Run) -> None:
    raise_file_limit()
    with hub("measured.py", run.place("websocket")) as ours, serve_websockets(run.folder / "websockets.log") as peer:
        for count in READERS:
            report.alternate("websocket", f"fan-out to {count:,}", _fan_outs(ours, peer, count, run), run.repeat)
        report.alternate("websocket", f"echo, {ECHOES} clients", _echoes(ours, peer, run), run.repeat)


def _fan_outs(ours: Running, peer: Running, count: int, run: Run) -> dict[str, Measure]:
    load = partial(fan_out, count=count, seconds=run.seconds)
    # The hub's writer reads too, unless it says that it does not want to.
    return {
        HUB: partial(load, ours, readers="/ws/durable", writer="/ws/durable?echo=0"),
        PEER: partial(load, peer, readers="/sub", writer="/pub"),
        MEMORY: partial(load, ours, readers="/ws/memory", writer="/ws/memory?echo=0"),
    }


def _echoes(ours: Running, peer: Running, run: Run) -> dict[str, Measure]:
    """In the hub each client has a key of its own; else each would hear all."""
    return {
        HUB: lambda: echo(ours, [f"/ws/durable/{n}" for n in range(ECHOES)], run.seconds),
        PEER: lambda: echo(peer, ["/echo"] * ECHOES, run.seconds),
        MEMORY: lambda: echo(ours, [f"/ws/memory/{n}" for n in range(ECHOES)], run.seconds),
    }
