"""Publishing what is neither plain bytes nor plain JSON: XML and forms into typed topics, files, and CloudEvents.

A typed topic holds JSON, whatever form a message came in: it is read by the topic's type, and written as JSON. A topic
without a type, or of bytes, keeps the body as it is; of a multipart form it takes each file as a message, with the
file's bytes and type, its name in the header ``filename``, and the form's other fields as further headers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from polywire.contract.topics import TopicContract
from polywire.core.errors import FieldError, Invalid, NotFound
from polywire.core.message import Flag, Record
from polywire.formats import cloudevents
from polywire.formats.multipart import Part, read_multipart
from polywire.formats.reading import checked
from polywire.server.envelope import check_json
from polywire.wires.rest.binding import ContentType, Publication, require_json
from polywire.wires.rest.bodies import read_by_tree
from polywire.wires.rest.request import Request, origin

if TYPE_CHECKING:
    from polywire.wires.rest.app import RestApp

__all__ = ["Published", "is_special", "read_special"]

JSON, OCTETS = "application/json", "application/octet-stream"
LONG = 64 << 10
"""Bytes above which a body is read in a thread."""


class Published(NamedTuple):
    records: list[Record]
    batch: bool
    """Whether to answer with a list of receipts."""


def is_special(kind: ContentType, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a publish is one of those that are read here."""
    return kind.form is not None or cloudevents.is_binary(headers)


async def read_special(app: RestApp, request: Request, kind: ContentType, said: Publication) -> Published:
    """Raises `Invalid`, `TooLarge`, `Unsupported`, `LimitExceeded`."""
    contract = app.contract.topic(request.text(0))
    typed = contract if contract is not None and not (contract.codec.untyped or contract.codec.raw) else None
    limits = app.core.limits
    many = kind.form == "events" or (kind.form == "multipart" and typed is None)
    body = await request.body(limits.batch_size if many else limits.message_size, app.settings.body_timeout)
    reader = _Reader(app, request, kind, said, typed)
    published: Published = await _run(len(body) > LONG, reader.read, body)
    if _deduplicates(app, request.text(0)):
        for record in published.records:
            cloudevents.deduplicate(record)
    return published


async def _run(in_thread: bool, function: Callable[..., Any], *given: Any) -> Any:
    return await asyncio.to_thread(function, *given) if in_thread else function(*given)


def _deduplicates(app: RestApp, topic: str) -> bool:
    try:
        return app.core.topic_info(app.core.access.system, topic).settings.dedup
    except (NotFound, Invalid):  # which publishing tells
        return False


class _Reader:
    """Of one body, in any thread."""

    def __init__(
        self,
        app: RestApp,
        request: Request,
        kind: ContentType,
        said: Publication,
        contract: TopicContract[Any] | None,
    ) -> None:
        self._headers = request.scope["headers"]
        self._origin = origin(request)
        self._kind = kind
        self._said = said
        self._contract = contract
        self._settings = app.settings
        self._now = app.core.clock.now()
        self._most = app.core.limits.batch_messages

    def read(self, body: bytes) -> Published:
        form = self._kind.form
        if form == "event":
            return Published([self._event(cloudevents.read_structured(body))], batch=False)
        if form == "events":
            records = cloudevents.read_batch(body, most=self._most)
            if not records:
                raise Invalid("the batch is empty")
            return Published([self._event(record) for record in records], batch=True)
        if cloudevents.is_binary(self._headers):
            record = cloudevents.read_binary(self._headers, body)
            record.payload, record.content_type = self._payload(body)
            return Published([self._event(record)], batch=False)
        if form == "multipart" and self._contract is None:
            return Published(self._files(self._parts(body)), batch=True)
        payload, content_type = self._payload(body)
        return Published(self._said.records([payload], content_type, self._now, self._origin), batch=False)

    # --- one body as one payload -------------------------------------------------------------------------------------

    def _payload(self, body: bytes) -> tuple[bytes, str]:
        """As the topic holds it, and its content type."""
        contract, form = self._contract, self._kind.form
        if form == "form" and body.lstrip()[:1] in (b"{", b"[") and check_json(body) is None:
            return body, JSON  # as curl sends it that is told of no type
        if form is None and self._kind.json:
            require_json(body)
        deletes = not body and self._said.flags & Flag.RETAINED
        if form not in ("xml", "form", "multipart") or contract is None or deletes:
            return body, self._kind.text
        tree, said, settings = contract.codec.tree, self._kind.text, self._settings
        return checked(lambda: read_by_tree(body, form, said, tree, settings), self._as_json), JSON

    def _as_json(self, builtins: Any) -> bytes:
        """Where the message has a key, the field of that name may be missing; the topic fills it, and checks all."""
        contract = self._contract
        if contract is None or (contract.key is not None and self._said.key is not None):
            return msgspec.json.encode(builtins)
        return contract.codec.encode(contract.codec.from_builtins(builtins))

    # --- files -------------------------------------------------------------------------------------------------------

    def _parts(self, body: bytes) -> list[Part]:
        return read_multipart(body, self._kind.text, limits=self._settings.multipart)

    def _files(self, parts: Sequence[Part]) -> list[Record]:
        files = [part for part in parts if part.filename or (part.filename is not None and part.content)]
        if not files:
            raise Invalid(
                "the form has no file, and the topic no type that its fields could be read by",
                hint="each file of the form becomes a message",
            )
        if self._said.id and not self._said.flags & Flag.DEDUP and len(files) > 1:
            raise Invalid(
                "header polywire-id: one id cannot be that of several messages", hint="Idempotency-Key covers a batch"
            )
        fields = [(part.name, _text(part)) for part in parts if part.filename is None]
        records = self._said.records([file.content for file in files], OCTETS, self._now, self._origin)
        for record, file in zip(records, files, strict=True):
            record.content_type = file.content_type or OCTETS
            record.headers += [("filename", file.filename)] if file.filename else []
            record.headers += fields
        return records

    # --- events ------------------------------------------------------------------------------------------------------

    def _event(self, event: Record) -> Record:
        """With what the headers say besides. An event has an id and a time of its own."""
        said = self._said
        for name, value in (("polywire-id", said.id), ("polywire-time", said.time)):
            if value:
                wrong = "an event says this itself"
                raise Invalid(f"header {name}: {wrong}", fields=[FieldError(f"header.{name}", wrong)])
        record = said.records([event.payload], event.content_type or OCTETS, self._now, self._origin)[0]
        if event.key is not None:
            _check_keys(said.key, event.key)
            record.key = event.key
        record.id, record.time = event.id, event.time
        record.headers = [*event.headers, *record.headers]
        return record


def _check_keys(said: bytes | None, event: bytes) -> None:
    if said is not None and said != event:
        wrong = "the event's partitionkey is another key"
        raise Invalid(wrong, fields=[FieldError("header.polywire-key", wrong)])


def _text(part: Part) -> str:
    try:
        return part.content.decode()
    except UnicodeDecodeError:
        name = part.name[:64]
        raise Invalid(f"field {name!r} is not UTF-8", fields=[FieldError(f"$.{name}", "is not UTF-8")]) from None
