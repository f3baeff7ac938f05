"""A mosquitto of our own: own port, everything in memory, nothing dropped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.figures import Missing
from bench.processes import Running, child, free_port, wait_for_port

__all__ = ["broker", "require"]

SBIN = "/usr/sbin"
"""Where Debian puts it, which is not in everybody's path."""
SETTINGS = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 0
set_tcp_nodelay {nodelay}
log_dest stderr
log_type error
"""
"""0: no bound. The default bounds would make it lose messages, and a little slower at QoS 1."""


def require() -> str:
    """Where mosquitto is. Raises `Missing`."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path=SBIN)
    if found is None:
        raise Missing("mosquitto is missing: apt install mosquitto")
    return found


@contextmanager
def broker(place: Path, *, nodelay: bool) -> Iterator[Running]:
    """``place``: the path without suffix of its settings and its log. Raises `Missing`.

    ``nodelay`` makes it quicker to answer (without, an acknowledgement waits for the next message of the client) and
    costs a third of its throughput.
    """
    command, port = require(), free_port()
    settings, log = place.with_suffix(".conf"), place.with_suffix(".log")
    settings.write_text(SETTINGS.format(port=port, nodelay=str(nodelay).lower()))
    with child((command, "-c", settings), log) as process:
        wait_for_port(port, process, log)
        yield Running(port, (process.pid,))
