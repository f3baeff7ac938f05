"""What a connection has subscribed to: streams, which follow a topic, and queues, which take deliveries.

Neither keeps messages of its own. A reader that may not send, because its credit is spent or the peer does not read,
leaves a stream's messages in the log (`Follower.give_back`); a queue's deliveries wait as what they are, as many as the
consumer has credit for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from polywire.core.errors import PolywireError
from polywire.core.message import Batch
from polywire.core.position import Cursor
from polywire.core.streams import Follower, Reset
from polywire.core.subscription import Consumer, Delivery
from polywire.wires.websocket.jsonrpc.binding import deliveries_text, ended_text, reset_text
from polywire.wires.websocket.jsonrpc.session import Credit

__all__ = ["Outlet", "Queue", "Reader", "Stream"]

_ABOUT = 256  # bytes of JSON that a message has around its payload
_AT_ONCE = 256  # messages in one notification


class Outlet(Protocol):
    """Where a reader's notifications go."""

    notification_size: int
    """Bytes up to which messages are put together."""
    forget: Callable[[int], None]
    """The subscription of this number has ended."""

    @property
    def has_room(self) -> bool:
        """Whether more may be sent now. If not, `starve` brings the reader's turn."""
        ...

    def starve(self, reader: Reader) -> None:
        """`Reader.resume` is called when there is room, the one that has waited longest first."""
        ...

    def notify(self, text: bytes, messages: int = 0) -> None: ...

    def notify_of(self, batch: Batch, indexes: Sequence[int], number: int) -> None:
        """Send these records of a batch to subscription ``number``."""
        ...


class Reader(Protocol):
    number: int

    def resume(self) -> None: ...

    def close(self) -> None: ...


class Stream:
    """Sink of a follower. Life: construct → `opened` with its follower, once the client knows the number → `close`."""

    __slots__ = ("_early", "_first", "_follower", "_out", "credit", "number")

    def __init__(self, out: Outlet, number: int, credit: Credit) -> None:
        self.number = number
        self.credit = credit
        self._out = out
        self._follower: Follower | None = None
        self._first: int | None = None  # the offset that came before the client knew of us
        self._early: list[Reset] = []

    def place(self, follower: Follower) -> None:
        """The follower has begun; what it has given so far was not taken."""
        self._follower = follower
        if self._first is not None:
            follower.give_back(self._first)

    def start(self) -> None:
        """The client knows the number."""
        early, self._early = self._early, []
        for reset in early:
            self.reset(reset)
        self.resume()

    def resume(self) -> None:
        if self._follower is not None:
            self._follower.resume()

    def close(self) -> None:
        if self._follower is not None:
            self._follower.close()

    # Sink

    def deliver(self, batch: Batch, indexes: Sequence[int] | None) -> bool:
        wanted: Sequence[int] = range(len(batch)) if indexes is None else indexes
        follower = self._follower
        if follower is None:
            self._first = batch.offset + wanted[0]
            return False
        taken = 0
        while taken < len(wanted):
            piece = self._piece(batch, wanted, taken)
            if not piece:
                follower.give_back(batch.offset + wanted[taken])
                return False
            self.credit.spend(len(piece))
            self._out.notify_of(batch, piece, self.number)
            taken += len(piece)
        return True

    def _piece(self, batch: Batch, wanted: Sequence[int], taken: int) -> Sequence[int]:
        """The records of the next notification; none if it has to wait."""
        out = self._out
        if not out.has_room:
            out.starve(self)
            return ()
        most = self.credit.allows(min(len(wanted) - taken, _AT_ONCE))
        if batch.size + most * _ABOUT <= out.notification_size:
            return wanted[taken : taken + most]
        size, stop, records = 0, taken, batch.records
        while stop < taken + most and (stop == taken or size < out.notification_size):
            size += records[wanted[stop]].size() + _ABOUT
            stop += 1
        return wanted[taken:stop]

    def reset(self, reset: Reset) -> None:
        if self._follower is None:
            self._early.append(reset)
        else:
            self._out.notify(reset_text(reset, self.number))

    def ended(self, error: PolywireError) -> None:
        self._out.notify(ended_text(error, self.number))
        self._out.forget(self.number)

    @property
    def cursor(self) -> Cursor | None:
        return self._follower.cursor if self._follower is not None else None


class Queue:
    """Sink of a consumer, and what of its deliveries was not sent yet."""

    __slots__ = ("_out", "_started", "_waiting", "consumer", "number")

    def __init__(self, out: Outlet, number: int) -> None:
        self.number = number
        self.consumer: Consumer | None = None
        self._out = out
        self._waiting: deque[Delivery] = deque()
        self._started = False

    def start(self) -> None:
        """The client knows the number."""
        self._started = True
        self.resume()

    def resume(self) -> None:
        while self._waiting and self._started:
            if not self._out.has_room:
                self._out.starve(self)
                return
            piece = self._piece()
            if piece:
                self._out.notify(deliveries_text(piece, self.number), len(piece))

    def _piece(self) -> list[Delivery]:
        size, piece = 0, list[Delivery]()
        while self._waiting and len(piece) < _AT_ONCE and size < self._out.notification_size:
            delivery = self._waiting.popleft()
            if _is_ours(delivery):
                piece.append(delivery)
                size += delivery.message.record.size() + _ABOUT
        return piece

    def find(self, token: str) -> Delivery | None:
        """A delivery that is with this consumer."""
        consumer = self.consumer
        delivery = consumer.subscription.find(token) if consumer is not None else None
        return delivery if delivery is not None and delivery.consumer is consumer else None

    def close(self) -> None:
        if self.consumer is not None:
            self.consumer.close()
        self._waiting.clear()

    # Sink

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        self._waiting.extend(deliveries)
        self.resume()
        if self.consumer is not None and len(self._waiting) > 2 * self.consumer.credit:
            self._waiting = deque(filter(_is_ours, self._waiting))

    def ended(self, error: PolywireError) -> None:
        self._waiting.clear()
        self._out.notify(ended_text(error, self.number))
        self._out.forget(self.number)


def _is_ours(delivery: Delivery) -> bool:
    """Whether it was not taken back while it waited, because its time to be acknowledged ran out."""
    return delivery.subscription.find(delivery.token) is delivery
