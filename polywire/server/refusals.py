"""Refusing a request or a WebSocket over ASGI, before anything has begun."""

from __future__ import annotations

from typing import Any

from polywire.core.errors import PolywireError
from polywire.server.problems import problem, send_problem
from polywire.server.router import Receive, Send

__all__ = ["refuse"]

_POLICY = 1008
"""RFC 6455 §7.4.1. Nobody sees it: a close before the handshake is answered with status 403."""


async def refuse(scope: Any, receive: Receive, send: Send, error: PolywireError) -> None:
    """With the error's status and problem+json. A WebSocket too, where the server can send it a response (ASGI's
    "WebSocket Denial Response"); else with a close, which servers tell as 403."""
    if scope["type"] != "websocket":
        await send_problem(send, error)
        return
    if (await receive())["type"] != "websocket.connect":
        return
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": _POLICY, "reason": ""})
        return
    status, headers, body = problem(error)
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
