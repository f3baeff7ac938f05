"""The built-in methods. Each is called with the connection and a request, and answers it now or later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from polywire.core.durations import parse_duration
from polywire.core.errors import FieldError, Invalid, LimitExceeded, NotFound, PolywireError
from polywire.core.message import Receipt
from polywire.core.routing import Source
from polywire.core.streams import Latest, Since, Start, parse_start
from polywire.core.subscription import Delivery, SubscriptionSettings
from polywire.server.views import receipt_view, topic_view
from polywire.wires.websocket.jsonrpc import calls, jobs, params
from polywire.wires.websocket.jsonrpc.binding import json_text, placed_in_params, publication
from polywire.wires.websocket.jsonrpc.codec import Request
from polywire.wires.websocket.jsonrpc.readers import Queue, Stream
from polywire.wires.websocket.jsonrpc.session import Credit

if TYPE_CHECKING:
    from polywire.wires.websocket.jsonrpc.server import JsonRpcConnection as Connection

__all__ = ["METHODS", "publish_now"]

# --- publish ---------------------------------------------------------------------------------------------------------


def publish(conn: Connection, request: Request) -> None:
    if conn.must_hold_back:
        conn.hold_back(request)
    else:
        publish_now(conn, request)


def publish_now(conn: Connection, request: Request) -> None:
    said = params.decode(request.params, params.PublishParams)
    records, due = publication(said, conn.core.clock.now(), conn.origin, conn.core.limits)
    posted = _Posted(conn, request, one=said.messages is None)
    try:
        posted.receipts = conn.core.post(conn.principal, said.topic, records, posted.told, due=due)
    except PolywireError as error:
        raise placed_in_params(error, _payloads(said)) from None
    conn.counters.received += len(records)


def _payloads(said: params.PublishParams) -> dict[int | None, str]:
    if said.messages is None:
        return {None: f"$.{_payload(said)}"}
    return {index: f"$.messages[{index}].{_payload(one)}" for index, one in enumerate(said.messages)}


def _payload(said: params.MessageParams) -> str:
    return "data" if said.data_base64 is None else "data_base64"


class _Posted:
    """A publish that waits for its commit."""

    __slots__ = ("_conn", "_one", "_request", "receipts")

    def __init__(self, conn: Connection, request: Request, *, one: bool) -> None:
        self._conn = conn
        self._request = request
        self._one = one
        self.receipts: Sequence[Receipt] | None = None

    def told(self, error: PolywireError | None) -> None:
        """Of the commit, by the log, which must not meet an exception of ours."""
        if self.receipts is None:  # `Core.post` has not returned yet
            self._conn.soon(partial(self._settle, error))
        else:
            self._settle(error)

    def _settle(self, error: PolywireError | None) -> None:
        if self.receipts is None:  # it was refused, and told so
            return
        if error is not None:
            self._conn.fail(self._request, error)
        elif self._request.id is not None:
            self._conn.answer(self._request, self._shown(self.receipts))

    def _shown(self, receipts: Sequence[Receipt]) -> bytes:
        if self._one:
            return json_text(receipt_view(receipts[0]))
        return json_text({"count": len(receipts), "receipts": [receipt_view(receipt) for receipt in receipts]})


# --- streams ---------------------------------------------------------------------------------------------------------


def subscribe(conn: Connection, request: Request) -> None:
    said = params.decode(request.params, params.SubscribeParams)
    start = params.read("$.from", parse_start, said.start)
    stream = Stream(conn.out, conn.readers.next(), Credit(said.credit))
    stream.place(conn.core.follow(conn.principal, said.topic, start, stream, key=said.key, create=True))
    conn.readers.put(stream.number, stream)
    placed = None if isinstance(start, Since) else str(stream.cursor)
    conn.answer(request, json_text({"subscription": stream.number, "topic": said.topic, "cursor": placed}))
    stream.start()


def unsubscribe(conn: Connection, request: Request) -> None:
    said = params.decode(request.params, params.SubscriptionParams)
    conn.readers.require(said.subscription).close()
    conn.forget(said.subscription)
    conn.answer(request, json_text({"unsubscribed": said.subscription}))


def credit(conn: Connection, request: Request) -> None:
    """So many more messages for a stream; so many more unsettled deliveries for a queue."""
    said = params.decode(request.params, params.CreditParams)
    reader = conn.readers.require(said.subscription)
    if isinstance(reader, Queue) and reader.consumer is not None:
        _require_credit(conn, said.credit)
        left = reader.consumer.credit + said.credit
        conn.answer(request, json_text({"credit": left}))
        reader.consumer.grant(left)
    elif isinstance(reader, Stream):
        left = reader.credit.grant(said.credit)
        conn.answer(request, json_text({"credit": left}))
        reader.resume()


# --- queues ----------------------------------------------------------------------------------------------------------


def consume(conn: Connection, request: Request) -> None:
    said = params.decode(request.params, params.ConsumeParams)
    settings, start = _queue(said)
    if settings is None:
        _join(conn, request, said)
    else:
        conn.run(request, _make_and_join(conn, request, said, settings, start))


_SPELLED = {"start": "from"}
_OF_A_QUEUE = ("key", "start", "ordered", "attempts", "ack_timeout", "expires", "durable")


def _queue(said: params.ConsumeParams) -> tuple[SubscriptionSettings | None, Start]:
    """What the queue is to be, where its topic is given. Raises `Invalid` naming every wrong field."""
    wrong = params.Wrong()
    start = wrong.read("$.from", parse_start, said.start)
    ack_timeout = wrong.read("$.ack_timeout", parse_duration, said.ack_timeout)
    expires = wrong.read("$.expires", parse_duration, said.expires)
    if said.topic is None:
        for name in _OF_A_QUEUE:
            if getattr(said, name) is not None:
                wrong.add(f"$.{_SPELLED.get(name, name)}", "belongs to a queue that is made, and topic is missing")
    wrong.check()
    if said.topic is None:
        return None, Latest()
    settings = SubscriptionSettings(
        said.queue,
        [Source(said.topic, key=said.key)],
        ordered=bool(said.ordered),
        attempts=said.attempts,
        ack_timeout=ack_timeout,
        expires=expires,
        durable=said.durable is not False,
    )
    return settings, Latest() if start is None else start


async def _make_and_join(
    conn: Connection, request: Request, said: params.ConsumeParams, settings: SubscriptionSettings, start: Start
) -> None:
    await conn.core.subscriptions.create(conn.principal, settings, start)
    _join(conn, request, said)


def _join(conn: Connection, request: Request, said: params.ConsumeParams) -> None:
    wanted = said.credit
    if wanted is None:
        wanted = max(1, min(conn.core.limits.credit, conn.credit_left))
    _require_credit(conn, wanted)
    queue = Queue(conn.out, conn.readers.next())
    queue.consumer = conn.core.subscriptions.consume(conn.principal, said.queue, queue, credit=wanted)
    conn.readers.put(queue.number, queue)
    conn.answer(request, json_text({"subscription": queue.number, "queue": said.queue, "credit": wanted}))
    queue.start()


def _require_credit(conn: Connection, wanted: int) -> None:
    if wanted > conn.credit_left:
        most = conn.settings.unsettled
        raise LimitExceeded(
            f"the consumers of a connection have at most {most} credit together, of which {conn.credit_left} is left",
            hint="unsubscribe from some, or open another connection",
            fields=[FieldError("$.credit", f"at most {conn.credit_left} now")],
            extra={"limit": most},
        )


# --- settling --------------------------------------------------------------------------------------------------------


def ack(conn: Connection, request: Request) -> None:
    said = params.decode(request.params, params.SettleParams)
    _settle(conn, request, said, Delivery.ack)


def nack(conn: Connection, request: Request) -> None:
    said = params.decode(request.params, params.NackParams)
    after = None if said.after is None else params.read("$.after", parse_duration, said.after)
    _settle(conn, request, said, lambda delivery: delivery.nack(after))


def reject(conn: Connection, request: Request) -> None:
    said = params.decode(request.params, params.RejectParams)
    reason = said.reason[:1_000]
    _settle(conn, request, said, lambda delivery: delivery.reject(reason))


def _settle(conn: Connection, request: Request, said: params.SettleParams, settle: Callable[[Delivery], bool]) -> None:
    """All of them or, if one is not with this connection, none; answered once that is stored."""
    deliveries = _deliveries(conn, said)
    for delivery in deliveries:
        settle(delivery)
    if request.id is None:
        return
    settled = json_text({"settled": len(deliveries)})

    def stored(error: PolywireError | None) -> None:
        if error is None:
            conn.answer(request, settled)
        else:
            conn.fail(request, error)

    conn.core.log.change(told=stored)


def _deliveries(conn: Connection, said: params.SettleParams) -> list[Delivery]:
    """Raises `Invalid`, `NotFound` naming the unknown ones."""
    if (said.delivery is None) == (said.deliveries is None):
        wrong = "either delivery or deliveries"
        raise Invalid(f"say {wrong}", fields=[FieldError("$.delivery", wrong), FieldError("$.deliveries", wrong)])
    names = dict.fromkeys(said.deliveries if said.deliveries is not None else [said.delivery or ""])
    found = [(name, _delivery(conn, name)) for name in names]
    unknown = [name for name, delivery in found if delivery is None]
    if unknown:
        raise NotFound(
            f"{len(unknown)} of {len(found)} deliveries are not with this connection; none was settled",
            hint="they were settled before, or their time ran out and they went to another consumer",
            extra={"unknown": [name[:100] for name in unknown[:100]]},
        )
    return [delivery for _, delivery in found if delivery is not None]


def _delivery(conn: Connection, name: str) -> Delivery | None:
    number, _, token = name.partition(".")
    if not (number.isascii() and number.isdecimal() and len(number) < 16):
        return None
    reader = conn.readers.get(int(number))
    return reader.find(token) if isinstance(reader, Queue) else None


# --- the rest --------------------------------------------------------------------------------------------------------


def topics(conn: Connection, request: Request) -> None:
    """By name, a page at a time; ``next`` is handed back as ``after``, null at the end."""
    said = params.decode(request.params, params.TopicsParams)
    found = [info for info in conn.core.topics(conn.principal) if said.after is None or info.name > said.after]
    shown: list[dict[str, Any]] = [topic_view(info) for info in found[: said.limit]]
    more = found[said.limit - 1].name if len(found) > said.limit else None
    conn.answer(request, json_text({"topics": shown, "next": more}))


def ping(conn: Connection, request: Request) -> None:
    params.decode(request.params, params.Nothing)
    conn.answer(request, b'"pong"')


METHODS: dict[str, Callable[[Connection, Request], None]] = {
    "publish": publish,
    "subscribe": subscribe,
    "unsubscribe": unsubscribe,
    "credit": credit,
    "consume": consume,
    "ack": ack,
    "nack": nack,
    "reject": reject,
    "call": calls.call,
    "cancel": calls.cancel,
    "submit": jobs.submit,
    "job": jobs.job,
    "follow": jobs.follow,
    "topics": topics,
    "ping": ping,
}
"""Any other method is the operation of that name."""
