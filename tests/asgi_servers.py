"""Servers of other people as processes of their own: uvicorn and hypercorn for ASGI, wsgiref for WSGI."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["ServerProcess", "hypercorn", "server_process", "uvicorn", "wsgi"]

_URL = re.compile(r"[Rr]unning on (http://127\.0\.0\.1:\d+)")
_WSGI = """
import sys
from importlib import import_module
from wsgiref.simple_server import make_server
module, _, name = sys.argv[1].partition(":")
with make_server("127.0.0.1", 0, getattr(import_module(module), name)) as server:
    print(f"Running on http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()
"""


class ServerProcess:
    """A process that tells its URL on stderr, which is read to the end."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.lines: list[str] = []
        self.url = ""
        self._told = threading.Event()
        self.process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := _URL.search(line):
                self.url = found[1]
                self._told.set()
        self._told.set()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1)

    def started(self) -> ServerProcess:
        if not self._told.wait(30) or not self.url:
            self.end()
            pytest.fail(f"the server did not start: {self.log}")
        return self

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code, after the signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"the server did not end: {self.log}")
        finally:
            self._reader.join(10)
            assert self.process.stderr is not None
            self.process.stderr.close()
        return self.process.returncode


@contextmanager
def server_process(command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[ServerProcess]:
    server = ServerProcess(command, folder, environment)
    try:
        yield server.started()
    finally:
        server.end()


def uvicorn(app: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-m", "uvicorn", app, "--port", "0", "--timeout-graceful-shutdown", "2"]
    return [*command, *arguments]


def hypercorn(app: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "hypercorn", app, "--bind", "127.0.0.1:0", *arguments]


def wsgi(app: str) -> list[str]:
    return [sys.executable, "-c", _WSGI, app]
