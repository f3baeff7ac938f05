"""docs/json-rpc.md runs as it stands, but for the port; what its comments say comes out."""

from __future__ import annotations

import re
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from polywire.wires.websocket import JsonRpcSettings
from polywire.wires.websocket.jsonrpc.binding import CODES
from polywire.wires.websocket.jsonrpc.methods import METHODS
from tests.processes import RunningHub, run_hub
from tests.test_docs import PORT, ROOT, Block, blocks, run_python

PAGE = "docs/json-rpc.md"
PRINTED = re.compile(r"print\(.*\)  # (.*)")


def serve(folder: Path) -> AbstractContextManager[RunningHub]:
    app = next(block for block in blocks(PAGE) if "file=app.py" in block.marks)
    (folder / "app.py").write_text(app.text)
    return run_hub("app.py", data=folder / "polywire-data", cwd=folder)


def clients(language: str) -> list[Block]:
    return [block for block in blocks(PAGE) if block.language == language and "client" in block.marks]


def like(shown: str, said: str) -> bool:
    """``…`` stands for anything."""
    return re.fullmatch(".*".join(re.escape(part) for part in shown.split("…")), said) is not None


def test_the_python_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    with serve(tmp_path) as hub:
        for block in clients("python"):
            run_python(PAGE, block, names, hub)
            printed = capsys.readouterr().out.splitlines()
            shown = PRINTED.findall(block.text)
            assert len(printed) == len(shown)
            for said, expected in zip(printed, shown, strict=True):
                assert like(expected, said) or ", with " in expected, f"{said!r} is not {expected!r}"
    errors = {error["path"] for error in names["error"]["data"]["errors"]}  # type: ignore[index]
    assert errors == {"$.data.number", "$.data.customer"}


@pytest.mark.needs_node
def test_the_javascript_block(tmp_path: Path, node_clients: Path) -> None:
    (block,) = clients("js")
    with serve(tmp_path) as hub:
        source = block.text.replace(PORT, hub.http.removeprefix("http://"))
        script = f"globalThis.WebSocket ??= require('ws');\n{source}"
        done = subprocess.run(
            ["node", "-e", script], capture_output=True, text=True, timeout=30, cwd=node_clients, check=True
        )
    assert done.stdout.splitlines() == ["3", "-32602 2"]


def test_the_page_names_every_method_code_and_bound() -> None:
    text = (ROOT / PAGE).read_text()
    assert [method for method in METHODS if f"`{method}`" not in text and f'ask("{method}"' not in text] == []
    assert {code: number for code, number in CODES.items() if not re.search(rf"{number} \| `{code}`", text)} == {}
    bounds = JsonRpcSettings()
    assert f"| {bounds.batch} |" in text
    assert f"| {bounds.in_flight} |" in text
    assert f"| {bounds.unsettled:,} |" in text
