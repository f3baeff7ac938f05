"""The hub itself over REST: index, health, metrics, API keys, backup."""

from __future__ import annotations

import asyncio
import html
from typing import TYPE_CHECKING, Any

import msgspec

from polywire.core.access import Action, ApiKeyInfo
from polywire.core.errors import Unavailable
from polywire.server.envelope import format_time
from polywire.server.paths import link
from polywire.wires.rest import metrics, schemas
from polywire.wires.rest.binding import Response, json_response
from polywire.wires.rest.request import Request

if TYPE_CHECKING:
    from polywire.wires.rest.app import RestApp

__all__ = ["backup", "create_key", "health", "index", "keys", "metrics_text", "ready", "revoke_key"]


async def index(app: RestApp, request: Request) -> Response:
    links = {title: link(request.scope, path) for title, path in app.links.items()}
    if b"text/html" in request.headers.get(b"accept", b""):
        return Response(200, _page(app, links).encode(), [(b"content-type", b"text/html; charset=utf-8")])
    return json_response(200, {"hub": app.name, "version": app.version, "phase": app.core.phase, "links": links})


def _page(app: RestApp, links: dict[str, str]) -> str:
    name = html.escape(app.name)
    items = "".join(f'<li><a href="{html.escape(path)}">{html.escape(title)}</a></li>' for title, path in links.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        f"<h1>{name}</h1><p>Polywire {html.escape(app.version)}</p><ul>{items}</ul></html>"
    )


async def health(app: RestApp, _request: Request) -> Response:
    """200 as long as the event loop answers."""
    return json_response(200, {"status": "ok", "phase": app.core.phase})


async def ready(app: RestApp, _request: Request) -> Response:
    if not app.core.ready:
        phase = "stopping" if app.core.phase == "running" else app.core.phase
        raise Unavailable(f"the hub is {phase}", retry_after=1)
    return json_response(200, {"status": "ready"})


async def metrics_text(app: RestApp, request: Request) -> Response:
    app.core.access.require(request.principal, Action.ADMIN, "#")
    figures = metrics.gather(app.core)
    # The figures are taken at one moment on the loop; ten thousand lines of text are made beside it.
    text = await asyncio.to_thread(metrics.render, figures)
    return Response(200, text, [(b"content-type", metrics.CONTENT_TYPE)])


async def keys(app: RestApp, request: Request) -> Response:
    return json_response(200, {"api_keys": [_key_view(info) for info in app.core.access.keys(request.principal)]})


async def create_key(app: RestApp, request: Request) -> Response:
    asked = schemas.decode(await request.body(app.settings.control_size, app.settings.body_timeout), schemas.KeyBody)
    info, secret = await app.core.access.create_key(request.principal, asked.name, asked.allow)
    made = json_response(201, {**_key_view(info), "key": secret})
    return made._replace(headers=[*made.headers, (b"cache-control", b"no-store")])


def _key_view(info: ApiKeyInfo) -> dict[str, Any]:
    return {**msgspec.structs.asdict(info), "created": format_time(info.created)}


async def revoke_key(app: RestApp, request: Request) -> Response:
    await app.core.access.revoke_key(request.principal, request.text(0))
    return app.empty


async def backup(app: RestApp, request: Request) -> Response:
    asked = schemas.decode(await request.body(app.settings.control_size, app.settings.body_timeout), schemas.BackupBody)
    return json_response(200, await app.core.backup(request.principal, asked.folder))
