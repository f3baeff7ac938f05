"""The servers that are measured, each a process of its own that ends with its ``with``."""

from __future__ import annotations

import os
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.figures import Missing

__all__ = [
    "APPS", "PEERS", "POLYWIRE", "Running", "child", "first_line", "free_port", "hub", "serve_asgi", "serve_websockets",
    "wait_for_port",
]  # fmt: skip

HERE = Path(__file__).parent
APPS, PEERS = HERE / "apps", HERE / "peers"
POLYWIRE = (str(Path(sys.executable).with_name("polywire")),)
_START_SECONDS = 60
_END_SECONDS = 20


def _nothing() -> None:
    pass


class Running(NamedTuple):
    """``pids``: whose CPU time is the server's. ``begin``: called by MQTT's loads when what they measure begins."""

    port: int
    pids: tuple[int, ...]
    begin: Callable[[], None] = _nothing


@contextmanager
def child(
    command: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None, folder: Path = HERE.parent
) -> Iterator[subprocess.Popen[bytes]]:
    """Its standard output is piped, what it complains about goes to ``log``."""
    environment = {**os.environ, **(env or {})}
    with log.open("ab") as complaints:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, env=environment, cwd=folder)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@contextmanager
def hub(app: str, data: Path, *, wire: str = "http", polywire: Sequence[str] = POLYWIRE) -> Iterator[Running]:
    """``polywire run`` of an application in `APPS`, as a user runs it; ``wire`` names whose port is wanted.

    Raises `RuntimeError` with what it says, `Missing` if it has no such wire.
    """
    command: list[str | Path] = [*polywire, "run", APPS / app, "--ready-json", "--free-ports", "--data", data]
    log = data.with_suffix(".log")
    with child(command, log) as process:
        ready = msgspec.json.decode(first_line(process, log))
        if wire not in ready["wires"]:
            raise Missing(f"the hub has no listener {wire!r}")
        yield Running(int(ready["wires"][wire].rpartition(":")[2]), (process.pid,))


def first_line(process: subprocess.Popen[bytes], log: Path, *, seconds: float = _START_SECONDS) -> bytes:
    """Raises `RuntimeError` if it ends, or says nothing in that time."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], seconds)
    line = process.stdout.readline() if readable else b""
    if not line:
        raise RuntimeError(f"{process.args!r} did not start: {log.read_text()[-2_000:]}")
    return line


@contextmanager
def serve_asgi(app: str, log: Path, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """An application of `PEERS` on uvicorn, at its fastest settings."""
    port = free_port()
    options = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
    command = (sys.executable, "-m", "uvicorn", f"{app}:app", "--port", str(port), "--app-dir", PEERS, *options)
    with child(command, log, env=env) as process:
        wait_for_port(port, process, log)
        yield Running(port, (process.pid,))


@contextmanager
def serve_websockets(log: Path) -> Iterator[Running]:
    port = free_port()
    with child((sys.executable, PEERS / "websockets_server.py", str(port)), log) as process:
        wait_for_port(port, process, log)
        yield Running(port, (process.pid,))


def free_port() -> int:
    """Below those that the system gives to clients: nobody takes it meanwhile, and polling it cannot meet itself."""
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Raises `RuntimeError` if the process ends, or does not listen within a minute."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"{process.args!r} does not listen on port {port}: {log.read_text()[-2_000:]}")
