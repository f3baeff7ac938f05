"""The documentation is executed: what it shows runs, against a real hub, as it stands but for the port."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import require_tool
from tests.processes import RunningHub, run_hub

ROOT = Path(__file__).parent.parent
PORT = "127.0.0.1:8000"
MQTT_PORT = "1883"


class Block(NamedTuple):
    language: str
    marks: str
    text: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    text = (ROOT / page).read_text()
    for match in re.finditer(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(match[1], match[2], match[3], text[: match.start()].count("\n") + 1)


def run_python(page: str, block: Block, names: dict[str, object], hub: RunningHub | None = None) -> None:
    """With the names of the blocks before it; errors point into the page."""
    source = placed(block.text, hub) if hub else block.text
    exec(compile("\n" * block.line + source, page, "exec"), names)  # noqa: S102 - our own documentation


def placed(text: str, hub: RunningHub) -> str:
    """With the ports of this hub."""
    return text.replace(PORT, hub.http.removeprefix("http://")).replace(MQTT_PORT, mqtt_port(hub))


def mqtt_port(hub: RunningHub) -> str:
    return str(hub.ready["wires"]["mqtt"]).rpartition(":")[2]


def run_shell(block: Block, hub: RunningHub) -> str:
    bash = ["bash", "-euc", placed(block.text, hub)]
    done = subprocess.run(
        bash, capture_output=True, text=True, timeout=30, cwd=hub.folder, env=environment(hub), check=False
    )
    assert done.returncode == 0, f"line {block.line}: {done.stderr}"
    return done.stdout


def environment(hub: RunningHub) -> dict[str, str]:
    """Mosquitto's commands, which would go to port 1883 of this machine, read where the hub is from files."""
    for tool in ("mosquitto_pub", "mosquitto_sub", "mosquitto_rr"):
        (hub.folder / tool).write_text(f"-h 127.0.0.1\n-p {mqtt_port(hub)}\n")
    scripts = str(Path(sys.executable).parent)
    known = {"XDG_CONFIG_HOME": str(hub.folder), "POLYWIRE_URL": hub.http}
    return {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", **known}


def test_the_readme_shows_the_example_as_it_is(tmp_path: Path) -> None:
    require_tool("mosquitto_pub")
    shown = next(block for block in blocks("README.md") if block.language == "python")
    app = tmp_path / "app.py"
    app.write_text(shown.text)
    with run_hub(str(app), data=tmp_path / "data") as hub:
        _, rest, mqtt, alerts, call = (block for block in blocks("README.md") if block.language == "sh")
        assert '"position":"1-0-0"' in run_shell(rest, hub)
        assert run_shell(mqtt, hub) == ""
        for text in ("41.5 °C", "44.0 °C"):
            hub.wait_for(lambda text=text: text in run_shell(alerts, hub))
        assert run_shell(call, hub) == "106.7"


def test_the_readme_names_the_two_commands() -> None:
    commands = next(block for block in blocks("README.md") if block.language == "sh")
    targets = re.findall(r"^make (\w+)", commands.text, re.MULTILINE)
    assert targets == ["run", "test"]
    for target in targets:
        plan = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        assert "examples/greenhouse" in plan.stdout if target == "run" else "pytest" in plan.stdout


def test_links_between_pages_lead_somewhere() -> None:
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("polywire/**/README.md"),
    ]
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert not broken


def test_every_page_is_found_from_the_readme() -> None:
    found, new = set[Path](), {ROOT / "README.md"}
    while new:
        found |= new
        links = {
            (page.parent / link).resolve()
            for page in new
            for link in re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", page.read_text())
        }
        new = links - found
    assert {*ROOT.glob("docs/**/*.md"), *ROOT.glob("polywire/**/README.md")} <= found


def test_first_steps(tmp_path: Path) -> None:
    page = "docs/first-steps.md"
    found = list(blocks(page))
    app = next(block for block in found if "file=app.py" in block.marks)
    (tmp_path / "app.py").write_text(app.text)
    with run_hub("app.py", data=tmp_path / "polywire-data", cwd=tmp_path) as hub:
        names: dict[str, object] = {}
        for block in found:
            if block.language == "python" and "client" in block.marks:
                run_python(page, block, names, hub)
        [shell] = [b for b in found if b.language == "sh" and PORT in b.text]
        for text in ("kitchen has 41.5", "cellar has 44.0"):
            hub.wait_for(lambda text=text: text in run_shell(shell, hub))


async def test_handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    await run_page("docs/handlers.md", ("main", "test_bills"), monkeypatch)
    said = capsys.readouterr().out
    assert "A-4 8.00 €" in said
    assert "priced in 0 ms" in said


async def test_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    await run_page("docs/jobs.md", ("main", "test_convert", "test_tidy", "test_gone"), monkeypatch)
    said = capsys.readouterr().out
    for text in ("submitted None", "progress {'page': 10, 'of': 10}", "has succeeded", "tidying workshop", "forgotten"):
        assert text in said


async def run_page(page: str, functions: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks one after the other, as one module, and then these functions of it."""
    module = Path(page).stem
    names: dict[str, object] = {"__name__": module}
    # Annotations of handlers are looked up in their module.
    monkeypatch.setitem(sys.modules, module, type(sys)(module))
    for block in blocks(page):
        run_python(page, block, names)
    for name in functions:
        function = names[name]
        assert inspect.iscoroutinefunction(function)
        await asyncio.wait_for(function(), 20)


@pytest.mark.needs_node
def test_operations(tmp_path: Path) -> None:
    """Each client's block, and what stands in the block behind it as what it prints."""
    page = "docs/operations.md"
    found = list(blocks(page))
    app = next(block for block in found if "file=app.py" in block.marks)
    (tmp_path / "app.py").write_text(app.text)
    names: dict[str, object] = {}
    compared = 0
    with run_hub("app.py", data=tmp_path / "data", cwd=tmp_path) as hub:
        for block, after in itertools.pairwise([*found, found[-1]]):
            if block.language == "python" and "client" in block.marks:
                run_python(page, block, names, hub)
            elif (block.language == "sh" and PORT in block.text) or block.language == "js":
                said = run_shell(block, hub) if block.language == "sh" else run_node(block, hub)
                assert said.rstrip("\n") == after.text.rstrip("\n"), f"{page}:{block.line}"
                compared += 1
    assert compared >= 9


def run_node(block: Block, hub: RunningHub) -> str:
    script = block.text.replace(PORT, hub.http.removeprefix("http://"))
    command = ["node", "--input-type=module", "-e", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def test_contracts(tmp_path: Path) -> None:
    page = "docs/contracts.md"
    found = list(blocks(page))
    app = next(block for block in found if "file=app.py" in block.marks)
    (tmp_path / "app.py").write_text(app.text)
    names: dict[str, object] = {}
    with run_hub("app.py", data=tmp_path / "data", cwd=tmp_path) as hub:
        for block in found:
            if block.language == "python" and "client" in block.marks:
                run_python(page, block, names, hub)
            elif block.language == "sh" and "server" not in block.marks:
                run_shell(block, hub)
    assert '"https://api.example.com"' in (tmp_path / "openapi.json").read_text()
