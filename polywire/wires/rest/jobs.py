"""Jobs over REST: calls that were asked for with ``Prefer: respond-async``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polywire.core.job import JobEvent, JobInfo
from polywire.server.envelope import encode
from polywire.server.job_views import event_view, job_view
from polywire.server.paths import link
from polywire.wires.rest import accept
from polywire.wires.rest.binding import JSON_HEADERS, Response, json_response
from polywire.wires.rest.request import Request, while_client_waits
from polywire.wires.rest.streaming import EVENTS, LINES, Form, stream, stream_headers

if TYPE_CHECKING:
    from polywire.wires.rest.app import RestApp

__all__ = ["accepted", "cancel", "events", "info"]


def accepted(request: Request, job: JobInfo) -> Response:
    """202, with where the job is looked at (RFC 7240 §4.1)."""
    headers = [
        *JSON_HEADERS,
        (b"location", link(request.scope, f"/jobs/{job.id}").encode()),
        (b"preference-applied", b"respond-async"),
    ]
    return Response(202, encode(job_view(job)), headers)


async def info(app: RestApp, request: Request) -> Response:
    """How it stands, at once or when it has ended."""
    wait = request.query.duration("wait", 0, most=app.settings.longest_wait)
    asking = app.core.jobs.info(request.principal, request.text(0), wait=wait)
    return json_response(200, job_view(await (while_client_waits(request, asking) if wait else asking)))


async def cancel(app: RestApp, request: Request) -> Response:
    return json_response(200, job_view(await app.core.jobs.cancel(request.principal, request.text(0))))


async def events(app: RestApp, request: Request) -> Response | None:
    """What happens to it, to its end. An EventSource that comes again and has seen the end gets 204: it stays away."""
    media_type = accept.require(request.headers.get(b"accept"), (EVENTS, LINES))
    if request.method == "HEAD":
        await app.core.jobs.info(request.principal, request.text(0))
        return Response(200, b"", stream_headers(media_type))
    seen = request.headers.get(b"last-event-id", b"").decode("latin-1") or request.query.text("after") or None
    following = app.core.jobs.follow(request.principal, request.text(0), after=seen)
    form = Form(media_type, _event if media_type == EVENTS else _line)
    return await stream(app, request, following, form, empty=app.empty)


def _line(event: JobEvent) -> bytes:
    return encode({"cursor": event.cursor, **event_view(event)}) + b"\n"


def _event(event: JobEvent) -> bytes:
    shown = encode(event_view(event))
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event.cursor.encode(), event.type.encode(), shown)
