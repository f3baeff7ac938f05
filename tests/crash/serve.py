"""Serves the application of the crash test as ``polywire run APP --ready-json --free-ports --data DIR`` does."""

from __future__ import annotations

import sys

from polywire.serving import Server, ServeSettings, run
from tests.crash.app import hub


def ready(server: Server) -> None:
    sys.stdout.buffer.write(server.ready_line() + b"\n")
    sys.stdout.flush()


hub.configure(data=sys.argv[1])
settings = ServeSettings()
run(hub, settings, started=ready, port=0)
