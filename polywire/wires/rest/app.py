"""The REST wire as a bare ASGI application: find the route, run the handler, send one answer."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

from polywire.contract.contract import Contract
from polywire.core.access import Principal
from polywire.core.core import Core
from polywire.core.errors import Internal, NotFound, PolywireError
from polywire.server.paths import link, raw_route_path
from polywire.server.whole_response import WHOLE
from polywire.wires.rest import own_paths
from polywire.wires.rest.binding import JSON, JSON_HEADERS, Headers, Response, problem
from polywire.wires.rest.documents import Documents
from polywire.wires.rest.operations import CALLABLE, Endpoints, OwnPath, own_routes
from polywire.wires.rest.request import ClientLeft, Receive, Request, Scope, Send
from polywire.wires.rest.routes import EXACT, OVERRIDABLE, PREFIXES, ROUTES
from polywire.wires.rest.routing import Route, RouteTable
from polywire.wires.rest.settings import RestSettings

if TYPE_CHECKING:
    from polywire.server.router import Router

__all__ = ["EventStreams", "RestApp", "failure"]

_OPERATION = re.compile(rb"/operations/([^/]+)")

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
        contract: Contract,
        *,
        settings: RestSettings | None = None,
        events: EventStreams | None = None,
        name: str = "polywire",
        version: str = "",
    ) -> None:
        self.core = core
        self.contract = contract
        self.settings = settings or RestSettings()
        self.events = events
        self.name = name
        self.version = version
        self.counters = core.counters.wire("rest")
        self.empty = Response(204, b"", [])
        self.links = {
            "docs": "/docs",
            "openapi": "/openapi.json",
            "schemas": "/schemas",
            "topics": "/topics",
            "subscriptions": "/subscriptions",
            "health": "/health",
            "ready": "/ready",
            "metrics": "/metrics",
        }
        own_paths.check(contract.operations)
        self.endpoints = Endpoints(contract)
        self.documents = Documents(contract, strict=core.catalog.strict, most=self.settings.documents)
        self._routes = RouteTable(ROUTES)
        for route in own_routes(contract):
            self._routes.add(route, replace=route.path in OVERRIDABLE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(scope, receive, send)
        except ClientLeft:
            return
        except PolywireError as error:
            response = self.refusal(error, scope["headers"])
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            response = self.refusal(failure(), scope["headers"])
        if response is not None:
            answer = scope.get(WHOLE)
            if response.headers is not JSON_HEADERS or not answer or not answer(response.status, JSON, response.body):
                await _send(send, response, scope["method"])

    def mount(self, router: Router) -> None:
        """On all paths that are this wire's. Raises `ValueError`, naming file and line, for an operation's path that is
        taken."""
        for path in PREFIXES:
            router.mount(path, self)
        for path in EXACT:
            router.mount_exact(path, self)
        own_paths.mount(self.contract.operations, self, router)

    def refusal(self, error: PolywireError, headers: Headers) -> Response:
        """The answer that tells ``error``, which is counted. ``headers`` are those of the request."""
        self.counters.errors += 1
        return problem(error, next((value for name, value in headers if name == b"accept"), None))

    def route(self, method: str, path: bytes) -> tuple[Route, list[bytes]]:
        """See `RouteTable.find`."""
        return self._routes.find(method, path)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        method = scope["method"]
        path = raw_route_path(scope)
        if method == "OPTIONS":
            return Response(204, b"", [(b"allow", self._allowed(path).encode())])
        try:
            route, params = self.route(method, path)
        except NotFound:
            response = self._redirect(scope, path)
            if response is None:
                raise
            return response
        return await route.handler(self, Request(scope, receive, send, params, route.query))

    def _allowed(self, path: bytes) -> str:
        """Of an operation by its name: GET only if it is safe."""
        name = _OPERATION.fullmatch(path)
        if name is not None and unquote(name[1].decode("latin-1")) not in self.endpoints.get:
            return CALLABLE
        return self._routes.allowed(path)

    def _redirect(self, scope: Scope, path: bytes) -> Response | None:
        """To an operation's own path, if that is this one but for the slash at its end."""
        other = path[:-1] if path.endswith(b"/") else path + b"/"
        try:
            route, _ = self._routes.find(scope["method"], other)
        except PolywireError:
            return None
        if not isinstance(route.handler, OwnPath):
            return None
        query = scope["query_string"]
        location = link(scope, other.decode("latin-1")).encode() + (b"?" + query if query else b"")
        return Response(307, b"", [(b"location", location)])


def failure() -> Internal:
    """What is told of a fault of the hub, which the log knows more about."""
    return Internal("the hub could not answer this request", hint="its log says why")


async def _send(send: Send, response: Response, method: str) -> None:
    status, body, headers = response
    if status not in (204, 304):
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
