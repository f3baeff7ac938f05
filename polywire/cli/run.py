"""``polywire run``: settings from everywhere, the application, the hub, and what is printed about it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from polywire.cli.application import load_application, own_frames, show_traceback
from polywire.cli.failures import USAGE, Failure, failure_of
from polywire.cli.greeting import greet
from polywire.core.engine import Engine
from polywire.core.errors import PolywireError
from polywire.hub import Hub
from polywire.serving import LISTENERS, Server, ServeSettings, code_settings, configure
from polywire.serving import run as serve
from polywire.settings import Layers, Settings, load

__all__ = ["run"]

Command = Callable[..., Any]


def _listener_options(command: Command) -> Command:
    """``--NAME PORT`` and ``--no-NAME`` for everything that listens."""
    for name in reversed(LISTENERS):
        command = click.option(f"--no-{name}", f"no_{name}", is_flag=True, help=f"Do not listen for {name}.")(command)
        port = click.IntRange(0, 65_535)
        command = click.option(
            f"--{name}", f"port_{name}", type=port, metavar="PORT", help=f"Of {name}; 0: a free one."
        )(command)
    return command


@click.command()
@click.argument("application", required=False)
@click.option("--host", metavar="HOST", help="Address to listen on, with every protocol. Default: 127.0.0.1.")
@click.option("--data", metavar="DIR", help="Folder of the log. Default: polywire-data.")
@_listener_options
@click.option("--only", metavar="NAMES", help=f"Listen for these alone, as http,mqtt. Known: {', '.join(LISTENERS)}.")
@click.option("--free-ports", is_flag=True, help="Every protocol without a port on this line takes a free one.")
@click.option("--tls-cert", metavar="FILE", help="Certificate chain, PEM: https, wss and mqtts.")
@click.option("--tls-key", metavar="FILE", help="Its private key, PEM.")
@click.option("--origin", "origins", multiple=True, metavar="ORIGIN", help="Web origin that may use it; repeatable.")
@click.option(
    "--open", "is_open", is_flag=True, help="Let everybody who can connect do everything, from elsewhere too."
)
@click.option("--strict/--no-strict", default=None, help="Only declared topics exist. Default: if there are any.")
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="Default: polywire.toml, if there is one."
)
@click.option("--ready-json", is_flag=True, help="One line of JSON on stdout once everything listens.")
def run(application: str | None, *, config: Path | None, ready_json: bool, **given: Any) -> None:
    """Serve an APPLICATION, as app.py or module:hub, until SIGINT or SIGTERM.

    Without one, serve a hub whose topics are created as clients name them.

    Exit codes: 0 after a drain of at most 10 s; 1 a fault; 2 usage, port, settings or data folder.
    """
    out = _reserve_stdout() if ready_json else None
    hub = load_application(application)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        settings = load(Layers(_flags(given), os.environ, config), code_settings(hub))
    except PolywireError as error:
        raise failure_of(error, USAGE) from error
    _Run(hub, *_configure(hub, settings, given), out).serve()


def _reserve_stdout() -> int:
    """A descriptor of stdout for the ready line alone: what anybody else prints, libraries included, goes to stderr."""
    out = os.dup(sys.stdout.fileno())
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return out


def _flags(given: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    flags = {
        ("http", "host"): given["host"],
        ("mqtt", "host"): given["host"],
        ("tls", "certificate"): given["tls_cert"],
        ("tls", "key"): given["tls_key"],
        ("hub", "data"): given["data"],
        ("hub", "strict"): given["strict"],
        ("http", "origins"): given["origins"] or None,
    }
    for name, setting in LISTENERS.items():
        port = given[f"port_{name}"]
        flags[setting] = 0 if port is None and given["free_ports"] else port
    return {path: value for path, value in flags.items() if value is not None}


def _configure(hub: Hub, settings: Settings, given: Mapping[str, Any]) -> tuple[ServeSettings, Engine]:
    if given["port_mqtts"] is not None and settings.tls is None and settings.mqtt.tls is None:
        raise Failure("--mqtts needs a certificate", hint="give --tls-cert and --tls-key", exit_code=USAGE)
    return configure(
        hub,
        settings,
        only=tuple(name.strip() for name in (given["only"] or "").split(",") if name.strip()),
        without=tuple(name for name in LISTENERS if given[f"no_{name}"]),
        open=given["is_open"],
    )


class _Run:
    """One run of a hub, and what its failures mean."""

    def __init__(self, hub: Hub, settings: ServeSettings, engine: Engine, out: int | None) -> None:
        self._hub = hub
        self._settings = settings
        self._engine = engine
        self._out = out
        self._started = False

    def serve(self) -> None:
        try:
            serve(self._hub, self._settings, engine=self._engine, started=self._announce)
        except Exception as error:  # noqa: BLE001 - whatever it is, it gets a reason and an exit code
            self._fail(error)

    def _announce(self, server: Server) -> None:
        self._started = True
        if self._out is None:
            greet(server)
            return
        os.write(self._out, server.ready_line() + b"\n")
        os.close(self._out)

    def _fail(self, error: Exception) -> NoReturn:
        """Before it listens, a refusal is about port, settings or data folder, unless the application's code raised."""
        theirs = bool(own_frames(error.__traceback__))
        if isinstance(error, PolywireError):
            raise failure_of(error, USAGE if not self._started and not theirs else 1) from error
        if isinstance(error, OSError) and not self._started and not theirs:  # a certificate, most likely
            raise Failure(f"the hub cannot start: {_said(error)}", exit_code=USAGE) from error
        if theirs:
            show_traceback(error)
        elif self._started or not isinstance(error, (TypeError, ValueError)):  # those say what is declared wrongly
            logging.getLogger("polywire").error("the hub failed", exc_info=error)
        raise Failure(f"the hub {'failed' if self._started else 'cannot start'}: {_said(error)}") from error


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
