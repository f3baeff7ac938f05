"""Everything that is mounted on a router as one ASGI 3 application, HTTP and WebSockets, for a server that is not ours.

The listener's protocol classes do more than such a server lets an application do: they bound slow heads and bodies and
the number of connections. What is left is here: who may come in (`Guard`, and `require_local` for a hub that is open to
all), the size of a body, and the hub's WebSocket routes over ASGI's events.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from polywire.core.access import Access
from polywire.core.errors import Denied, PolywireError, TooLarge
from polywire.server.asgi_websocket import AsgiWebSocket
from polywire.server.connections import Connections
from polywire.server.guard import Guard
from polywire.server.paths import route_path
from polywire.server.problems import send_problem
from polywire.server.refusals import refuse
from polywire.server.router import App, Receive, Router, Send
from polywire.server.settings import HttpSettings

__all__ = ["AsgiApp", "is_loopback", "require_local"]

_FORWARDED: Final = frozenset((b"forwarded", b"x-forwarded-for", b"x-real-ip"))


class AsgiApp:
    """Life: construct → serve → `shutdown`.

    ``only_local``: while no API key exists, only this machine is served.
    """

    def __init__(
        self, settings: HttpSettings, access: Access, router: Router, connections: Connections, *, only_local: bool
    ) -> None:
        self._settings = settings
        self._access = access
        self._router = router
        self._connections = connections
        self._only_local = only_local
        self._guard = Guard(settings, access, router, router.has_own_credentials)
        self._sockets: set[AsgiWebSocket] = set()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        scope = {"http_version": "1.1", **scope}  # a copy: the server's own is not written to
        try:
            if self._only_local and self._access.open:
                require_local(scope)
            if scope["type"] == "websocket":
                self._guard.admit(scope)
        except PolywireError as error:
            await refuse(scope, receive, send, error)
            return
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Any, receive: Receive, send: Send) -> None:
        exchange = _Exchange(receive, send, self._settings.max_body_size)
        try:
            await self._guard(scope, exchange.receive, exchange.send)
        except Exception:
            if not exchange.too_large:
                raise
        await exchange.end()

    async def _websocket(self, scope: Any, receive: Receive, send: Send) -> None:
        path = route_path(scope)
        application = self._router.websocket_application(path)
        if application is not None:
            await self._mounted(application, scope, receive, send)
            return
        try:
            route = self._router.websocket(path)
        except PolywireError as error:
            await refuse(scope, receive, send, error)
            return
        socket = AsgiWebSocket(self._settings.websocket, receive, send)
        self._sockets.add(socket)
        try:
            await socket.serve(route, scope)
        finally:
            self._sockets.discard(socket)

    async def _mounted(self, application: App, scope: Any, receive: Receive, send: Send) -> None:
        try:
            release = self._connections.open(scope["principal"])
        except PolywireError as error:
            await refuse(scope, receive, send, error)
            return
        try:
            await application(scope, receive, send)
        finally:
            release()

    def shutdown(self) -> None:
        """Tell the open WebSockets of the hub to go."""
        for socket in list(self._sockets):
            socket.close(1001, "the hub is shutting down")


class _Exchange:
    """One request and its answer. To an application that reads past the longest body `TooLarge` is raised. One that is
    not the hub's own knows nothing of this error; so whatever it makes of it, the answer is what it is."""

    def __init__(self, receive: Receive, send: Send, longest: int) -> None:
        self._receive = receive
        self._send = send
        self._longest = longest
        self._size = 0
        self._begun = False
        self.too_large: TooLarge | None = None

    async def receive(self) -> Any:
        event = await self._receive()
        self._size += len(event.get("body", b""))
        if self._size > self._longest and self.too_large is None and not self._begun:
            self.too_large = TooLarge(f"a request body has at most {self._longest} bytes", hint="send less at once")
        if self._size > self._longest:
            raise self.too_large or TooLarge("the request body is too long")
        return event

    async def send(self, message: Any) -> None:
        if self.too_large is None:
            self._begun = True
            await self._send(message)

    async def end(self) -> None:
        """After the application."""
        if self.too_large is not None:
            await send_problem(self._send, self.too_large)


def require_local(scope: Any) -> None:
    """Raises `Denied` for a request that does not come from this machine, as far as the server knows.

    A proxy on this machine makes every client local; it is noticed where it says for whom it asks.
    """
    client, server = scope.get("client"), scope.get("server")
    here = client is not None and is_loopback(client[0]) and (server is None or is_loopback(server[0]))
    if here and not any(name in _FORWARDED for name, _ in scope["headers"]):
        return
    raise Denied(
        "this hub has no API keys and answers this machine only",
        hint="make a key (polywire api-keys create NAME --allow '*:#' --data DIR), or say hub.asgi(open=True)",
    )


def is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
