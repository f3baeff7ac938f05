"""What the hub holds in memory: idle, for each idle WebSocket, and after many messages."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from functools import partial

import msgspec

from bench.figures import HUB, Figures, Missing, Report
from bench.load.websockets import connect
from bench.machine import raise_file_limit, settled
from bench.processes import Running, child, first_line, hub, serve_websockets
from bench.settings import Run

__all__ = ["run"]

PEER = "websockets"
SOCKETS = (1_000, 10_000)
MIB = 1 << 20
_SPARE_FILES = 200


def run(report: Report, run: Run) -> None:
    files = raise_file_limit()
    report.alternate("memory", "idle", {HUB: partial(_idle, run)}, run.repeat)
    for count in SOCKETS:
        case = f"{count:,} idle WebSockets"
        if files < count + _SPARE_FILES:
            report.omit(f"memory · {case}", Missing(f"only {files} files may be open (ulimit -n)"))
            continue
        sides = {HUB: partial(_hub_sockets, run, count), PEER: partial(_peer_sockets, run, count)}
        report.alternate("memory", case, sides, run.repeat)
    for mode in ("caught-up", "backlog"):
        case = f"{run.messages:,} messages, {'subscription has' if mode == 'caught-up' else 'all are a'} {mode}"
        # Once: it takes minutes, and memory does not vary as time does.
        report.alternate("memory", case.replace("has caught-up", "caught up"), {HUB: partial(_filled, run, mode)}, 1)


def _idle(run: Run) -> Figures:
    with hub("measured.py", run.place("memory")) as ours:
        return {"MiB": settled(ours.pids) / MIB}


def _hub_sockets(run: Run, count: int) -> Figures:
    with hub("measured.py", run.place("memory")) as ours:
        return _per_socket(ours, "/ws/durable", count)


def _peer_sockets(run: Run, count: int) -> Figures:
    with serve_websockets(run.folder / "websockets.log") as peer:
        return _per_socket(peer, "/sub", count)


def _per_socket(server: Running, path: str, count: int) -> Figures:
    connect(server.port, path).close()  # what the first connection loads is not a connection's
    with ExitStack() as stack:
        before = settled(server.pids)
        for _ in range(count):
            stack.enter_context(connect(server.port, path))
        return {"KiB each": (settled(server.pids) - before) / count / 1_024}


def _filled(run: Run, mode: str) -> Figures:
    """In a process of its own, whose memory is the hub's alone."""
    data = run.place("filled")
    log = data.with_suffix(".log")
    command = (sys.executable, "-m", "bench.filled", mode, str(run.messages), str(data))
    with child(command, log) as process:
        figures = msgspec.json.decode(
            first_line(process, log, seconds=60 + run.messages / 1_000), type=dict[str, float]
        )
    stored = sum(entry.stat().st_size for entry in os.scandir(data) if entry.is_file())
    return {**figures, "stored MiB": stored / MIB}
