"""Every command in docs/command-line.md runs, in order, against the application that its pages speak of."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.cli.hub_process import environment, until

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "command-line.md"


class Block(NamedTuple):
    language: str
    mark: str
    text: str
    line: int


def blocks() -> list[Block]:
    text = PAGE.read_text()
    return [
        Block(found[1], found[2], found[3], text[: found.start()].count("\n") + 1)
        for found in re.finditer(r"^```(\w+) ?(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def like(shown: str, said: str) -> bool:
    """``…`` stands for anything within a line."""
    return re.fullmatch("[^\n]*?".join(re.escape(part) for part in shown.split("…")), said) is not None


def run(block: Block, folder: Path, url: str) -> str:
    """What the commands say, on stdout and stderr."""
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=folder,
        env=environment(POLYWIRE_URL=url),
        timeout=50,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ended.returncode == 0, f"line {block.line}: {ended.stdout}"
    return "".join(line for line in ended.stdout.splitlines(True) if not line.startswith("following "))


def test_every_example(require, app, start, tmp_path):
    """``sh soon`` is a listing that shows what it must after a moment: what came before it is still under way."""
    require("bash")
    (tmp_path / "readme.txt").write_text("a file")
    hub = start(str(app))
    found = [block for block in blocks() if block.language in ("sh", "text") and block.mark != "server"]
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.language == "text":
            continue
        said = run(block, tmp_path, hub.url)
        if after is None or after.language != "text":
            continue
        if block.mark == "soon":
            until(lambda b=block, a=after: like(a.text, run(b, tmp_path, hub.url)), f"line {after.line}, after {said}")
        else:
            assert like(after.text, said), f"line {after.line}: the page shows\n{after.text}\nand it says\n{said}"


def test_the_ready_line(app, start):
    (shown,) = [json.loads(block.text) for block in blocks() if block.mark == "ready"]
    ready = start(str(app)).ready
    assert list(shown) == list(ready)
    assert {name: type(value) for name, value in shown.items()} == {name: type(value) for name, value in ready.items()}
    assert (shown["hub"], shown["version"]) == (ready["hub"], ready["version"])


def test_every_option_of_run_is_on_the_page():
    from polywire.cli.run import run
    from polywire.serving import LISTENERS

    for_all = {f"--no-{name}" for name in LISTENERS}  # which is said once
    table = PAGE.read_text()
    for option in run.params:
        for name in (*option.opts, *option.secondary_opts):
            if name.startswith("--") and name not in for_all:
                assert f"`{name}" in table, name


def test_every_command_is_on_the_page():
    from polywire.cli import COMMANDS

    headings = " ".join(re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE))
    assert set(COMMANDS) == set(headings.replace(",", "").split())
