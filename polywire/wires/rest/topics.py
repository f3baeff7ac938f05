"""Topics over REST: publish, read, latest, delayed, settings."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from polywire.core.errors import FieldError, Invalid, NotFound
from polywire.core.message import Flag, Message, Receipt, Record
from polywire.core.position import Cursor, Position
from polywire.core.streams import parse_start
from polywire.core.topics import TopicSettings
from polywire.formats import cloudevents
from polywire.server.envelope import format_time, message_view
from polywire.server.views import topic_view
from polywire.wires.rest import schemas
from polywire.wires.rest.accept import accepts
from polywire.wires.rest.binding import (
    ContentType,
    Publication,
    Response,
    content_type_of,
    json_response,
    ndjson_payloads,
    publication,
    raw_response,
    receipt_view,
    require_json,
)
from polywire.wires.rest.publishing import is_special, read_special
from polywire.wires.rest.request import Request, origin, while_client_waits

if TYPE_CHECKING:
    from polywire.wires.rest.app import RestApp

__all__ = [
    "cancel_delayed",
    "create",
    "delayed",
    "delete",
    "events",
    "info",
    "latest",
    "latest_all",
    "list_all",
    "message",
    "publish",
    "read",
    "settle_key",
]

_DUE_AND_ID = re.compile(rb"([0-9]{1,18}) ([!-~]{1,100})")

# --- publish ---------------------------------------------------------------------------------------------------------


async def publish(app: RestApp, request: Request) -> Response:
    """The hot path: what most requests do not have is looked for once and not handled."""
    core = app.core
    kind = content_type_of(request.headers.get(b"content-type"))
    said = publication(request.scope["headers"])
    key = request.query.bytes("key")
    if kind.lines:
        return await _publish_lines(app, request, said, key)
    if is_special(kind, request.scope["headers"]):
        return await _publish_special(app, request, kind, said, key)
    payload = await request.body(core.limits.message_size, app.settings.body_timeout)
    if kind.json:
        require_json(payload)
    by = origin(request)
    due: int | None = None
    if said is None:
        record = Record(payload, key, content_type=kind.text, origin=by)
    else:
        settle_key(said, key)
        now = core.clock.now()
        record = said.records([payload], kind.text, now, by)[0]
        due = None if said.delay is None else now + said.delay
    receipts = await core.publish(request.principal, request.text(0), [record], due=due)
    app.counters.received += 1
    return json_response(_status(receipts), receipt_view(receipts[0]))


def settle_key(said: Publication, key: bytes | None) -> None:
    """``key`` is that of the query. Raises `Invalid` if the headers say another one."""
    if key is None:
        return
    if said.key is not None and said.key != key:
        wrong = "Polywire-Key and ?key= say different keys"
        raise Invalid(wrong, fields=[FieldError("query.key", wrong), FieldError("header.polywire-key", wrong)])
    said.key = key


async def _publish_special(
    app: RestApp, request: Request, kind: ContentType, said: Publication | None, key: bytes | None
) -> Response:
    app.core.require_publisher(request.principal, request.text(0))
    said = said or Publication()
    settle_key(said, key)
    records, batch = await read_special(app, request, kind, said)
    return await _store(app, request, said, records, batch=batch)


async def _store(app: RestApp, request: Request, said: Publication, records: list[Record], *, batch: bool) -> Response:
    due = None if said.delay is None else app.core.clock.now() + said.delay
    receipts = await app.core.publish(request.principal, request.text(0), records, due=due)
    app.counters.received += len(receipts)
    shown = [receipt_view(receipt) for receipt in receipts]
    return json_response(_status(receipts), {"count": len(receipts), "receipts": shown} if batch else shown[0])


async def _publish_lines(app: RestApp, request: Request, said: Publication | None, key: bytes | None) -> Response:
    app.core.require_publisher(request.principal, request.text(0))
    limits = app.core.limits
    said = said or Publication()
    if said.id and not said.flags & Flag.DEDUP:
        raise Invalid(
            "header polywire-id: one id cannot be that of several messages", hint="Idempotency-Key covers a batch"
        )
    settle_key(said, key)
    body = await request.body(limits.batch_size, app.settings.body_timeout)
    payloads = await _split(body, limits.batch_messages)
    records = said.records(payloads, "application/json", app.core.clock.now(), origin(request))
    return await _store(app, request, said, records, batch=True)


def _status(receipts: Sequence[Receipt]) -> int:
    """202 if some wait for their time: of a duplicate, that is what its original does."""
    return 202 if any(receipt.position is None for receipt in receipts) else 201


LONG_BATCH = 256 << 10
"""Bytes above which a batch is checked in a thread, so that it does not hold up the others."""


async def _split(body: bytes, most: int) -> list[bytes]:
    return (
        await asyncio.to_thread(ndjson_payloads, body, most) if len(body) > LONG_BATCH else ndjson_payloads(body, most)
    )


# --- read ------------------------------------------------------------------------------------------------------------


async def read(app: RestApp, request: Request) -> Response:
    query = request.query
    start = parse_start(query.text("from") or "earliest")
    limit = query.integer("limit", 100, least=1, most=app.settings.page)
    wait = query.duration("wait", 0, most=app.settings.longest_wait)
    reading = app.core.read(
        request.principal,
        request.text(0),
        start,
        limit=limit,
        size=app.settings.page_size,
        wait=wait,
        key=query.text("key"),
    )
    page = await (while_client_waits(request, reading) if wait else reading)
    app.counters.delivered += len(page.messages)
    if accepts(request.headers.get(b"accept"), cloudevents.BATCH):
        return _events(page.messages, str(page.next))
    return json_response(
        200, {"messages": [message_view(message) for message in page.messages], "next": str(page.next)}
    )


def _events(messages: Sequence[Message], next: str) -> Response:
    """CloudEvents. Where the next page begins has no place in a batch of them: it is a header."""
    headers = [
        (b"content-type", cloudevents.BATCH.encode()),
        (b"polywire-next", next.encode()),
        (b"vary", b"accept"),
    ]
    return Response(200, cloudevents.write_batch(messages), headers)


async def message(app: RestApp, request: Request) -> Response:
    found = await app.core.message(request.principal, request.text(0), Position.parse(request.text(1)))
    return _one(app, request, found)


async def latest(app: RestApp, request: Request) -> Response:
    return _one(app, request, await app.core.latest(request.principal, request.text(0), request.raw(1)))


def _one(app: RestApp, request: Request, found: Message) -> Response:
    app.counters.delivered += 1
    if accepts(request.headers.get(b"accept"), cloudevents.STRUCTURED):
        headers = [(b"content-type", cloudevents.STRUCTURED.encode()), (b"vary", b"accept")]
        return Response(200, cloudevents.write_structured(found), headers)
    raw = request.query.flag("raw") or not _takes_json(request.headers.get(b"accept"))
    return raw_response(found) if raw else json_response(200, message_view(found))


def _takes_json(accept: bytes | None) -> bool:
    return accept is None or any(kind in accept for kind in (b"json", b"*/*", b"application/*"))


async def latest_all(app: RestApp, request: Request) -> Response:
    """By key. ``next`` is handed back as ``after``; null when there is no more."""
    limit = request.query.integer("limit", 100, least=1, most=app.settings.page)
    found, more = await app.core.latest_all(
        request.principal,
        request.text(0),
        after=_opened(request.query.text("after"), _KEY),
        limit=limit,
        size=app.settings.page_size,
    )
    app.counters.delivered += len(found)
    return json_response(200, {"messages": [message_view(one) for one in found], "next": _closed(more, _KEY)})


_KEY = "k"  # what such a text goes on behind: a stored key,
_DUE = "d"  # or a due time and an id


def _closed(after: bytes | None, kind: str) -> str | None:
    """An opaque text: never empty, though the stored key of a message without a key is."""
    return None if after is None else kind + base64.urlsafe_b64encode(after).decode().rstrip("=")


def _opened(text: str | None, kind: str) -> bytes | None:
    if text is None:
        return None
    try:
        if text.startswith(kind):
            return base64.b64decode(text[1:] + "=" * (-len(text[1:]) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        pass
    raise _unknown_page()


def _unknown_page() -> Invalid:
    return Invalid("query parameter 'after': not what `next` said", fields=[FieldError("query.after", "unknown")])


async def events(app: RestApp, request: Request) -> Response | None:
    """Server-sent events are a wire of their own, which the hub put here."""
    if app.events is None:
        raise NotFound("this hub does not serve server-sent events")
    if request.method == "HEAD":
        app.core.topic_info(request.principal, request.text(0))
        return Response(200, b"", [(b"content-type", b"text/event-stream")])
    await app.events(request.scope, request.receive, request.send, request.principal, request.text(0))
    return None


# --- delayed ---------------------------------------------------------------------------------------------------------


async def delayed(app: RestApp, request: Request) -> Response:
    """Soonest first. ``next`` is handed back as ``after``; null when there is no more."""
    limit = request.query.integer("limit", 100, least=1, most=app.settings.page)
    found, more = await app.core.delayed(
        request.principal,
        request.text(0),
        after=_opened_due(request.query.text("after")),
        limit=limit,
        size=app.settings.page_size,
    )
    shown = [_delayed_view(one.id, one.due, one.record) for one in found]
    return json_response(
        200, {"delayed": shown, "next": _closed(more and b"%d %b" % (more[0], more[1].encode()), _DUE)}
    )


def _opened_due(text: str | None) -> tuple[int, str] | None:
    opened = _opened(text, _DUE)
    if opened is None:
        return None
    match = _DUE_AND_ID.fullmatch(opened)
    if match is None:
        raise _unknown_page()
    return int(match[1]), match[2].decode()


def _delayed_view(id: str, due: int, record: Record | None) -> dict[str, Any]:
    key = record.key if record else None
    shown: dict[str, Any] = {
        "id": id,
        "due": format_time(due),
        "key": None if key is None else key.decode("utf-8", "replace"),
    }
    if record:
        shown["content_type"] = record.content_type
        shown["size"] = len(record.payload)
    return shown


async def cancel_delayed(app: RestApp, request: Request) -> Response:
    await app.core.cancel_delayed(request.principal, request.text(0), request.text(1))
    return app.empty


# --- readers that keep their cursor here -----------------------------------------------------------------------------


async def cursor(app: RestApp, request: Request) -> Response:
    found = app.core.cursors.get(request.principal, request.text(0), request.text(1))
    return json_response(200, {"cursor": str(found)})


async def commit_cursor(app: RestApp, request: Request) -> Response:
    body = await request.body(app.settings.control_size, app.settings.body_timeout)
    asked = Cursor.parse(schemas.decode(body, schemas.CursorBody).cursor)
    await app.core.cursors.commit(request.principal, request.text(0), request.text(1), asked)
    return json_response(200, {"cursor": str(asked)})


async def forget_cursor(app: RestApp, request: Request) -> Response:
    await app.core.cursors.forget(request.principal, request.text(0), request.text(1))
    return app.empty


# --- settings --------------------------------------------------------------------------------------------------------


async def list_all(app: RestApp, request: Request) -> Response:
    return json_response(200, {"topics": [topic_view(info) for info in app.core.topics(request.principal)]})


async def info(app: RestApp, request: Request) -> Response:
    return json_response(200, topic_view(app.core.topic_info(request.principal, request.text(0))))


async def create(app: RestApp, request: Request) -> Response:
    """201 for a new topic, 200 for one that stands like that already."""
    name = request.text(0)
    asked = schemas.decode(await request.body(app.settings.control_size, app.settings.body_timeout), schemas.TopicBody)
    given = {field: value for field, value in msgspec.structs.asdict(asked).items() if value is not UNSET}
    if given.get("retention") is not None:
        given["retention"] = schemas.duration(given["retention"], "$.retention")
    existed = any(info.name == name for info in app.core.topics(app.core.access.system))
    made = await app.core.create_topic(request.principal, TopicSettings(name, **given))
    return json_response(200 if existed else 201, topic_view(made))


async def delete(app: RestApp, request: Request) -> Response:
    await app.core.delete_topic(request.principal, request.text(0))
    return app.empty
