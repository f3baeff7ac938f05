"""What an application mounts on its hub: ASGI applications and folders of files, declared before the start."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["RESERVED", "Application", "Mount", "Mounts"]

Application = Callable[[Any, Any, Any], Awaitable[None]]
"""ASGI 3: ``async def app(scope, receive, send)``; what FastAPI, Starlette, Django and others make."""

RESERVED: Final = (
    "/api-keys",
    "/backup",
    "/docs",
    "/health",
    "/jobs",
    "/metrics",
    "/openapi.json",
    "/operations",
    "/ready",
    "/schemas",
    "/subscriptions",
    "/topics",
    "/ws",
)
"""The hub's own paths, with what is below them."""

_DEEPEST: Final = 8
_SEGMENT: Final = r"(?!\.\.?(?:/|$))[A-Za-z0-9._~!$&'()*+,;=:@-]+"
_PATH: Final = re.compile(rf"/|(?:/{_SEGMENT}){{1,{_DEEPEST}}}")


class Mount(NamedTuple):
    path: str
    app: Application | Path
    """A folder if it is a `Path`; it existed when it was declared."""


class Mounts:
    """In the order of their declaration."""

    def __init__(self) -> None:
        self._mounts: dict[str, Mount] = {}

    def __iter__(self) -> Iterator[Mount]:
        return iter(self._mounts.values())

    def add(self, path: str, app: Application | str | Path) -> None:
        """Raises `ValueError` for a path that is no path, is the hub's own or is mounted already, and for a folder that
        is not there; `TypeError` for what is neither a folder nor an ASGI application."""
        if not _PATH.fullmatch(path):
            raise ValueError(
                f"hub.mount({path!r}): a path is / or begins with / and does not end with it, has at most {_DEEPEST} "
                f"segments and nothing percent-encoded"
            )
        for own in RESERVED:
            if path == own or path.startswith(f"{own}/"):
                raise ValueError(f"hub.mount({path!r}): {own} is the hub's own")
        if path in self._mounts:
            raise ValueError(f"hub.mount({path!r}): something is mounted there already")
        self._mounts[path] = Mount(path, _checked(path, app))


def _checked(path: str, app: Application | str | Path) -> Application | Path:
    if isinstance(app, (str, Path)):
        folder = Path(app).absolute()
        if not folder.is_dir():
            raise ValueError(f"hub.mount({path!r}): there is no folder {folder}")
        return folder
    if isinstance(app, type) or not callable(app):
        raise TypeError(f"hub.mount({path!r}): neither a folder nor an ASGI application: {app!r}")
    try:
        inspect.signature(app).bind(None, None, None)
    except TypeError:
        hint = "; for WSGI (Flask, Django's wsgi.py) wrap it with a2wsgi.WSGIMiddleware"
        raise TypeError(f"hub.mount({path!r}): not an ASGI application (scope, receive, send): {app!r}{hint}") from None
    except ValueError:
        pass  # some callables tell no signature
    return app
