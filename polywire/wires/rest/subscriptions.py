"""Subscriptions over REST: settings, pull and settle, what is pending, dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from polywire.core.dead_letters import dead_name
from polywire.core.durations import format_duration
from polywire.core.errors import FieldError, Invalid
from polywire.core.routing import Source
from polywire.core.streams import parse_start
from polywire.core.subscription import Backoff, Delivery, SubscriptionInfo, SubscriptionSettings
from polywire.core.subscriptions import Peeked
from polywire.server.envelope import format_time, message_view
from polywire.wires.rest import schemas
from polywire.wires.rest.binding import Response, json_response
from polywire.wires.rest.request import Request, while_client_waits

if TYPE_CHECKING:
    from polywire.wires.rest.app import RestApp

__all__ = [
    "ack",
    "create",
    "dead_letters",
    "delete",
    "delete_dead_letter",
    "extend",
    "info",
    "list_all",
    "messages",
    "move",
    "nack",
    "pause",
    "pull",
    "purge",
    "purge_dead_letters",
    "redrive",
    "reject",
    "remove",
    "reset",
    "resume",
]

_KINDS = ("queue", "group", "session", "share", "webhook")

# --- settings --------------------------------------------------------------------------------------------------------


async def list_all(app: RestApp, request: Request) -> Response:
    """Without a kind: all but sessions, of which there may be as many as there are clients."""
    kind = _kind(request) if request.query.text("kind") is not None else None
    found = app.core.subscriptions.list(request.principal, kind=kind)
    return json_response(200, {"subscriptions": [subscription_view(info) for info in found]})


async def info(app: RestApp, request: Request) -> Response:
    found = app.core.subscriptions.info(request.principal, request.text(0), _kind(request))
    return json_response(200, subscription_view(found))


def _kind(request: Request) -> str:
    """Names are separate for each kind."""
    kind = request.query.text("kind") or "queue"
    if kind not in _KINDS:
        raise Invalid(f"no kind of subscription: {kind[:32]!r}", hint=f"one of {', '.join(_KINDS)}")
    return kind


async def create(app: RestApp, request: Request) -> Response:
    """201 for a new subscription, 200 for joining one that stands like that already."""
    name = request.text(0)
    asked = schemas.decode(await _control(app, request), schemas.SubscriptionBody)
    known = app.core.subscriptions.find(name) is not None
    made = await app.core.subscriptions.create(request.principal, _settings(name, asked), parse_start(asked.start))
    return json_response(200 if known else 201, subscription_view(made))


def _settings(name: str, asked: schemas.SubscriptionBody) -> SubscriptionSettings:
    given = {
        field: value
        for field in ("ordered", "attempts", "durable", "dead_letters")
        if (value := getattr(asked, field)) is not UNSET
    }
    for field in ("ack_timeout", "expires"):
        if (value := getattr(asked, field)) is not UNSET:
            given[field] = None if value is None else schemas.duration(value, f"$.{field}")
    if asked.backoff is not UNSET:
        given["backoff"] = asked.backoff and _backoff(asked.backoff)
    sources = [Source(topic=source.topic, key=source.key, headers=source.headers) for source in asked.sources]
    return SubscriptionSettings(name=name, sources=sources, **given)


def _backoff(asked: schemas.BackoffBody) -> Backoff:
    given = {field: value for field, value in msgspec.structs.asdict(asked).items() if value is not UNSET}
    for field in ("first", "max"):
        if field in given:
            given[field] = schemas.duration(given[field], f"$.backoff.{field}")
    return Backoff(**given)


async def delete(app: RestApp, request: Request) -> Response:
    await app.core.subscriptions.delete(request.principal, request.text(0), _kind(request))
    return app.empty


def subscription_view(info: SubscriptionInfo) -> dict[str, Any]:
    """Durations as text, as `create` takes them; ``oldest_unsettled`` is an age in milliseconds."""
    shown = msgspec.structs.asdict(info)
    shown["sources"] = [_source_view(source) for source in info.sources]
    settings: dict[str, Any] = msgspec.to_builtins(info.settings)
    for field in ("name", "kind", "sources"):
        settings.pop(field, None)
    _spell(settings, ("ack_timeout", "expires"))
    if isinstance(settings.get("backoff"), dict):
        _spell(settings["backoff"], ("first", "max"))
    shown["settings"] = settings
    return shown


def _source_view(source: Source) -> dict[str, Any]:
    """What only other protocols ask for is shown where it was asked for."""
    shown = msgspec.structs.asdict(source)
    return {name: value for name, value in shown.items() if value is not False}


def _spell(settings: dict[str, Any], durations: tuple[str, ...]) -> None:
    for field in durations:
        if isinstance(value := settings.get(field), int):
            settings[field] = format_duration(value)


# --- pull and settle -------------------------------------------------------------------------------------------------


async def pull(app: RestApp, request: Request) -> Response:
    asked = schemas.decode(await _control(app, request), schemas.PullBody)
    _bounded("$.max", asked.max, app.settings.page)
    wait = min(schemas.duration(asked.wait, "$.wait"), app.settings.longest_wait)
    lease = None if asked.lease is None else schemas.duration(asked.lease, "$.lease")
    pulling = app.core.subscriptions.pull(request.principal, request.text(0), max=asked.max, wait=wait, lease=lease)
    found = await (while_client_waits(request, pulling) if wait else pulling)
    app.counters.delivered += len(found)
    return json_response(200, {"deliveries": [_delivery_view(one) for one in found]})


def _bounded(path: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise Invalid(f"{path}: expected 1 to {most}", fields=[FieldError(path, f"expected 1 to {most}")])


def _delivery_view(one: Delivery) -> dict[str, Any]:
    return {
        "token": one.token,
        "attempt": one.attempt,
        "redelivered": one.redelivered,
        "message": message_view(one.message, topic=True),
    }


async def ack(app: RestApp, request: Request) -> Response:
    asked = schemas.decode(await _control(app, request), schemas.TokensBody)
    await app.core.subscriptions.ack(request.principal, request.text(0), asked.tokens)
    return _settled(asked)


async def nack(app: RestApp, request: Request) -> Response:
    asked = schemas.decode(await _control(app, request), schemas.NackBody)
    delay = None if asked.delay is None else schemas.duration(asked.delay, "$.delay")
    await app.core.subscriptions.nack(request.principal, request.text(0), asked.tokens, delay)
    return _settled(asked)


async def reject(app: RestApp, request: Request) -> Response:
    asked = schemas.decode(await _control(app, request), schemas.RejectBody)
    await app.core.subscriptions.reject(request.principal, request.text(0), asked.tokens, asked.reason[:1_000])
    return _settled(asked)


async def extend(app: RestApp, request: Request) -> Response:
    asked = schemas.decode(await _control(app, request), schemas.ExtendBody)
    lease = app.core.limits.lease if asked.lease is None else schemas.duration(asked.lease, "$.lease")
    await app.core.subscriptions.extend(request.principal, request.text(0), asked.tokens, lease)
    return _settled(asked)


def _settled(asked: schemas.TokensBody) -> Response:
    return json_response(200, {"settled": len(asked.tokens)})


# --- what is pending -------------------------------------------------------------------------------------------------


async def messages(app: RestApp, request: Request) -> Response:
    return await _peek(app, request, request.text(0), _kind(request))


async def dead_letters(app: RestApp, request: Request) -> Response:
    return await _peek(app, request, _dead_name(request), "dead")


def _dead_name(request: Request) -> str:
    return dead_name(_kind(request), request.text(0))


async def _peek(app: RestApp, request: Request, name: str, kind: str) -> Response:
    """``next`` is handed back as ``after``; null when there is no more."""
    query = request.query
    limit = query.integer("limit", 100, least=1, most=app.settings.page)
    after = query.integer("after", 0, most=(1 << 59))
    found, more = await app.core.subscriptions.peek_page(request.principal, name, limit=limit, after=after, kind=kind)
    return json_response(200, {"messages": [_peeked_view(one) for one in found], "next": more})


def _peeked_view(one: Peeked) -> dict[str, Any]:
    return {
        "seq": one.seq,
        "state": one.state,
        "attempts": one.attempts,
        "due": format_time(one.due) if one.due else None,
        "message": message_view(one.message, topic=True),
    }


async def remove(app: RestApp, request: Request) -> Response:
    await app.core.subscriptions.remove(request.principal, request.text(0), _seq(request), kind=_kind(request))
    return app.empty


async def delete_dead_letter(app: RestApp, request: Request) -> Response:
    await app.core.subscriptions.remove(request.principal, _dead_name(request), _seq(request), kind="dead")
    return app.empty


async def move(app: RestApp, request: Request) -> Response:
    asked = schemas.decode(await _control(app, request), schemas.MoveBody)
    key = None if asked.key is None else asked.key.encode()
    subscriptions, kind = app.core.subscriptions, _kind(request)
    await subscriptions.move(request.principal, request.text(0), _seq(request), asked.topic, key, kind=kind)
    return json_response(200, {"moved": 1})


def _seq(request: Request) -> int:
    text = request.text(1)
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Invalid(f"not a sequence number: {text[:32]!r}", hint="GET …/messages lists them as `seq`")
    return int(text)


async def pause(app: RestApp, request: Request) -> Response:
    await app.core.subscriptions.pause(request.principal, request.text(0), _kind(request))
    return app.empty


async def resume(app: RestApp, request: Request) -> Response:
    await app.core.subscriptions.resume(request.principal, request.text(0), _kind(request))
    return app.empty


async def purge(app: RestApp, request: Request) -> Response:
    gone = await app.core.subscriptions.purge(request.principal, request.text(0), _kind(request))
    return json_response(200, {"purged": gone})


async def purge_dead_letters(app: RestApp, request: Request) -> Response:
    gone = await app.core.subscriptions.purge(request.principal, _dead_name(request), kind="dead")
    return json_response(200, {"purged": gone})


async def reset(app: RestApp, request: Request) -> Response:
    asked = schemas.decode(await _control(app, request), schemas.ResetBody)
    start, kind = parse_start(asked.to), _kind(request)
    pending = await app.core.subscriptions.reset(request.principal, request.text(0), start, kind)
    return json_response(200, {"pending": pending})


async def redrive(app: RestApp, request: Request) -> Response:
    asked = schemas.decode(await _control(app, request), schemas.RedriveBody)
    if asked.limit is not None:
        _bounded("$.limit", asked.limit, 1 << 30)
    done = await app.core.subscriptions.redrive(
        request.principal, request.text(0), limit=asked.limit, seqs=asked.seqs, kind=_kind(request)
    )
    return json_response(200, {"redriven": done})


async def _control(app: RestApp, request: Request) -> bytes:
    return await request.body(app.settings.control_size, app.settings.body_timeout)
