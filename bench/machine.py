"""The machine: which core the load has, and what a process used of it."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "LOAD", "LOAD_CORE", "LoadMeter", "cpu_seconds", "describe", "on_load_core", "raise_file_limit", "resident",
    "settled",
]  # fmt: skip

LOAD = "load core %"
LOAD_CORE = 1
"""Servers may run on every core; load only on this one."""
_SETTLED = 0.5  # seconds without a change
_TICKS = os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM = 1, 11, 12  # fields of /proc/PID/stat after the name, see proc(5)


def describe() -> str:
    return f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


@contextmanager
def on_load_core() -> Iterator[None]:
    """Run this thread on the load's core alone. Start servers outside: children inherit it."""
    before = os.sched_getaffinity(0)
    if LOAD_CORE in before and len(before) > 1:
        os.sched_setaffinity(0, {LOAD_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that these processes and their descendants have used so far."""
    stats = _stats()
    todo, seen = list(pids), set[int]()
    while todo:
        pid = todo.pop()
        if pid in stats and pid not in seen:
            seen.add(pid)
            todo += [child for child, fields in stats.items() if int(fields[_PARENT]) == pid]
    return sum(int(stats[pid][_USER]) + int(stats[pid][_SYSTEM]) for pid in seen) / _TICKS


def _stats() -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "stat").read_text()
            except OSError:  # it has ended meanwhile
                continue
            found[int(folder.name)] = text[text.rindex(")") + 2 :].split()
    return found


def resident(pid: int) -> int:
    """Bytes of memory that the process holds (VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no memory: it has ended")


def settled(pids: Sequence[int]) -> int:
    """Bytes of memory that they hold, once that has stopped to change by more than a percent."""
    before = 0
    while abs((held := sum(resident(pid) for pid in pids)) - before) > held / 100:
        before = held
        time.sleep(_SETTLED)
    return held


def raise_file_limit() -> int:
    """As many open files as the system lets us have; children inherit it. Returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


class LoadMeter:
    """From its making to `stop`: what the servers and the load used."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = list(pids)
        self._server = cpu_seconds(self._pids)
        self._load = _own_cpu()
        self._began = time.perf_counter()

    def stop(self, work: float) -> dict[str, float]:
        """``work`` is how many requests or deliveries there were. A load core at 100 % is itself the limit."""
        load = (_own_cpu() - self._load) / (time.perf_counter() - self._began)
        server = (cpu_seconds(self._pids) - self._server) / max(work, 1)
        return {"server CPU µs each": server * 1e6, LOAD: load * 100}


def _own_cpu() -> float:
    """With the children that were waited for: wrk is one."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
