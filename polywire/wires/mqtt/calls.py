"""Operations over MQTT: request and response (MQTT 5 §4.10).

A PUBLISH to ``operations/NAME`` is a call. Its payload are the arguments as JSON; it may be empty, and it is the
argument itself where the only one is bytes or a file and the content type does not say JSON. User properties are the
call's headers, ``idempotency-key`` is one of the core's, and Message Expiry Interval the time that the caller gives it.

The reply goes to the Response Topic with the request's Correlation Data; an error is a problem document with the user
property ``polywire-error``, its code. An operation that streams sends its items one by one, each with the user property
``polywire-stream: item``, and after them an empty message with ``polywire-stream: end``.

A Response Topic is any topic that the caller may publish to. ``operations/replies/CLIENT-ID/…`` is the client's own:
what goes there is stored nowhere and reaches its connection alone, also where only declared topics exist. CONNACK names
it as Response Information.

| | at level 5 | at levels 3 and 4 |
|---|---|---|
| the reply, or the first item, is on its way, or it is done and wants no reply | PUBACK, PUBREC | the same |
| the response topic is the client's own, and it is not subscribed | reason 0x10 | |
| an error that no reply can tell | its reason | acknowledged, and to the dead letters if the request was wrong |
| the same, of a hub that is stopping or has too much to do | its reason | not acknowledged: the connection ends |

A call goes on when its client leaves, which may have wanted no more than that; its deadline bounds it. A stream ends.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from polywire.contract.codec import JSON, OCTETS, Codec
from polywire.contract.contract import Contract
from polywire.contract.files import File
from polywire.contract.operations import Arguments, OperationContract
from polywire.core.access import Principal
from polywire.core.admission import check_record
from polywire.core.endings import ended_within
from polywire.core.errors import Internal, Invalid, LimitExceeded, PolywireError
from polywire.core.message import Header, Origin, Record
from polywire.server.envelope import is_json_type
from polywire.wires.mqtt.binding import PUBLISH_REASONS, reason_of, said
from polywire.wires.mqtt.packets import Publish
from polywire.wires.mqtt.reasons import Reason
from polywire.wires.mqtt.records import WIRE, record_of
from polywire.wires.mqtt.replies import Replies, replies_to

if TYPE_CHECKING:
    from polywire.wires.mqtt.connection import Connection
    from polywire.wires.mqtt.server import Mqtt

__all__ = ["Calls"]

_logger = logging.getLogger("polywire.mqtt")
_encode = msgspec.json.Encoder().encode
_IDEMPOTENCY: Final = "idempotency-key"
_FILE_NAME: Final = "filename"
"""User property beside a file's bytes, in either direction."""
_ITEM: Final[Header] = ("polywire-stream", "item")
_END: Final[Header] = ("polywire-stream", "end")
_LAST_WORDS: Final = 0.5
"""Seconds for what is cancelled when the hub stops."""


class Calls:
    def __init__(self, wire: Mqtt, contract: Contract) -> None:
        self._wire = wire
        self._core = wire.core
        self._contract = contract
        self._running: dict[Connection, dict[asyncio.Task[None], _Call]] = {}

    def publish(self, connection: Connection, principal: Principal, operation: str, publish: Publish) -> None:
        """Run it in a task of its own; the publish is acknowledged when its reply is on its way.

        Raises `MqttError` for what breaks the protocol, and the core's errors for a refusal that no reply can tell.
        """
        most = self._wire.settings.max_calls
        if len(self._running.get(connection, ())) >= most:
            raise LimitExceeded(f"a connection has at most {most} calls at a time", retry_after=1)
        session = connection.client_session
        if session is None:
            raise RuntimeError("a call before CONNECT")
        origin = Origin(principal.name, WIRE, connection.client_id)
        request = record_of(publish, None, origin, self._core.clock.now())
        replies = replies_to(self._wire, session, principal, request)
        call = _Call(self._wire, connection, principal, publish, replies)
        try:
            self._core.calls.require(principal, operation)
            call.read(self._contract.operation(operation), request)
        except PolywireError as error:
            if replies is None:
                raise
            call.refuse(error)
        else:
            self._start(call)

    def _start(self, call: _Call) -> None:
        task = asyncio.get_running_loop().create_task(call.run())
        self._running.setdefault(call.connection, {})[task] = call
        task.add_done_callback(lambda ended: self._ended(call.connection, ended))

    def _ended(self, connection: Connection, task: asyncio.Task[None]) -> None:
        running = self._running[connection]
        del running[task]
        if not running:
            del self._running[connection]

    def leave(self, connection: Connection) -> None:
        """Its client is gone: who would take the rest of a stream?"""
        for task, call in self._running.get(connection, {}).items():
            if call.contract.streams:
                task.cancel()

    async def drain(self, seconds: float) -> None:
        """Let replies leave that are on their way: the core has seen to it that no operation runs any more."""
        tasks = self._tasks()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
            with suppress(PolywireError):
                await ended_within(seconds, self._core.log.published(), "replies over MQTT")

    async def stop(self) -> None:
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_WORDS)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for running in self._running.values() for task in running]


class _Call:
    """Life: construct → `read` → `run`, or `refuse`."""

    contract: OperationContract
    _arguments: dict[str, Any]
    _asked: dict[str, Any]

    def __init__(
        self, wire: Mqtt, connection: Connection, principal: Principal, publish: Publish, replies: Replies | None
    ) -> None:
        self.connection = connection
        self._wire = wire
        self._core = wire.core
        self._principal = principal
        self._publish = publish
        self._replies = replies
        self._unanswered = publish.qos > 0

    def read(self, contract: OperationContract, request: Record) -> None:
        """Raises the core's errors for what cannot be called so."""
        check_record(request, self._core.limits)
        if contract.streams and self._replies is None:
            raise Invalid(
                f"operation {contract.name!r} answers with a stream", hint="give the request a Response Topic"
            )
        self.contract = contract
        self._arguments = _arguments(contract.request, request)
        within = None if request.expires is None else max(0, request.expires - self._core.clock.now())
        once = next((value for name, value in request.headers if name.lower() == _IDEMPOTENCY), None)
        headers = [header for header in request.headers if header[0].lower() != _IDEMPOTENCY]
        self._asked = {"headers": headers, "origin": request.origin, "within": within, "idempotency": once}

    def refuse(self, error: PolywireError) -> None:
        """By a reply; it is not called."""
        if self._replies is None:
            raise RuntimeError("there is nobody to tell")
        self._wire.counters.errors += 1
        try:
            self._replies.post(_problem(error), lambda failure: self._answer(failure and error))
        except PolywireError:
            self._answer(error)

    async def run(self) -> None:
        try:
            if self.contract.streams:
                await self._stream()
            else:
                await self._once()
        except PolywireError as error:
            await self._fail(error)
        except Exception:
            _logger.exception("a call of %s over MQTT failed", self.contract.name)
            await self._fail(Internal("the call failed", hint="the hub's log says why"))
        finally:
            if self._unanswered:  # it was cancelled: a repeat of the request counts
                self.connection.protocol.abandon([self._publish])

    async def _once(self) -> None:
        name = self.contract.name
        result = await self._core.calls.call(self._principal, name, self._arguments, **self._asked)
        self._answer(told=await self._send(_record(self.contract, result)))

    async def _stream(self) -> None:
        items: Any = self._core.calls.stream(self._principal, self.contract.name, self._arguments, **self._asked)
        async with aclosing(items):
            async for item in items:
                told = await self._send(_record(self.contract, item, _ITEM))
                self._answer(told=told)
                if not told:
                    return
        self._answer(told=await self._send(Record(headers=[_END])))

    async def _send(self, record: Record) -> bool:
        """Whether whoever is to be told is there."""
        return self._replies is None or await self._replies.send(record)

    async def _fail(self, error: PolywireError) -> None:
        self._wire.counters.errors += 1
        try:
            told = self._replies is not None and await self._replies.send(_problem(error))
        except PolywireError:
            told = False
        if not told and (self._publish.qos == 0 or self.connection.level < 5):
            _logger.info("operation %s failed, and its caller cannot be told: %s", self.contract.name, error.detail)
        self._answer(None if told else error)

    # PUBACK, PUBREC

    def _answer(self, error: PolywireError | None = None, *, told: bool = True) -> None:
        """Once: of a stream, after its first item. ``error``: what no reply could tell; ``told`` False: nobody is
        there."""
        if not self._unanswered:
            return
        self._unanswered = False
        connection, publishes = self.connection, [self._publish]
        if connection.level < 5 and error is not None and error.retryable and not self._core.ready:
            connection.protocol.abandon(publishes)
            connection.end(Reason.SERVER_SHUTTING_DOWN, said(error))
        elif connection.level >= 5 and error is not None:
            connection.acknowledge(publishes, reason_of(error, PUBLISH_REASONS), said(error))
        else:
            self._accept(Reason.SUCCESS if told else Reason.NO_MATCHING_SUBSCRIBERS)

    def _accept(self, reason: int) -> None:
        connection, publish = self.connection, self._publish
        session = connection.client_session
        if publish.qos == 2 and session is not None and session.persistent:
            # So that it is not called again after a restart, if the client does not get this PUBREC.
            session.state.mark_stored([publish.id])
            self._wire.sessions.store_received(session, lambda error: self._stored(reason, error))
        else:
            connection.acknowledge([publish], reason)

    def _stored(self, reason: int, error: PolywireError | None) -> None:
        if error is None:
            self.connection.acknowledge([self._publish], reason)
        else:
            self.connection.stored([self._publish], error)


# --- requests and replies --------------------------------------------------------------------------------------------


def _arguments(request: Arguments, record: Record) -> dict[str, Any]:
    """Raises `Invalid`."""
    payload, content_type = record.payload, record.content_type
    says_json = content_type is not None and is_json_type(content_type)
    if request.raw is None or says_json or (not payload and request.optional):
        return request.decode(payload)
    name = request.parameters[0].name
    if request.raw is bytes:
        return {name: payload}
    file_name = next((value for header, value in record.headers if header == _FILE_NAME), None)
    return {name: File(payload, file_name, content_type or OCTETS)}


def _record(contract: OperationContract, result: Any, *headers: Header) -> Record:
    """The result as JSON; bytes and files as they are. Raises `Internal` for one that is not of the declared type."""
    codec, said = contract.reply, list(headers)
    if codec is None:
        return Record(b"null", content_type=JSON, headers=said)
    if isinstance(result, File) and (codec.type is File or codec.untyped):
        name = [(_FILE_NAME, result.name)] if result.name else []
        return Record(result.content, content_type=result.content_type, headers=[*said, *name])
    if isinstance(result, (bytes, bytearray)) and (codec.raw or codec.untyped):
        return Record(bytes(result), content_type=OCTETS, headers=said)
    return Record(_written(contract, codec, result), content_type=JSON, headers=said)


def _written(contract: OperationContract, codec: Codec[Any], result: Any) -> bytes:
    try:
        return codec.encode(result)
    except Invalid as error:
        _logger.error("operation %s returned what it does not declare: %s", contract.name, error.detail)  # noqa: TRY400
        raise Internal(f"operation {contract.name!r} failed", hint="the hub's log says why") from error


def _problem(error: PolywireError) -> Record:
    headers: list[Header] = [("polywire-error", error.code)]
    return Record(_encode(error.as_dict()), content_type="application/problem+json", headers=headers)
