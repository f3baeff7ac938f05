"""The mount table of the HTTP listener: which path belongs to which wire."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from polywire.core.errors import NotFound, PolywireError
from polywire.server.direct import DirectHandler
from polywire.server.paths import route_path
from polywire.server.problems import send_problem
from polywire.server.websocket import WebSocketRoute

__all__ = ["App", "Receive", "Router", "Send"]

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]
T = TypeVar("T")

_DEEPEST_MOUNT = 8
_PLAIN_TARGET = re.compile(rb"([/A-Za-z0-9._~!$&'()*+,;=:@-]{1,1024})(?:\?[/A-Za-z0-9._~!$&'()*+,;=:@?%-]{1,1024})?")
"""A path in which nothing is percent-encoded, perhaps a query, no fragment (RFC 3986)."""


class Router:
    """Exact paths first, then the longest prefix (whole segments), then the fallback: a few dictionary look-ups.

    A path that HTTP claims is not a WebSocket's unless a WebSocket route claims it too. What the hub's user mounts
    (`mount_application`) is ASGI of somebody else, with WebSockets in ASGI's own form. Not changed once it serves.
    """

    def __init__(self) -> None:
        self._exact: dict[str, App] = {}
        self._prefixes: dict[str, App] = {}
        self._fallback: App | None = None
        self._applications: dict[str, App] = {}
        self._websocket_applications: dict[str, App] = {}
        self._direct: dict[bytes, dict[str, tuple[DirectHandler, App]]] = {}
        self._direct_exact: dict[bytes, dict[str, tuple[DirectHandler, App]]] = {}
        self._sockets: dict[str, WebSocketRoute] = {}
        self._socket_prefixes: dict[str, WebSocketRoute] = {}
        self._socket_fallback: WebSocketRoute | None = None

    def mount(self, path: str, app: App) -> None:
        """``app`` answers ``path`` and everything below it. Raises `ValueError` if it is taken or not absolute."""
        self.mount_exact(path, app)
        self._prefixes[path] = app

    def mount_exact(self, path: str, app: App) -> None:
        """``app`` answers ``path`` only."""
        _claim(self._exact, path, app)

    def mount_slashed(self, path: str, app: App) -> None:
        """``app`` answers ``path`` with a slash at its end, where nobody else does."""
        self._exact.setdefault(f"{path}/", app)

    def mount_fallback(self, app: App) -> None:
        """``app`` answers what no path claims. It claims nothing itself."""
        self._fallback = app

    def mount_application(self, path: str, app: App, *, websockets: bool, index: bool = True) -> None:
        """``app``, of the hub's user, answers ``path`` and what is below it and claimed by nobody else. On ``/`` that
        is the hub's own index too, unless ``index`` is False. It takes the WebSockets there, if it takes any. To be
        mounted after all else. Raises `ValueError` if the hub itself serves that path.
        """
        if path == "/":
            if self._fallback is not None:
                raise ValueError("the path '/' is taken")
            self._fallback = app
            if index:
                self._exact[path] = app
        else:
            above = _longest(self._prefixes, path)
            if above is not None and above not in self._applications.values():
                raise ValueError(f"the path {path!r} is taken: the hub serves what is above it")
            self.mount(path, app)
        self._applications[path] = app
        if websockets:
            self._websocket_applications[path] = app

    def mount_direct(self, method: str, path: str, handler: DirectHandler) -> None:
        """``handler`` is offered short requests with ``method`` for what is below ``path``, before the app that is
        mounted on ``path`` is. Raises `ValueError` if no app is, or a handler is already."""
        if path not in self._prefixes:
            raise ValueError(f"nothing is mounted on {path!r} that could take what a direct handler declines")
        _claim(self._direct.setdefault(method.encode(), {}), path, (handler, self._prefixes[path]))

    def mount_direct_exact(self, method: str, path: str, handler: DirectHandler) -> None:
        """The same for ``path`` itself."""
        app = self.app(path)
        if app is None:
            raise ValueError(f"nothing is mounted on {path!r} that could take what a direct handler declines")
        _claim(self._direct_exact.setdefault(method.encode(), {}), path, (handler, app))

    def mount_websocket(self, path: str, route: WebSocketRoute) -> None:
        """``route`` takes WebSockets on ``path`` and everything below it."""
        self.mount_websocket_exact(path, route)
        self.mount_websocket_below(path, route)

    def mount_websocket_below(self, path: str, route: WebSocketRoute) -> None:
        """``route`` takes WebSockets below ``path``; on ``path`` itself is another."""
        _claim(self._socket_prefixes, path, route)

    def mount_websocket_exact(self, path: str, route: WebSocketRoute) -> None:
        _claim(self._sockets, path, route)

    def mount_websocket_fallback(self, route: WebSocketRoute) -> None:
        """``route`` takes WebSockets on every path that nothing claims."""
        self._socket_fallback = route

    def app(self, path: str) -> App | None:
        return self._exact.get(path) or _longest(self._prefixes, path)

    def has_own_credentials(self, scope: Any) -> bool:
        """Whether a request is for what the hub's user mounted. See `Guard`."""
        if not self._applications or "path" not in scope:  # none: a direct request, which is the hub's own
            return False
        path = route_path(scope)
        if scope["type"] == "websocket":
            return self.websocket_application(path) is not None
        return self._find(path) in self._applications.values()

    @property
    def has_websocket_applications(self) -> bool:
        return bool(self._websocket_applications)

    def websocket_application(self, path: str) -> App | None:
        """What the hub's user mounted that takes the WebSockets on ``path``; None: see `websocket`."""
        applications = self._websocket_applications
        if not applications:
            return None
        found = applications.get(path) if path != "/" else None
        found = found or _longest(applications, path)
        if found is None and (path == "/" or not (self._is_websocket(path) or self.app(path))):
            found = applications.get("/")
        return found

    def has_direct(self, method: bytes) -> bool:
        return method in self._direct or method in self._direct_exact

    def direct(self, method: bytes, target: bytes) -> DirectHandler | None:
        """The handler to offer a request to. None where the app beside it would not be the one that is asked."""
        plain = _PLAIN_TARGET.fullmatch(target) if self.has_direct(method) else None
        if plain is None or b"api_key=" in target:  # which the guard may have to read
            return None
        path = plain[1].decode("ascii")
        found = self._direct_exact.get(method, {}).get(path) or _longest(self._direct.get(method, {}), path)
        return found[0] if found is not None and self.app(path) is found[1] else None

    def websocket(self, path: str) -> WebSocketRoute:
        """Raises `NotFound` where WebSockets are not taken."""
        route = self._sockets.get(path) or _longest(self._socket_prefixes, path)
        if route is None and self.app(path) is None:
            route = self._socket_fallback
        if route is None:
            raise NotFound(f"no WebSocket on {path[:200]!r}", hint="topics are on /ws/TOPIC")
        return route

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """HTTP."""
        path = route_path(scope) if scope.get("root_path") else scope["path"]
        app = self._find(path)
        if app is not None:
            await app(scope, receive, send)
        else:
            await self._nobody(path, scope, send)

    def _find(self, path: str) -> App | None:
        app = self._exact.get(path) or _longest(self._prefixes, path)
        return app or (None if self._is_websocket(path) else self._fallback)

    def _is_websocket(self, path: str) -> bool:
        """Whether a WebSocket route claims ``path``."""
        return path in self._sockets or _longest(self._socket_prefixes, path) is not None

    async def _nobody(self, path: str, scope: Any, send: Send) -> None:
        error: PolywireError
        if self._is_websocket(path) and scope["http_version"] in ("1.0", "1.1"):  # later ones know no upgrade
            error = NotFound(f"{path[:200]!r} takes WebSockets only", hint="connect with a WebSocket client")
            await send_problem(send, error, status=426, extra=[(b"upgrade", b"websocket"), (b"connection", b"upgrade")])
            return
        await send_problem(send, NotFound(f"nothing on {path[:200]!r}", hint="GET / lists what is served"))


def _claim(table: dict[str, T], path: str, value: T) -> None:
    if not path.startswith("/") or (path.endswith("/") and path != "/"):
        raise ValueError(f"a mount path starts with / and does not end with it: {path!r}")
    if path.count("/") > _DEEPEST_MOUNT:
        raise ValueError(f"a mount path has at most {_DEEPEST_MOUNT} segments: {path!r}")
    if path in table:
        raise ValueError(f"the path {path!r} is taken")
    table[path] = value


def _longest(table: dict[str, T], path: str) -> T | None:
    """The value of the longest prefix of whole segments that is in ``table``."""
    found, end = None, 0
    # No mount is deeper than this; a hostile path has as many segments as it likes.
    for _ in range(_DEEPEST_MOUNT if table else 0):
        end = path.find("/", end + 1)
        if end < 0:
            break
        found = table.get(path[:end], found)
    return found
