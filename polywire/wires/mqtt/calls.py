"""Operations over MQTT: request and response (MQTT 5 §4.10).

A PUBLISH to ``operations/NAME`` is a call: its payload are the arguments as JSON. The reply goes to the Response Topic
with the request's Correlation Data; an error is a problem document with the user property ``polywire-error``, its code.
An operation that streams sends its items one by one, and after them an empty message with the user property
``polywire-stream: end``.

A Response Topic is any topic that the caller may publish to. ``operations/replies/CLIENT-ID/…`` is the client's own:
what goes there is stored nowhere and reaches its connection alone, also where only declared topics exist. CONNACK names
it as Response Information.

PUBACK and PUBREC come when the reply is on its way. A call goes on when its client leaves; a stream ends then.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import msgspec

from polywire.contract.contract import Contract
from polywire.contract.operations import OperationContract
from polywire.core.access import Principal
from polywire.core.errors import Denied, Internal, Invalid, LimitExceeded, PolywireError
from polywire.core.message import Header, Origin, Record
from polywire.wires.mqtt.binding import PUBLISH_REASONS, reason_of, said
from polywire.wires.mqtt.names import Filter, Name, read_name
from polywire.wires.mqtt.packets import Property, Publish
from polywire.wires.mqtt.properties import read
from polywire.wires.mqtt.reasons import MqttError, Reason

if TYPE_CHECKING:
    from polywire.wires.mqtt.connection import Connection
    from polywire.wires.mqtt.server import Mqtt

__all__ = ["Calls"]

_logger = logging.getLogger("polywire.mqtt")
_encode = msgspec.json.Encoder().encode
_REPLIES = "operations/replies/"


class _Request(NamedTuple):
    """``reply_to``: where replies go, or None; ``own``: the client's own name for them, which is no topic."""

    reply_to: Name | None
    own: bytes | None
    correlation: bytes | None
    headers: list[Header]
    within: int | None


class Calls:
    def __init__(self, wire: Mqtt, contract: Contract) -> None:
        self._wire = wire
        self._core = wire.core
        self._contract = contract
        self._running: dict[Connection, set[asyncio.Task[None]]] = {}

    def reply_topic(self, client_id: str) -> str:
        return _REPLIES + quote(client_id, safe="")

    def require_reply_filter(self, client_id: str, filter: Filter) -> None:
        """Raises `MqttError` for a filter of calls, which nobody can read, `Denied` for another client's replies."""
        if not filter.text.startswith(_REPLIES):
            raise MqttError(Reason.TOPIC_FILTER_INVALID, "operations are called by publishing; they cannot be read")
        own = self.reply_topic(client_id)
        if filter.text != own and not filter.text.startswith(f"{own}/"):
            raise Denied(f"these are another client's replies; your own are {own}/#")

    # Calling

    def publish(self, connection: Connection, principal: Principal, operation: str, publish: Publish) -> None:
        """Run it in a task of its own; the publish is acknowledged when its reply is on its way."""
        running = self._running.setdefault(connection, set())
        task = asyncio.get_running_loop().create_task(self._run(connection, principal, operation, publish))
        running.add(task)
        task.add_done_callback(running.discard)

    def leave(self, connection: Connection) -> None:
        """Its client is gone. What runs goes on to its end, which its deadline bounds."""
        self._running.pop(connection, None)

    def stop(self) -> None:
        for running in self._running.values():
            for task in running:
                task.cancel()

    async def _run(self, connection: Connection, principal: Principal, operation: str, publish: Publish) -> None:
        error: PolywireError | None = None
        request = None
        try:
            request = self._request(connection, publish)
            if len(self._running.get(connection, ())) > self._wire.settings.max_calls:
                raise LimitExceeded(f"a connection has at most {self._wire.settings.max_calls} calls at a time")
            await self._call(connection, principal, operation, publish, request)
        except PolywireError as raised:
            error = raised
        except MqttError as raised:
            error = Invalid(raised.detail)
        except Exception:
            _logger.exception("a call of %s over MQTT failed", operation)
            error = Internal("the call failed", hint="the hub's log says why")
        if error is not None:
            self._wire.counters.errors += 1
            if request is not None and await self._told(connection, principal, request, error):
                error = None
        if publish.qos:
            self._acknowledge(connection, publish, error)

    def _acknowledge(self, connection: Connection, publish: Publish, error: PolywireError | None) -> None:
        if error is None or connection.level < 5:
            connection.acknowledge([publish])
        else:
            connection.acknowledge([publish], reason_of(error, PUBLISH_REASONS), said(error))

    def _request(self, connection: Connection, publish: Publish) -> _Request:
        """Raises `MqttError`."""
        given = read(publish.properties, Publish) if publish.properties else {}
        reply_to: Name | None = None
        own: bytes | None = None
        response = given.get(Property.RESPONSE_TOPIC)
        if response is not None:
            if response.startswith(_REPLIES):
                if not response.startswith(self.reply_topic(connection.client_id)):
                    raise MqttError(Reason.TOPIC_NAME_INVALID, "the response topic is another client's")
                own = response.encode()
            else:
                reply_to = read_name(response.encode())
                if reply_to.operation is not None:
                    raise MqttError(Reason.TOPIC_NAME_INVALID, "the response topic is an operation")
        expiry = given.get(Property.MESSAGE_EXPIRY_INTERVAL)
        return _Request(
            reply_to, own, given.get(Property.CORRELATION_DATA),
            list(given.get(Property.USER_PROPERTY, ())), 1_000 * expiry if expiry is not None else None,
        )  # fmt: skip

    async def _call(
        self, connection: Connection, principal: Principal, name: str, publish: Publish, request: _Request
    ) -> None:
        self._core.calls.require(principal, name)
        contract = self._contract.operation(name)
        arguments = contract.request.decode(publish.payload)
        origin = Origin(principal.name, "mqtt", connection.client_id)
        asked: dict[str, Any] = {"headers": request.headers, "origin": origin, "within": request.within}
        if not contract.streams:
            result = await self._core.calls.call(principal, name, arguments, **asked)
            await self._reply(connection, principal, request, _record(contract, result))
            return
        items: Any = self._core.calls.stream(principal, name, arguments, **asked)
        async with aclosing(items):
            async for item in items:
                if connection.ended:
                    return
                await self._reply(connection, principal, request, _record(contract, item, ("polywire-stream", "item")))
        await self._reply(connection, principal, request, Record(headers=[("polywire-stream", "end")]))

    async def _told(
        self, connection: Connection, principal: Principal, request: _Request, error: PolywireError
    ) -> bool:
        """Whether the caller could be told of it by a reply."""
        if request.reply_to is None and request.own is None:
            return False
        record = Record(_encode(error.as_dict()), content_type="application/problem+json")
        record.headers = [("polywire-error", error.code)]
        try:
            await self._reply(connection, principal, request, record)
        except PolywireError:
            return False
        return True

    async def _reply(self, connection: Connection, principal: Principal, request: _Request, record: Record) -> None:
        """Raises what `Core.publish` raises."""
        record.correlation_id = request.correlation
        if request.own is not None:
            connection.tell(request.own, record)
        elif request.reply_to is not None:
            record.key = request.reply_to.key
            await self._core.publish(principal, request.reply_to.topic, [record])


def _record(contract: OperationContract, result: Any, *headers: Header) -> Record:
    """The result as JSON; bytes as they are. Raises `Internal` for a result that is not of the declared type."""
    if contract.reply is None:
        return Record(b"null", content_type="application/json", headers=list(headers))
    try:
        payload = contract.reply.encode(result)
    except Invalid as error:
        _logger.error("operation %s returned what it does not declare: %s", contract.name, error.detail)  # noqa: TRY400
        raise Internal(f"operation {contract.name!r} failed", hint="the hub's log says why") from error
    return Record(payload, content_type=contract.reply.content_type, headers=list(headers))
