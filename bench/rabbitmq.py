"""A RabbitMQ node of our own: own port, own folder, own epmd, all ended by their process ids."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.figures import Missing
from bench.processes import Running, child, free_port

__all__ = ["broker"]

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Not the one in the path, which Debian made a wrapper that writes to the system's own folders."""


@contextmanager
def broker(folder: Path) -> Iterator[Running]:
    """Raises `Missing` where RabbitMQ is not installed."""
    epmd = shutil.which("epmd")
    if not SERVER.exists() or epmd is None:
        raise Missing("RabbitMQ is missing: apt install rabbitmq-server")
    folder.mkdir(parents=True)
    port, names, distribution = free_port(), free_port(), free_port()
    env = _environment(folder, port, names, distribution)
    log = folder / "broker.log"
    # Without a name server of our own the node would leave one running.
    with (
        child((epmd, "-port", str(names), "-address", "127.0.0.1"), log),
        child((SERVER,), log, env=env, folder=folder) as process,
    ):
        _wait_started(process, log)
        yield Running(port, (process.pid,))


def _environment(folder: Path, port: int, names: int, distribution: int) -> dict[str, str]:
    plugins = folder / "enabled_plugins"
    plugins.write_text("[].\n")
    return {
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": "polywire-bench@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
    }


def _wait_started(process: subprocess.Popen[bytes], log: Path) -> None:
    """It says so, after a banner."""
    assert process.stdout is not None
    for line in process.stdout:
        if b"completed with" in line:
            return
    raise RuntimeError(f"RabbitMQ did not start: {log.read_text()[-2_000:]}")
