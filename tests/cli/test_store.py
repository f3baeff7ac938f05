"""``polywire verify``, ``backup`` and ``restore``."""

from __future__ import annotations

import json

import pytest

from tests.cli.hub_process import last_line, polywire


@pytest.fixture
def filled(start):
    hub = start()
    hub.polywire("subscriptions", "create", "jobs", "t")
    hub.polywire("pub", "t", "--lines", "--retain", "--key", "k", stdin=b"1\n2\n3\n")
    return hub


def verify(folder, code: int = 0) -> dict:
    ended = polywire("verify", "--data", str(folder))
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def test_verify_counts(filled, tmp_path):
    assert filled.stop() == 0
    report = verify(tmp_path / "data")
    assert (report["ok"], report["messages"], report["pending"], report["retained"]) == (True, 3, 3, 1)
    assert report["errors"] == []


def test_verify_finds_damage(filled, tmp_path):
    assert filled.stop() == 0
    database = tmp_path / "data" / "hub.db"
    content = bytearray(database.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    database.write_bytes(content)
    ended = polywire("verify", "--data", str(tmp_path / "data"))
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["ok"] is False
    assert last_line(ended.stderr).startswith(f"error: {database} is damaged: ")


def test_verify_needs_a_log_of_its_own(filled, tmp_path):
    used = polywire("verify", "--data", str(tmp_path / "data"))
    assert (used.returncode, used.stdout) == (2, "")
    assert "in use by another process" in last_line(used.stderr)
    none = polywire("verify", "--data", str(tmp_path / "none"))
    assert none.returncode == 2
    assert "there is no log" in last_line(none.stderr)
    assert not (tmp_path / "none").exists()
    assert polywire("verify").returncode == 2


def test_backup_and_restore(filled, start, tmp_path):
    counts = json.loads(polywire("backup", "copy", "--url", filled.url, "--json", cwd=tmp_path).stdout)
    assert counts["messages"] == 3
    assert counts["path"] == str(tmp_path / "copy" / "hub.db")
    assert verify(tmp_path / "copy")["messages"] == 3
    again = filled.polywire("backup", str(tmp_path / "copy"), code=1)
    assert "is not empty" in last_line(again.stderr)
    position = filled.json("pub", "t", "after the backup")["position"]
    assert filled.stop() == 0

    told = polywire("restore", "copy", "--data", "restored", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "polywire run --data restored" in told.stderr
    restored = start(data=tmp_path / "restored")
    out = restored.polywire("sub", "t", "--from", "earliest", "--count", "3").stdout
    assert out.split() == ["1", "2", "3"]
    assert restored.json("subscriptions", "show", "jobs")["pending"] == 3
    stale = restored.polywire("sub", "t", "--from", position, code=1)
    assert "earlier life" in last_line(stale.stderr)


def test_restore_refuses(filled, tmp_path):
    full = polywire("restore", "nothing", "--data", str(tmp_path / "data"), cwd=tmp_path)
    assert full.returncode == 2
    assert "there is no backup in nothing" in last_line(full.stderr)
    filled.polywire("backup", str(tmp_path / "copy"))
    full = polywire("restore", "copy", "--data", str(tmp_path / "data"), cwd=tmp_path)
    assert full.returncode == 2
    assert "is not empty" in last_line(full.stderr)
