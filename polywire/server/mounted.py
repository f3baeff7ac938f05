"""ASGI applications and folders that the hub's user has mounted beside the wires.

What such an application finds in its scope: ``path`` and ``root_path`` as ASGI has them (``root_path`` is where it is
mounted, the hub's own mount included), ``principal`` (who is asking, `Principal`; ``anonymous`` without a key of the
hub), and ``state`` of its own lifespan. It is public unless it asks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from polywire.core.errors import Unavailable
from polywire.mounts import Mount
from polywire.server.lifespan import Lifespan
from polywire.server.paths import route_path
from polywire.server.refusals import refuse
from polywire.server.router import App, Receive, Router, Send
from polywire.server.whole_response import WHOLE

__all__ = ["Applications"]

_OF_OUTER_ROUTERS = ("app_root_path", "endpoint", "path_params", "route", "router")
"""What a Starlette around the hub leaves in the scope for its own routes: to an application below it would be wrong."""


class _Mounted:
    """ASGI. One application under its path."""

    def __init__(self, mount: Mount) -> None:
        self.path = mount.path
        self.takes_websockets = not isinstance(mount.app, Path)
        app = _folder(mount.app) if isinstance(mount.app, Path) else mount.app
        self._app: App = app
        self.lifespan = Lifespan(app, f"the application mounted on {mount.path}") if self.takes_websockets else None
        self._closing = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if self._closing:
            await refuse(scope, receive, send, Unavailable("the hub is stopping", retry_after=1))
            return
        self._running += 1
        self._idle.clear()
        try:
            await self._app(self._scope(scope), receive, send)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    def _scope(self, outer: Any) -> Any:
        scope = dict(outer)
        scope.pop(WHOLE, None)
        for name in _OF_OUTER_ROUTERS:
            scope.pop(name, None)
        root = str(scope.get("root_path") or "").rstrip("/")
        scope["path"] = root + route_path(outer)
        scope["root_path"] = root if self.path == "/" else root + self.path
        scope["state"] = dict(self.lifespan.state) if self.lifespan else {}
        return scope

    def close(self) -> None:
        """Take no more."""
        self._closing = True

    async def idle(self) -> None:
        await self._idle.wait()


class Applications:
    """Everything mounted on one hub that serves. Life: construct → `mount` → `start` → serve → `stop`.

    ``patience``: seconds that requests under way have to end, before their application does.
    """

    def __init__(self, mounts: Iterable[Mount], *, patience: float) -> None:
        self._all = [_Mounted(mount) for mount in mounts]
        self._patience = patience
        self._started: list[Lifespan] = []

    def mount(self, router: Router, *, index: bool = True) -> None:
        """After the wires. ``index`` False: ``/`` itself stays whose it is. Raises `ValueError` for a path that is
        taken."""
        for mounted in self._all:
            try:
                router.mount_application(mounted.path, mounted, websockets=mounted.takes_websockets, index=index)
            except ValueError as error:
                raise ValueError(f"hub.mount({mounted.path!r}): {error}") from None

    async def start(self) -> None:
        """Run each application's lifespan up to its start. Raises `RuntimeError` for one that cannot start."""
        for mounted in self._all:
            if mounted.lifespan is not None:
                await mounted.lifespan.start()
                self._started.append(mounted.lifespan)

    async def stop(self) -> None:
        """Take nothing new, wait for what is under way, then end the lifespans, the last first."""
        for mounted in self._all:
            mounted.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                for mounted in self._all:
                    await mounted.idle()
        while self._started:
            await self._started.pop().stop()


def _folder(folder: Path) -> App:
    from polywire.server.static import Folder  # Starlette, for those who serve files

    return Folder(folder)
