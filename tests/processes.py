"""Hubs as processes of their own, as their users run them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

__all__ = ["RunningHub", "run_hub", "started"]


class RunningHub(NamedTuple):
    process: subprocess.Popen[bytes]
    ready: dict[str, Any]
    folder: Path

    @property
    def http(self) -> str:
        return str(self.ready["wires"]["http"])

    def wait_for(self, condition: Callable[[], object], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds} s")
            threading.Event().wait(0.02)


def started(process: subprocess.Popen[bytes], folder: Path) -> RunningHub:
    """A hub that was just started with ``--ready-json``, once it is ready."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        pytest.fail(f"the hub did not start: {process.communicate(timeout=10)[1].decode()}")
    return RunningHub(process, json.loads(line), folder)


@contextmanager
def run_hub(*arguments: str, data: Path, cwd: Path | None = None) -> Iterator[RunningHub]:
    """``polywire run`` with these arguments on free ports; ended by SIGTERM, which must end it well."""
    command = [sys.executable, "-m", "polywire", "run", *arguments, "--ready-json", "--free-ports", "--data", str(data)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd)
    hub = started(process, cwd or data.parent)
    try:
        yield hub
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors.decode()
