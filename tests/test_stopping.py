"""SIGTERM: what is under way ends or is left behind, in the time that was said, whatever the application does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.processes import RunningHub, started

HEAD = """
import asyncio
from contextlib import asynccontextmanager
from polywire import Hub
"""
STUBBORN_HANDLER = (
    HEAD
    + """
hub = Hub("stubborn", strict=False)

@hub.subscribe("t")
async def never(payload: int) -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
"""
)
STUBBORN_LIFESPAN = (
    HEAD
    + """
@asynccontextmanager
async def life(hub):
    yield
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

hub = Hub("stubborn", strict=False, lifespan=life)
"""
)
SLOW_HANDLER = (
    HEAD
    + """
hub = Hub("slow", strict=False)
out = hub.topic("out")

@hub.subscribe("t", publish=out)
async def slow(payload: int) -> int:
    await asyncio.sleep(1)
    return payload + 1
"""
)


@contextmanager
def running(application: str, tmp_path: Path, drain: str = "2s") -> Iterator[RunningHub]:
    (tmp_path / "app.py").write_text(application)
    (tmp_path / "polywire.toml").write_text(f"[limits]\ndrain = '{drain}'\n")
    command = [sys.executable, "-m", "polywire", "run", "app.py", "--ready-json", "--free-ports", "--data", "data"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    try:
        yield started(process, tmp_path)
    finally:
        process.kill()
        process.communicate()


def publish(hub: RunningHub) -> None:
    assert requests.post(f"{hub.http}/topics/t", json=1, timeout=5).status_code == 201


def unsettled(hub: RunningHub, name: str) -> int:
    return int(requests.get(f"{hub.http}/subscriptions/{name}", timeout=5).json()["unsettled"])


@pytest.mark.parametrize("application", [STUBBORN_HANDLER, STUBBORN_LIFESPAN], ids=["handler", "lifespan"])
def test_what_does_not_end_is_left_behind(application: str, tmp_path: Path) -> None:
    with running(application, tmp_path) as hub:
        publish(hub)
        if application is STUBBORN_HANDLER:
            hub.wait_for(lambda: unsettled(hub, "never") == 1)
        began = time.monotonic()
        hub.process.send_signal(signal.SIGTERM)
        _, errors = hub.process.communicate(timeout=10)
        assert hub.process.returncode == 0, errors.decode()
        assert time.monotonic() - began < 4
        assert b"nor when it was cancelled" in errors
    with running(HEAD + "hub = Hub('again', strict=False)", tmp_path) as hub:
        assert requests.get(f"{hub.http}/topics/t", timeout=5).json()["messages"][0]["data"] == 1


def test_while_handlers_finish_clients_are_told(tmp_path: Path) -> None:
    with running(SLOW_HANDLER, tmp_path, drain="8s") as hub:
        publish(hub)
        hub.wait_for(lambda: unsettled(hub, "slow") == 1)
        hub.process.send_signal(signal.SIGTERM)
        hub.wait_for(lambda: requests.get(f"{hub.http}/ready", timeout=5).status_code == 503)
        refused = requests.post(f"{hub.http}/topics/t", json=2, timeout=5)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert requests.get(f"{hub.http}/health", timeout=5).status_code == 200
        assert hub.process.wait(10) == 0
    with running(HEAD + "hub = Hub('again', strict=False)", tmp_path) as hub:
        assert [m["data"] for m in requests.get(f"{hub.http}/topics/out", timeout=5).json()["messages"]] == [2]


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with running(STUBBORN_HANDLER, tmp_path, drain="30s") as hub:
        publish(hub)
        hub.wait_for(lambda: unsettled(hub, "never") == 1)
        hub.process.send_signal(signal.SIGTERM)
        hub.wait_for(lambda: requests.get(f"{hub.http}/ready", timeout=5).status_code == 503)
        hub.process.send_signal(signal.SIGTERM)
        assert hub.process.poll() is None, "two signals at once are one"
        hub.wait_for(lambda: hub.process.send_signal(signal.SIGTERM) or hub.process.poll() is not None)
        _, errors = hub.process.communicate(timeout=5)
        assert hub.process.returncode == 1
        assert "second signal" in errors.decode().splitlines()[-1]
