"""docs/tls.md, as it stands but for the ports."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from polywire.settings import Layers, load
from tests.conftest import require_tool
from tests.processes import run_hub
from tests.test_docs import blocks

PAGE = "docs/tls.md"


def test_every_command_and_the_clients(tmp_path: Path) -> None:
    for tool in ("bash", "curl", "mosquitto_pub"):
        require_tool(tool)
    made, served, shell, python = [block for block in blocks(PAGE) if block.language in ("sh", "python")]
    run(made.text, tmp_path)
    flags = shlex.split(served.text)[2:]
    with run_hub(*flags, data=tmp_path / "data", cwd=tmp_path) as hub:
        ports = {usual: str(urlsplit(hub.ready["wires"][name]).port) for name, usual in USUAL.items()}
        said = run(with_ports(shell.text, ports), tmp_path)
        assert '"position":"1-0-0"' in said
        assert "chat" in said
        (tmp_path / "client.py").write_text(with_ports(python.text, ports))
        assert run(f"{sys.executable} client.py", tmp_path) == "hello\n"
        messages = run(f"curl -s --cacert polywire-certs/ca.pem {hub.http}/topics/chat", tmp_path)
        found = msgspec.json.decode(messages)["messages"]
        assert [message["key"] for message in found] == [None, "kitchen", "kitchen", "kitchen"]


USUAL = {"http": "8000", "mqtts": "8883"}


def with_ports(text: str, ports: dict[str, str]) -> str:
    for usual, port in ports.items():
        text = text.replace(usual, port)
    return text


def run(script: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_settings_are_settings(tmp_path: Path) -> None:
    tables = [block.text for block in blocks(PAGE) if block.language == "toml"]
    assert len(tables) == 2
    for number, text in enumerate(tables):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        assert tomllib.loads(text)
        found = load(Layers({}, {}, file))
        assert found.tls or found.mqtt.tls
