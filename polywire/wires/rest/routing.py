"""Which handler a method and a path mean. The routes are data (`routes.py`); this finds one in a few dictionary
look-ups."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from polywire.core.errors import NotFound
from polywire.wires.rest.binding import MethodNotAllowed, Response

if TYPE_CHECKING:
    from polywire.wires.rest.app import RestApp
    from polywire.wires.rest.request import Request

__all__ = ["Handler", "Route", "RouteTable"]

Handler = Callable[["RestApp", "Request"], Awaitable[Response | None]]
"""Answers a request; None if it has sent the answer itself."""


_CACHED_PATHS = 1_024
_CACHED_LENGTH = 256


class Route(NamedTuple):
    """``path`` is literal but for ``{name}``: one segment, handed to the handler in order. ``query`` names what may
    be asked there; None leaves the query to the handler."""

    method: str
    path: str
    handler: Handler
    query: tuple[str, ...] | None = ()


class _Node:
    __slots__ = ("any", "literal", "routes")

    def __init__(self) -> None:
        self.literal: dict[bytes, _Node] = {}
        self.any: _Node | None = None
        self.routes: dict[str, Route] = {}


class RouteTable:
    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        self._found: dict[tuple[str, bytes], tuple[Route, list[bytes]]] = {}
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.path.encode().split(b"/")[1:]:
            if segment.startswith(b"{"):
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.literal.setdefault(segment, _Node())
        if route.method in node.routes:
            raise ValueError(f"two routes for {route.method} {route.path}")
        node.routes[route.method] = route
        if route.method == "GET":
            node.routes.setdefault("HEAD", route)

    def find(self, method: str, path: bytes) -> tuple[Route, list[bytes]]:
        """The route and its parameters, still percent-encoded. Raises `NotFound`, `MethodNotAllowed`."""
        found = self._found.get((method, path))
        if found is None:
            node, params = self._walk(path)
            route = node.routes.get(method)
            if route is None:
                raise MethodNotAllowed(f"{method[:32]!r} is not for this path", _allowed(node))
            found = route, params
            if len(path) <= _CACHED_LENGTH:
                if len(self._found) >= _CACHED_PATHS:
                    self._found.clear()
                self._found[method, path] = found
        return found

    def allowed(self, path: bytes) -> str:
        """The methods of a path, as in the Allow header. Raises `NotFound`."""
        return _allowed(self._walk(path)[0])

    def _walk(self, path: bytes) -> tuple[_Node, list[bytes]]:
        node = self._root
        params: list[bytes] = []
        for segment in path.split(b"/")[1:]:
            known = node.literal.get(segment)
            if known is None:
                known = node.any
                if known is None or not segment:
                    raise _unknown(path)
                params.append(segment)
            node = known
        if not node.routes:
            raise _unknown(path)
        return node, params


def _allowed(node: _Node) -> str:
    return ", ".join(sorted({*node.routes, "OPTIONS"}))


def _unknown(path: bytes) -> NotFound:
    shown = path[:200].decode("utf-8", "replace")
    hint = "without the / at its end?" if path.endswith(b"/") else "GET / lists what is here"
    return NotFound(f"there is nothing at {shown!r}", hint=hint)
