"""Files of a folder over HTTP: Starlette's `StaticFiles`, with the hub's answers where there is no file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from polywire.core.errors import NotFound, PolywireError, Unsupported
from polywire.server.problems import Header, send_problem
from polywire.server.router import Receive, Send

__all__ = ["Folder"]


class Folder:
    """``index.html`` stands for its folder, ``404.html`` for what is not there. ETag, ``If-None-Match``, ``Range`` and
    HEAD are understood; links that lead out of the folder are not followed. Names that begin with a dot (``.env``,
    ``.git``) are not there, but for ``.well-known`` (RFC 8615)."""

    def __init__(self, folder: Path) -> None:
        self._files = StaticFiles(directory=folder, html=True)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if any(_is_hidden(name) for name in scope["path"].split("/")):
            await send_problem(send, NotFound("there is no such file"))
            return
        try:
            await self._files(scope, receive, send)
        except HTTPException as refused:
            error: PolywireError = NotFound("there is no such file")
            extra: list[Header] = []
            if refused.status_code == 405:
                error = Unsupported(f"{scope['method'][:32]!r} is not for files")
                extra = [(b"allow", b"GET, HEAD")]
            await send_problem(send, error, status=405 if extra else 404, extra=extra)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and name not in (".", "..", ".well-known")
