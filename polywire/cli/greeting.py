"""What ``polywire run`` says once it serves: where each protocol listens, and one command to try on each.

Every command works as it is printed, pasted into a shell in the same folder.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from polywire.cli.client import DEFAULT_URL
from polywire.cli.dev_certs import CA_FILE
from polywire.cli.sample import sample_of
from polywire.hub import Hub
from polywire.server.settings import TlsSettings
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
    facts = [*_places(server), ("data", str(Path(server.hub.settings.data).absolute())), ("access", _access(server))]
    lines = [f"{server.hub.name} is ready"]
    if not server.urls:
        lines.append("  nothing listens: --only and --no-NAME leave no protocol")
    width = max(len(name) for name, _ in facts)
    return [*lines, *(f"  {name.ljust(width)}  {fact}" for name, fact in facts)]


def _places(server: Server) -> Iterator[tuple[str, str]]:
    """Each protocol, and where it is."""
    urls = server.urls
    if http := urls.get("http"):
        yield "REST", http
        yield "Server-sent events", f"{http}/topics/TOPIC/events"
        yield "WebSocket", f"{_websocket(http)}/ws/TOPIC"
    if mqtt := [urls[name] for name in ("mqtt", "mqtts") if name in urls]:
        yield "MQTT", ", ".join(mqtt)
    if http and mqtt:
        yield "MQTT over WebSocket", f"{_websocket(http)}/mqtt"
    if http:
        yield "documentation", f"{http}/docs"


def _access(server: Server) -> str:
    if server.access == "open":
        return "open to everybody who can connect: there are no API keys"
    return "with an API key: export POLYWIRE_KEY=… before you try these"


def _websocket(url: str) -> str:
    return url.replace("http", "ws", 1)


def tries(server: Server) -> list[Try]:
    """Some commands for each protocol, and of this one, on a topic that the application declares; and a call of an
    operation, if it has any."""
    return [*_http_tries(server), *_mqtt_tries(server), *_own_tries(server)]


def _http_tries(server: Server) -> list[Try]:
    url = server.urls.get("http")
    if url is None:
        return []
    topic, payload = _example(server.hub)
    target = shlex.quote(f"{url}/topics/{topic}")
    key = "" if server.access == "open" else ' -H "Authorization: Bearer $POLYWIRE_KEY"'
    ca = _authority(server.settings.http.tls)
    curl = f"curl{f' --cacert {ca}' if ca else ''}{key}"
    socket = _websocket(url) + f"/ws/{_untyped(server.hub) or topic}?from=earliest"
    trusting = f"SSL_CERT_FILE={ca} " if ca else ""
    events = shlex.quote(f"{url}/topics/{topic}/events?from=earliest")
    found = [
        Try("REST", "publish", f"{curl} -H 'Content-Type: application/json' -d {shlex.quote(payload)} {target}"),
        Try("REST", "read", f"{curl} {shlex.quote(f'{url}/topics/{topic}?limit=10')}"),
        Try("Server-sent events", "follow", f"{curl} -N {events}"),
        Try("WebSocket", "chat", f"{trusting}{_command('websockets')} {_socket_target(socket, key)}"),
    ]
    if (operation := _operation(server.hub)) is not None:
        target, request = shlex.quote(f"{url}/operations/{operation[0]}"), shlex.quote(operation[1])
        found.append(Try("REST", "call", f"{curl} -H 'Content-Type: application/json' -d {request} {target}"))
    return found


def _mqtt_tries(server: Server) -> list[Try]:
    """With mosquitto's clients, which everybody has who has any."""
    url = server.urls.get("mqtt") or server.urls.get("mqtts")
    if url is None:
        return []
    topic, payload = _example(server.hub)
    place = urlsplit(url)
    where = f"-h {place.hostname} -p {place.port}"
    if place.scheme == "mqtts":
        ca = _authority(server.settings.mqtt.tls)
        where += f" --cafile {ca}" if ca else " --tls-use-os-certs"
    if server.access != "open":
        where += ' -u me -P "$POLYWIRE_KEY"'
    return [
        Try("MQTT", "publish", f"mosquitto_pub {where} -q 1 -t {topic} -m {shlex.quote(payload)}"),
        Try("MQTT", "follow", f"mosquitto_sub {where} -v -t '{topic}/#'"),
    ]


def _own_tries(server: Server) -> list[Try]:
    url = server.urls.get("http")
    if url is None:
        return []
    topic, payload = _example(server.hub)
    polywire, at = _command("polywire"), "" if url == DEFAULT_URL else f" --url {url}"
    if ca := _authority(server.settings.http.tls):
        at += f" --cacert {ca}"
    found = [
        Try("polywire", "publish", f"{polywire} pub{at} {topic} {shlex.quote(payload)}"),
        Try("polywire", "follow", f"{polywire} sub{at} {topic} --from earliest"),
    ]
    if (operation := _operation(server.hub)) is not None:
        given = "" if operation[1] == "{}" else f" {shlex.quote(operation[1])}"
        found.append(Try("polywire", "call", f"{polywire} call{at} {operation[0]}{given}"))
    return found


def _authority(tls: TlsSettings | None) -> str | None:
    """The file of the authority, for a shell, where ``polywire dev-certs`` put it; None: that of other certificates is
    known to the system."""
    if tls is None:
        return None
    file = Path(tls.certificate).with_name(CA_FILE)
    return shlex.quote(str(file)) if file.is_file() else None


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
