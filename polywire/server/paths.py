"""Where in the hub a request goes, wherever the hub is mounted.

ASGI says that ``path`` begins with ``root_path``, the path the application is mounted on. Older servers and frameworks
take it off ``path`` and leave it in ``raw_path``; both are read here. ``raw_path`` is as it came over the network,
percent-encoded, and a server need not give it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

__all__ = ["link", "raw_route_path", "route_path"]

_SAFE = "/~!$&'()*+,;=:@-._"
"""What stands in a path as it is (RFC 3986 §3.3)."""


def route_path(scope: Any) -> str:
    """The path below the mount, decoded; at least ``/``."""
    path: str = scope["path"]
    root = _root(scope)
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        path = path[len(root) :]
    return path or "/"


def raw_route_path(scope: Any) -> bytes:
    """The path below the mount, percent-encoded: an encoded slash stays inside its segment."""
    raw: bytes | None = scope.get("raw_path")
    root = _root(scope)
    if raw and not root:
        return raw
    path = route_path(scope)
    found = _below(raw.partition(b"?")[0], path, root.count("/")) if raw else None
    return quote(path, safe=_SAFE).encode() if found is None else found


def _below(raw: bytes, path: str, depth: int) -> bytes | None:
    """What of ``raw`` stands for ``path``: it begins at one of the first slashes, no deeper than the mount."""
    at = 0
    for _ in range(depth + 1):
        if unquote(raw[at:].decode("latin-1")) == path:
            return raw[at:]
        at = raw.find(b"/", at + 1)
        if at < 0:
            break
    return None


def link(scope: Any, path: str) -> str:
    """``path`` of the hub as a client must write it; ``path`` is percent-encoded already."""
    return quote(_root(scope), safe=_SAFE) + path


def _root(scope: Any) -> str:
    return str(scope.get("root_path") or "").rstrip("/")
