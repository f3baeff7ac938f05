"""Which handler a method and a path mean. The routes are data (`routes.py`, and the operations' own paths); this finds
one in a few dictionary look-ups."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

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
    """Of several paths that fit, the one that is literal for longer is meant, if it has the method."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        self._found: dict[tuple[str, bytes], tuple[Route, list[bytes]]] = {}
        for route in routes:
            self.add(route)

    def add(self, route: Route, *, replace: bool = False) -> None:
        """Raises `ValueError` if there is one of the same method and path, unless it is to be replaced."""
        node = self._root
        for segment in route.path.encode().split(b"/")[1:]:
            if segment.startswith(b"{"):
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.literal.setdefault(segment, _Node())
        if route.method in node.routes and not replace:
            raise ValueError(f"two routes for {route.method} {route.path}")
        node.routes[route.method] = route
        if route.method == "GET":
            node.routes["HEAD"] = route

    def find(self, method: str, path: bytes) -> tuple[Route, list[bytes]]:
        """The route and its parameters, still percent-encoded. Raises `NotFound`, `MethodNotAllowed`."""
        found = self._found.get((method, path))
        if found is None:
            found = self._look(method, path)
            if len(path) <= _CACHED_LENGTH:
                if len(self._found) >= _CACHED_PATHS:
                    self._found.clear()
                self._found[method, path] = found
        return found

    def _look(self, method: str, path: bytes) -> tuple[Route, list[bytes]]:
        for node, params in self._fitting(path):
            route = node.routes.get(method)
            if route is not None:
                return route, params
        allowed = self.allowed(path)
        raise MethodNotAllowed(f"{method[:32]!r} is not for this path", allowed)

    def allowed(self, path: bytes) -> str:
        """The methods of a path, as in the Allow header. Raises `NotFound`."""
        methods = {method for node, _ in self._fitting(path) for method in node.routes}
        if not methods:
            raise _unknown(path)
        return ", ".join(sorted({*methods, "OPTIONS"}))

    def _fitting(self, path: bytes) -> Iterator[tuple[_Node, list[bytes]]]:
        segments = path.split(b"/")[1:]
        literals = [unquote_to_bytes(one) for one in segments] if b"%" in path else segments
        return _walk(self._root, segments, literals, 0)


def _walk(node: _Node, segments: list[bytes], literals: list[bytes], at: int) -> Iterator[tuple[_Node, list[bytes]]]:
    """As deep as the routes are, whatever the path; literal segments first at each step."""
    if at == len(segments):
        if node.routes:
            yield node, []
        return
    known = node.literal.get(literals[at])
    if known is not None:
        yield from _walk(known, segments, literals, at + 1)
    if node.any is not None and segments[at]:
        for found, params in _walk(node.any, segments, literals, at + 1):
            yield found, [segments[at], *params]


def _unknown(path: bytes) -> NotFound:
    shown = path[:200].decode("utf-8", "replace")
    hint = "without the / at its end?" if path.endswith(b"/") else "GET / lists what is here"
    return NotFound(f"there is nothing at {shown!r}", hint=hint)
