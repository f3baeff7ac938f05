"""Each line that ``polywire run`` prints is pasted into a shell, as it stands, in the folder it was printed in."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from polywire.cli.greeting import Try
from tests.cli.hub_process import POLYWIRE, Process, polywire, until

ROOT = Path(__file__).resolve().parent.parent.parent
GREENHOUSE = ROOT / "examples" / "greenhouse" / "app.py"
FAHRENHEIT = "70.7"
ANSWER = '"sensor":"sensor"'


@contextmanager
def greeted(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> Iterator[tuple[Process, list[Try]]]:
    """A hub as people start it, and the commands it printed."""
    command = [POLYWIRE, "run", *arguments, "--free-ports", "--data", str(cwd / "data")]
    with Process(*command, cwd=cwd, env=env) as running:
        running.says("polywire: follow")
        yield running, [parsed(line) for line in running.err[running.err.index("") + 1 :]]
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        assert running.out.get(timeout=1) is None, "text for people is on stderr"


def parsed(line: str) -> Try:
    label, _, command = line.strip().partition("  ")
    protocol, _, does = label.partition(": ")
    return Try(protocol, does, command.strip())


def one(tries: list[Try], protocol: str, does: str) -> str:
    (found,) = [each.command for each in tries if (each.protocol, each.does) == (protocol, does)]
    return found


@contextmanager
def pasted(command: str, cwd: Path, stdin: int = subprocess.DEVNULL, **env: str) -> Iterator[Process]:
    with Process("sh", "-c", command, cwd=cwd, env=env, stdin=stdin) as running:
        yield running


def run_once(command: str, cwd: Path, **env: str) -> str:
    with pasted(command, cwd, **env) as running:
        assert running.wait() == 0, running.err
        lines = []
        while (line := running.out.get(timeout=5)) is not None:
            lines.append(line)
        return "\n".join(lines)


def check_all(tries: list[Try], cwd: Path, answer: str, *, result: str | None = None, **env: str) -> None:
    """Every line does what it says; lines that were forgotten here fail the test."""
    left = list(tries)

    def take(protocol: str, does: str) -> str:
        command = one(tries, protocol, does)
        left.remove(Try(protocol, does, command))
        return command

    assert '"position":"1-0-0"' in run_once(take("REST", "publish"), cwd, **env)
    assert answer in run_once(take("REST", "read"), cwd, **env)
    with pasted(take("Server-sent events", "follow"), cwd, **env) as following:
        assert answer in following.line_with("data:").replace(": ", ":")
    with pasted(take("WebSocket", "chat"), cwd, subprocess.PIPE, **env) as chat:
        chat.process.stdin.write(b"what I typed\n")
        chat.process.stdin.flush()
        assert "< what I typed" in chat.line_with("< what I typed")
    check_mqtt(take("MQTT", "publish"), take("MQTT", "follow"), cwd, answer, **env)
    run_once(take("polywire", "publish"), cwd, **env)
    with pasted(take("polywire", "follow"), cwd, **env) as following:
        assert answer in following.line()
        assert answer in following.line_with(answer)
        following.signal(signal.SIGINT)
    if result is not None:
        assert run_once(take("REST", "call"), cwd, **env) == result
        assert run_once(take("polywire", "call"), cwd, **env).rstrip() == result
    assert left == []


def check_mqtt(publish: str, follow: str, cwd: Path, answer: str, **env: str) -> None:
    """The follower does not say when it has subscribed; what is published after that it shows."""
    with pasted(follow, cwd, **env) as following:

        def shown() -> bool:
            run_once(publish, cwd, **env)
            return not following.out.empty()

        until(shown, "a message over MQTT")
        assert answer in following.line()


@pytest.fixture(autouse=True)
def tools(require):
    for tool in ("curl", "mosquitto_pub", "mosquitto_sub"):
        require(tool)


def test_the_example(tmp_path):
    with greeted(str(GREENHOUSE), cwd=tmp_path) as (running, tries):
        check_all(tries, tmp_path, ANSWER, result=FAHRENHEIT)
        where = [line.split() for line in running.err if line.startswith("  ") and "://" in line and ": " not in line]
        assert [words[0] for words in where] == ["REST", "Server-sent", "WebSocket", "MQTT", "MQTT", "documentation"]


def test_a_hub_without_an_application(tmp_path):
    with greeted(cwd=tmp_path) as (_, tries):
        check_all(tries, tmp_path, "hello")


def test_with_tls(tmp_path):
    """And without MQTT in the clear. The files are where ``polywire dev-certs`` puts them."""
    made = polywire("dev-certs", cwd=tmp_path)
    with greeted(*made.stdout.split()[2:], "--no-mqtt", cwd=tmp_path) as (running, tries):
        assert any(line.split()[:1] == ["MQTT"] and "mqtts://" in line for line in running.err)
        check_all(tries, tmp_path, "hello")


def test_only_mqtt(tmp_path):
    command = [POLYWIRE, "run", "--only", "mqtt", "--free-ports", "--data", "data"]
    with Process(*command, cwd=tmp_path) as running:
        running.says("MQTT: follow")
        tries = [parsed(line) for line in running.err[running.err.index("") + 1 :]]
        assert {each.protocol for each in tries} == {"MQTT"}
        check_mqtt(one(tries, "MQTT", "publish"), one(tries, "MQTT", "follow"), tmp_path, "hello")


def test_a_hub_with_keys(tmp_path):
    made = polywire("api-keys", "create", "root", "--allow", "*:#", "--data", str(tmp_path / "data"), "--json")
    key = json.loads(made.stdout)["key"]
    with greeted(cwd=tmp_path) as (running, tries):
        assert any("export POLYWIRE_KEY" in line for line in running.err)
        check_all(tries, tmp_path, "hello", POLYWIRE_KEY=key)
        with pasted(one(tries, "polywire", "publish"), tmp_path) as without:
            assert without.wait() == 1
            assert without.err[-1].endswith("(give an API key with --api-key or POLYWIRE_KEY)")


def test_commands_have_a_path_where_the_shell_does_not_find_them(tmp_path):
    shell = shutil.which("sh")
    assert shell
    with greeted(cwd=tmp_path, env={"PATH": str(Path(shell).parent)}) as (_, tries):
        command = one(tries, "polywire", "publish")
        assert command.startswith(str(Path(sys.executable).parent))
        run_once(command, tmp_path, PATH=str(Path(shell).parent))


TYPES = """
import datetime, enum, typing, uuid
from typing import Annotated
import msgspec
from polywire import Hub

class Colour(enum.Enum):
    RED = "red"

class Inner(msgspec.Struct, tag="inner"):
    when: datetime.datetime
    day: datetime.date
    at: datetime.time
    id: uuid.UUID
    tags: list[str]
    pair: tuple[int, str]

class Order(msgspec.Struct):
    number: Annotated[int, msgspec.Meta(ge=100)]
    code: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$", examples=["ABC"])]
    short: Annotated[str, msgspec.Meta(max_length=2)]
    ratio: Annotated[float, msgspec.Meta(lt=1, ge=0)]
    colour: Colour
    kind: typing.Literal["new", "used"]
    inner: Inner
    maybe: str | None
    extra: dict[str, int]
    flag: bool
    more: int = 3

hub = Hub("types")
orders = hub.topic("orders", Order)
"""


def test_the_example_message_fits_the_declared_type(tmp_path):
    (tmp_path / "app.py").write_text(TYPES)
    with greeted("app.py", cwd=tmp_path) as (_, tries):
        command = one(tries, "polywire", "publish")
        assert " orders " in command
        run_once(command, tmp_path)


OPERATIONS = """
from collections.abc import AsyncIterator
from polywire import Hub

hub = Hub("calls")

@hub.operation
async def count() -> AsyncIterator[int]:
    yield 1

@hub.operation
def repeat(text: str, times: int, pause: float = 0) -> str:
    return " ".join([text] * times)

@hub.operation
def other() -> None:
    pass
"""


def test_an_operation_is_called(tmp_path):
    (tmp_path / "app.py").write_text(OPERATIONS)
    with greeted("app.py", cwd=tmp_path) as (_, tries):
        assert run_once(one(tries, "REST", "call"), tmp_path).startswith('"text text')
        assert run_once(one(tries, "polywire", "call"), tmp_path).startswith("text text")


@pytest.mark.parametrize("width", ["40"])
def test_on_a_terminal_nothing_is_wrapped(tmp_path, width):
    import os
    import pty

    leader, follower = pty.openpty()
    try:
        running = subprocess.Popen(
            [POLYWIRE, "run", "--free-ports", "--data", "data"],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=follower,
            env={**os.environ, "COLUMNS": width, "TERM": "xterm", "POLYWIRE_SQLITE_RESERVE_SIZE": "0"},
        )
        os.close(follower)
        seen = bytearray()

        def complete() -> bool:
            seen.extend(os.read(leader, 65_536))
            return b"--from earliest" in seen

        until(complete, "the greeting")
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
    finally:
        os.close(leader)
    assert b"\x1b[" in seen, "colours"
    lines = seen.decode().splitlines()
    assert any("curl -H 'Content-Type: application/json' -d '\"hello\"' http://" in line for line in lines)
