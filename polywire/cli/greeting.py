"""What ``polywire run`` says once it serves: where each protocol listens, and one command to try on each.

Every command works as it is printed, pasted into a shell in the same folder.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from polywire.cli.client import DEFAULT_URL
from polywire.cli.sample import sample_of
from polywire.hub import Hub
from polywire.serving import Server

__all__ = ["Try", "greet", "tries"]


class Try(NamedTuple):
    """``protocol`` and what the command does, and the command."""

    protocol: str
    does: str
    command: str


def greet(server: Server) -> None:
    """On stderr; in colours, if that is a terminal."""
    lines = _heading(server)
    commands = tries(server)
    if sys.stderr.isatty():
        _show_rich(lines, commands)
        return
    print(*lines, "", sep="\n", file=sys.stderr)
    width = max((len(_label(one)) for one in commands), default=0)
    for one in commands:
        print(f"  {_label(one).ljust(width)}  {one.command}", file=sys.stderr)
    sys.stderr.flush()


def _show_rich(lines: list[str], commands: list[Try]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text(lines[0], style="bold green"))
    for line in lines[1:]:
        console.print(Text(line))
    console.print()
    width = max((len(_label(one)) for one in commands), default=0)
    for one in commands:
        console.print(Text.assemble(("  " + _label(one).ljust(width), "dim"), "  ", (one.command, "cyan")))


def _label(one: Try) -> str:
    return f"{one.protocol}: {one.does}"


def _heading(server: Server) -> list[str]:
    lines = [f"{server.hub.name} is ready"]
    if url := server.urls.get("http"):
        websocket = url.replace("http", "ws", 1)
        lines += [f"  REST                {url}", f"  Server-sent events  {url}/topics/TOPIC/events"]
        lines += [f"  WebSocket           {websocket}/ws/TOPIC", f"  documentation       {url}/docs"]
    else:
        lines.append("  nothing listens: --only and --no-NAME leave no protocol")
    lines.append(f"  data                {Path(server.hub.settings.data).absolute()}")
    if server.access == "open":
        lines.append("  access              open to everybody who can connect: there are no API keys")
    else:
        lines.append("  access              with an API key: export POLYWIRE_KEY=… before you try these")
    return lines


def tries(server: Server) -> list[Try]:
    """One command for each protocol, and two of this one, on a topic that the application declares; and a call of an
    operation, if it has any."""
    url = server.urls.get("http")
    if url is None:
        return []
    topic, payload = _example(server.hub)
    target = shlex.quote(f"{url}/topics/{topic}")
    key = "" if server.access == "open" else ' -H "Authorization: Bearer $POLYWIRE_KEY"'
    socket = url.replace("http", "ws", 1) + f"/ws/{_untyped(server.hub) or topic}?from=earliest"
    data = shlex.quote(payload)
    polywire, at = _command("polywire"), "" if url == DEFAULT_URL else f" --url {url}"
    found = [
        Try("REST", "publish", f"curl{key} -H 'Content-Type: application/json' -d {data} {target}"),
        Try("REST", "read", f"curl{key} {shlex.quote(f'{url}/topics/{topic}?limit=10')}"),
        Try(
            "Server-sent events", "follow", f"curl{key} -N {shlex.quote(f'{url}/topics/{topic}/events?from=earliest')}"
        ),
        Try("WebSocket", "chat", f"{_command('websockets')} {_socket_target(socket, key)}"),
        Try("polywire", "publish", f"{polywire} pub{at} {topic} {data}"),
        Try("polywire", "follow", f"{polywire} sub{at} {topic} --from earliest"),
    ]
    if (operation := _operation(server.hub)) is not None:
        name, request = operation[0], shlex.quote(operation[1])
        target = shlex.quote(f"{url}/operations/{name}")
        found.append(Try("REST", "call", f"curl{key} -H 'Content-Type: application/json' -d {request} {target}"))
        given = "" if operation[1] == "{}" else f" {request}"
        found.append(Try("polywire", "call", f"{polywire} call{at} {name}{given}"))
    return found


def _socket_target(socket: str, key: str) -> str:
    return f'"{socket}&api_key=$POLYWIRE_KEY"' if key else shlex.quote(socket)


def _example(hub: Hub) -> tuple[str, str]:
    """The first declared topic and a message that fits it; on a hub without topics, the chat everybody tries first."""
    for topic in hub.topics:
        payload = sample_of(topic.contract.codec)
        if payload is not None:
            return topic.name, payload
    return "chat", '"hello"'


def _operation(hub: Hub) -> tuple[str, str] | None:
    """The first that answers at once, and a request that it would take."""
    for operation in hub.contract.operations:
        request = sample_of(operation.request.codec)
        if request is not None and not operation.streams:
            return operation.name, request
    return None


def _untyped(hub: Hub) -> str | None:
    """A topic that takes what people type."""
    return next((topic.name for topic in hub.topics if topic.contract.codec.untyped), None)


def _command(name: str) -> str:
    """How a command of this installation is called from here: by name if the shell finds this one, else by path."""
    ours = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and Path(found).resolve() == ours.resolve():
        return name
    try:
        return shlex.quote(str(ours.relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(ours))
