"""The REST wire as a bare ASGI application: find the route, run the handler, send one answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Protocol

from polywire.core.access import Principal
from polywire.core.core import Core
from polywire.core.errors import Internal, PolywireError
from polywire.server.whole_response import WHOLE
from polywire.wires.rest.binding import JSON, JSON_HEADERS, Response, problem
from polywire.wires.rest.request import ClientLeft, Receive, Request, Scope, Send
from polywire.wires.rest.routes import ROUTES
from polywire.wires.rest.routing import Route, RouteTable
from polywire.wires.rest.settings import RestSettings

__all__ = ["EventStreams", "RestApp", "failure"]

log = logging.getLogger("polywire.rest")


class EventStreams(Protocol):
    """What answers ``/topics/{topic}/events``. It raises `PolywireError` only while it has sent nothing."""

    def __call__(
        self, scope: Scope, receive: Receive, send: Send, principal: Principal, topic: str
    ) -> Awaitable[None]: ...


class RestApp:
    """ASGI. Expects who is asking in ``scope["principal"]``, where the listener's guard has put it.

    ``links`` are shown on ``/``: title → path; other wires may add theirs.
    """

    def __init__(
        self,
        core: Core,
        *,
        settings: RestSettings | None = None,
        events: EventStreams | None = None,
        name: str = "polywire",
        version: str = "",
    ) -> None:
        self.core = core
        self.settings = settings or RestSettings()
        self.events = events
        self.name = name
        self.version = version
        self.counters = core.counters.wire("rest")
        self.empty = Response(204, b"", [])
        self.links = {
            "topics": "/topics",
            "subscriptions": "/subscriptions",
            "health": "/health",
            "ready": "/ready",
            "metrics": "/metrics",
        }
        self._routes = RouteTable(ROUTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(scope, receive, send)
        except ClientLeft:
            return
        except PolywireError as error:
            response = self.refusal(error)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            response = self.refusal(failure())
        if response is not None:
            answer = scope.get(WHOLE)
            if response.headers is not JSON_HEADERS or not answer or not answer(response.status, JSON, response.body):
                await _send(send, response, scope["method"])

    def refusal(self, error: PolywireError) -> Response:
        """The answer that tells ``error``, which is counted."""
        self.counters.errors += 1
        return problem(error)

    def route(self, method: str, path: bytes) -> tuple[Route, list[bytes]]:
        """See `RouteTable.find`."""
        return self._routes.find(method, path)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        method = scope["method"]
        path = _path(scope)
        if method == "OPTIONS":
            return Response(204, b"", [(b"allow", self._routes.allowed(path).encode())])
        route, params = self.route(method, path)
        return await route.handler(self, Request(scope, receive, send, params, route.query))


def failure() -> Internal:
    """What is told of a fault of the hub, which the log knows more about."""
    return Internal("the hub could not answer this request", hint="its log says why")


def _path(scope: Scope) -> bytes:
    """As it came, percent-encoded, so that an encoded slash stays inside its segment; without the mount it came
    through."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root.encode()) else path


async def _send(send: Send, response: Response, method: str) -> None:
    status, body, headers = response
    if status != 204:
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
