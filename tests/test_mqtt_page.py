"""docs/mqtt.md, as it stands but for the ports: what it shows is what is said."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
import requests
from playwright.sync_api import expect, sync_playwright

from tests.conftest import require_tool
from tests.processes import RunningHub, run_hub
from tests.test_docs import Block, blocks, environment, placed, run_python

PAGE = "docs/mqtt.md"
SECONDS = 10


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    (tmp_path / "static").mkdir()
    for block in blocks(PAGE):
        if block.marks.startswith("file="):
            (tmp_path / block.marks.removeprefix("file=")).write_text(block.text)
    with run_hub("app.py", data=tmp_path / "data", cwd=tmp_path) as running:
        yield running


def shown(language: str, marks: str) -> list[tuple[Block, str | None]]:
    """The blocks of a kind; and what each prints, if the page shows that."""
    pairs = itertools.pairwise([*blocks(PAGE), None])
    return [
        (block, after.text if after is not None and after.language == "text" else None)
        for block, after in pairs
        if block is not None and (block.language, block.marks) == (language, marks)
    ]


def like(page: str, said: str) -> bool:
    """``…`` stands for anything within a line."""
    return re.fullmatch("[^\n]*?".join(re.escape(part) for part in page.split("…")), said) is not None


def check(block: Block, page: str | None, said: str) -> None:
    assert page is None or like(page.rstrip("\n"), said.rstrip("\n")), f"{PAGE}:{block.line} says\n{said}"


def run_shell(block: Block, hub: RunningHub) -> str:
    """What a terminal shows."""
    for tool in ("mosquitto_pub", "mosquitto_sub", "mosquitto_rr"):
        require_tool(tool)
    done = subprocess.run(
        ["bash", "-euc", placed(block.text, hub)],
        cwd=hub.folder, env=environment(hub), timeout=30, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{PAGE}:{block.line}: {done.stdout}"
    return "".join(line for line in done.stdout.splitlines(True) if not line.startswith("following "))


def test_the_commands(hub: RunningHub) -> None:
    """The first block follows a topic in a terminal of its own: it shows what the second one publishes."""
    [(follow, _)], [(first, both), *others] = shown("sh", "follow"), shown("sh", "")
    assert both is not None
    require_tool("mosquitto_sub")
    with subprocess.Popen(["bash", "-c", f"exec {follow.text}"], env=environment(hub), stdout=subprocess.PIPE) as sub:
        try:
            hub.wait_for(lambda: "polywire_live_readers 1" in requests.get(f"{hub.http}/metrics", timeout=SECONDS).text)
            run_shell(first, hub)
            assert sub.stdout is not None
            assert [sub.stdout.readline().decode() for _ in both.splitlines()] == both.splitlines(keepends=True)
        finally:
            sub.terminate()
    for block, page in others:
        check(block, page, run_shell(block, hub))
    assert len(others) >= 9


def test_the_commands_with_a_key(hub: RunningHub) -> None:
    [(block, page)] = shown("sh", "keys")
    assert page is not None
    check(block, page, run_shell(block, hub))
    assert requests.post(f"{hub.http}/topics/chat", data="x", timeout=SECONDS).status_code == 401


def test_the_python_clients(hub: RunningHub) -> None:
    names: dict[str, object] = {}
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):  # of paho's threads, too
            for block, page in shown("python", "client"):
                run_python(PAGE, block, names, hub)
                if page is not None:
                    wait_until(hub, said, page)
                    check(block, page, said.getvalue())
                    said.seek(0)
                    said.truncate()
    finally:
        for client in names.values():
            if isinstance(client, mqtt.Client):
                client.disconnect()
                client.loop_stop()


def wait_until(hub: RunningHub, said: io.StringIO, page: str) -> None:
    lines = page.count("\n")
    hub.wait_for(lambda: said.getvalue().count("\n") >= lines)


@pytest.mark.needs_node
def test_mqtt_js_in_node(hub: RunningHub, node_clients: Path) -> None:
    [(block, page)] = shown("js", "client")
    for script in (block.text, block.text.replace("mqtt://127.0.0.1:1883", "ws://127.0.0.1:8000/mqtt")):
        command = ["node", "--input-type=module", "-e", placed(script, hub)]
        done = subprocess.run(command, cwd=node_clients, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        check(block, page, done.stdout)


@pytest.mark.needs_chromium
def test_mqtt_js_in_a_page(hub: RunningHub, node_clients: Path) -> None:
    shutil.copy(node_clients / "node_modules" / "mqtt" / "dist" / "mqtt.min.js", hub.folder / "static")
    requests.post(f"{hub.http}/topics/readings", json={"sensor": "attic", "celsius": 30}, timeout=SECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_tool("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(hub.http)
        lines = page.locator("#readings li")
        expect(lines).to_have_text(["attic: 30 °C"], timeout=SECONDS * 1000)
        requests.post(f"{hub.http}/topics/readings", json={"sensor": "attic", "celsius": 31.5}, timeout=SECONDS)
        expect(lines).to_have_text(["attic: 30 °C", "attic: 31.5 °C"], timeout=SECONDS * 1000)
        browser.close()
