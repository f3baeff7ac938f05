"""What a disk and a second process can do to a hub, as its operator sees it:

a clear error, nothing acknowledged lost.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import requests

from tests.processes import run_hub

BODY = "x" * 100_000


def refused_start(data: Path) -> str:
    """The reason, on the last line of stderr, of a hub that must not start on this folder (exit 2)."""
    command = [sys.executable, "-m", "polywire", "run", "--ready-json", "--free-ports", "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    return done.stderr.strip().splitlines()[-1]


def test_a_second_process_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with run_hub(data=data) as hub:
        assert str(data) in refused_start(data)
        assert requests.post(f"{hub.http}/topics/t", json=1, timeout=5).status_code == 201


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert str(blocked) in refused_start(blocked / "data")


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "hub.db").write_bytes(os.urandom(10_000))
    assert str(data) in refused_start(data)


def test_a_rotten_message_is_named_and_not_served(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with run_hub(data=data) as hub:
        url = f"{hub.http}/topics/t"
        for payload in ("first", "NEEDLE" * 10, "last"):
            assert requests.post(url, data=payload, headers={"Content-Type": "text/plain"}, timeout=5).ok
    file = data / "hub.db"
    file.write_bytes(file.read_bytes().replace(b"NEEDLE", b"NEEDLF", 1))
    with run_hub(data=data) as hub:
        url = f"{hub.http}/topics/t"
        answer = requests.get(url, timeout=5)
        assert answer.status_code == 500
        assert "checksum" in answer.json()["detail"]
        assert "NEEDL" not in answer.text
        assert requests.post(url, json=1, timeout=5).status_code == 201, "the rest of the hub goes on"
    verified = subprocess.run(
        [sys.executable, "-m", "polywire", "verify", "--data", str(data)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert verified.returncode == 1
    assert json.loads(verified.stdout)["ok"] is False


class SmallDisk(NamedTuple):
    folder: Path
    filler: Path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of 48 MiB, a third of it taken."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a file system can only be mounted as root")
    try:
        filler = folder / "filler"
        filler.write_bytes(bytes(16 << 20))
        yield SmallDisk(folder, filler)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(small_disk: SmallDisk, tmp_path: Path) -> None:
    (tmp_path / "polywire.toml").write_text("[sqlite]\nreserve_size = '4MiB'\n[limits]\ndisk_fraction = 1.0\n")
    data = small_disk.folder / "data"
    config = ("--config", str(tmp_path / "polywire.toml"))
    acknowledged: list[str] = []
    with run_hub(*config, data=data) as hub:
        topic, queue = f"{hub.http}/topics/t", f"{hub.http}/subscriptions/s"
        assert requests.put(queue, json={"sources": [{"topic": "t"}]}, timeout=5).status_code == 201

        def publish() -> requests.Response:
            answer = requests.post(topic, json=BODY, timeout=10)
            if answer.ok:
                acknowledged.append(answer.json()["position"])
            return answer

        hub.wait_for(lambda: publish().status_code == 503, 60)
        refused = publish()
        assert refused.status_code == 503
        assert refused.json()["code"] == "unavailable"
        assert refused.headers["Retry-After"]

        # Reading and acknowledging go on.
        assert requests.get(f"{topic}?limit=1", timeout=5).json()["messages"][0]["position"] == acknowledged[0]
        pulled = requests.post(f"{queue}/pull", json={"max": 5}, timeout=5).json()["deliveries"]
        tokens = [delivery["token"] for delivery in pulled]
        assert len(tokens) == 5
        assert requests.post(f"{queue}/ack", json={"tokens": tokens}, timeout=10).json() == {"settled": 5}

        small_disk.filler.unlink()
        hub.wait_for(lambda: publish().ok, 30)
    with run_hub(*config, data=data) as hub:
        positions: list[str] = []
        start = "earliest"
        while page := (answer := requests.get(f"{hub.http}/topics/t?from={start}", timeout=10).json())["messages"]:
            positions += [message["position"] for message in page]
            start = answer["next"]
        assert set(acknowledged) <= set(positions)
        assert len(set(positions)) == len(positions)
        pending = requests.get(f"{hub.http}/subscriptions/s", timeout=5).json()["pending"]
        assert pending == len(positions) - 5
