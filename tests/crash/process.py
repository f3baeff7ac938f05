"""A hub in a process of its own, to be killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

APP = Path(__file__).with_name("app.py")
POLYWIRE = Path(sys.executable).with_name("polywire")
SECONDS = 30


class HubProcess:
    """``ready`` is the line that the hub prints once it accepts."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.ready: dict[str, Any] = {}

    @classmethod
    async def spawn(cls, data: Path, app: Path | None = APP, **settings: str) -> HubProcess:
        """``app`` None: a hub without one. ``settings``: as the environment has them, without ``POLYWIRE_``."""
        which = (str(app),) if app is not None else ()
        command = (str(POLYWIRE), "run", *which, "--ready-json", "--free-ports", "--data", str(data))
        pipe = asyncio.subprocess.PIPE
        environment = {**os.environ, **{f"POLYWIRE_{name}": value for name, value in settings.items()}}
        return cls(await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment))

    @property
    def url(self) -> str:
        return str(self.ready["wires"]["http"])

    @property
    def mqtt_port(self) -> int:
        return int(str(self.ready["wires"]["mqtt"]).rpartition(":")[2])

    async def wait_ready(self) -> None:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), SECONDS)
        assert line, f"the hub did not start: {await self._end()}"
        self.ready = json.loads(line)

    async def kill(self) -> None:
        """``kill -9``. A hub that ended by itself before is a fault."""
        assert self._process.returncode is None, f"the hub ended by itself: {await self._end()}"
        self._process.kill()
        said = await self._end()
        assert self._process.returncode == -signal.SIGKILL, said

    async def terminate(self) -> None:
        self._process.terminate()
        said = await self._end()
        assert self._process.returncode == 0, said

    async def _end(self) -> str:
        _, said = await asyncio.wait_for(self._process.communicate(), SECONDS)
        return said.decode(errors="replace")
