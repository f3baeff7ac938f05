"""HTTP load by wrk, from the load's core."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from bench.figures import Figures, Missing
from bench.machine import LoadMeter, on_load_core
from bench.processes import Running

__all__ = ["post", "require"]

SCRIPT = Path(__file__).with_name("post.lua")
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


def require() -> str:
    """Where wrk is. Raises `Missing`."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise Missing("wrk is missing: apt install wrk")
    return wrk


def post(server: Running, path: str, *, connections: int, seconds: float, accounts: tuple[int, ...] = ()) -> Figures:
    """Requests one after the other on each connection. ``accounts``: further processes whose CPU time counts.

    Raises `RuntimeError` if a single request was refused, or a connection failed.
    """
    url = f"http://127.0.0.1:{server.port}{path}"
    length = max(1, round(seconds))  # wrk knows whole seconds only
    command = (require(), "-t1", f"-c{connections}", f"-d{length}s", "--latency", "--timeout", "10s", "-s", SCRIPT, url)
    meter = LoadMeter((*server.pids, *accounts))
    with on_load_core():
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=length + 60).stdout
    if re.search(r"Non-2xx|Socket errors", said):
        raise RuntimeError(f"requests failed: {said}")
    requests = int(_found(r"(\d+) requests in", said))
    return {
        "requests/s": float(_found(r"Requests/sec:\s+([\d.]+)", said)),
        "p50 ms": _latency(said, 50),
        "p99 ms": _latency(said, 99),
        **meter.stop(requests),
    }


def _found(pattern: str, said: str) -> str:
    found = re.search(pattern, said)
    if found is None:
        raise RuntimeError(f"wrk said something else: {said}")
    return found[1]


def _latency(said: str, percent: int) -> float:
    shown = _found(rf"(?m)^\s+{percent}%\s+(\S+)$", said)
    number = re.match(r"[\d.]+", shown)
    assert number is not None, shown
    return float(number[0]) * _MILLISECONDS[shown[number.end() :]]
