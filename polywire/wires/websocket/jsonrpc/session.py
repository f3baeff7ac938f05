"""One connection's JSON-RPC state: which requests are open, which answers wait for the rest of their batch, what
credit readers have.

It says what to send (`Session.take`) and never sends. A request is open from `Session.receive` until it is answered,
once; a notification is never answered (specification §4.1), its errors are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from polywire.core.errors import Conflict, FieldError, LimitExceeded, NotFound, PolywireError
from polywire.wires.websocket.jsonrpc.codec import (
    NULL,
    Fault,
    InvalidRequest,
    Request,
    answer,
    batch,
    error_answer,
    read,
)

__all__ = ["Credit", "Handles", "Session"]

T = TypeVar("T")
_NULL_KEY = ("null", None)


class _Batch:
    """Answers that go out together, once all are there (§6)."""

    __slots__ = ("answers", "open")

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.open = 0


class Session:
    """``error_body`` makes of an error the JSON that tells it: the wire's error table."""

    def __init__(self, *, batch: int, in_flight: int, error_body: Callable[[PolywireError], bytes]) -> None:
        self.errors = 0
        self._most_in_batch = batch
        self._most_open = in_flight
        self._error_body = error_body
        self._open: dict[Any, Request] = {}
        self._nameless = 0  # open requests with id null, which nothing tells apart
        self._out: list[bytes] = []

    @property
    def open(self) -> int:
        return len(self._open) + self._nameless

    @property
    def has_output(self) -> bool:
        return bool(self._out)

    def take(self) -> list[bytes]:
        """The texts to send, in order; they are the caller's from now on."""
        out, self._out = self._out, []
        return out

    # Requests

    def receive(self, payload: bytes) -> list[Request]:
        """What is to be done; what is no request, or one too many, is answered already."""
        items, together = read(payload, self._most_in_batch)
        collected = _Batch() if together else None
        admitted: list[Request] = []
        for item in items:
            if isinstance(item, Fault):
                self._refuse(item.id, item.error, collected)
            elif self._admit(item, collected):
                admitted.append(item)
        if collected is not None and not collected.open:
            self._send_batch(collected)
        return admitted

    def _admit(self, request: Request, collected: _Batch | None) -> bool:
        if request.id is None:
            return True
        key = request.key
        if key in self._open:
            # Answered to its own id, it would be taken for the answer to the first request.
            field = FieldError("$.id", "is that of a request that has no answer yet")
            extra = {"id": str(key[1])}
            self._refuse(NULL, InvalidRequest(f"{field.path} {field.message}", fields=[field], extra=extra), collected)
            return False
        if self.open >= self._most_open:
            error = LimitExceeded(
                f"a connection has at most {self._most_open} requests without an answer",
                hint="wait for answers before asking more, or open another connection",
                extra={"limit": self._most_open},
            )
            self._refuse(request.id, error, collected)
            return False
        if key == _NULL_KEY:
            self._nameless += 1
        else:
            self._open[key] = request
        if collected is not None:
            collected.open += 1
            request.batch = collected
        return True

    def _refuse(self, id: bytes, error: PolywireError, collected: _Batch | None) -> None:
        self.errors += 1
        text = error_answer(id, self._error_body(error))
        if collected is None:
            self._out.append(text)
        else:
            collected.answers.append(text)

    def find(self, key: Any) -> Request | None:
        """The open request with this id."""
        return self._open.get(key)

    # Answers

    def answer(self, request: Request, result: bytes) -> None:
        """``result`` is JSON."""
        if request.id is not None:
            self._close(request, answer(request.id, result))

    def fail(self, request: Request, error: PolywireError) -> None:
        self.errors += 1
        if request.id is not None:
            self._close(request, error_answer(request.id, self._error_body(error)))

    def _close(self, request: Request, text: bytes) -> None:
        if request.key == _NULL_KEY:
            self._nameless -= 1
        else:
            del self._open[request.key]
        collected: _Batch | None = request.batch
        if collected is None:
            self._out.append(text)
            return
        collected.answers.append(text)
        collected.open -= 1
        if not collected.open:
            self._send_batch(collected)

    def _send_batch(self, collected: _Batch) -> None:
        """Nothing at all where every request was a notification (§6)."""
        if collected.answers:
            self._out.append(batch(collected.answers))
            collected.answers = []


class Handles(Generic[T]):
    """What a client has opened on its connection, by number: 1, 2, 3, … and never one twice."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._next = 1
        self._open: dict[int, T] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    def next(self) -> int:
        """The number of the next one, if there may be one more. Raises `LimitExceeded`."""
        if len(self._open) >= self._most:
            raise LimitExceeded(
                f"a connection has at most {self._most} subscriptions",
                hint="unsubscribe from some, take a wider key pattern, or open another connection",
                extra={"limit": self._most},
            )
        return self._next

    def put(self, number: int, one: T) -> None:
        self._open[number] = one
        self._next = number + 1

    def get(self, number: int) -> T | None:
        return self._open.get(number)

    def require(self, number: int) -> T:
        """Raises `NotFound`."""
        found = self._open.get(number)
        if found is None:
            raise NotFound(
                f"there is no subscription {number} on this connection",
                hint="it may have ended",
                fields=[FieldError("$.subscription", "not open")],
            )
        return found

    def remove(self, number: int) -> T | None:
        return self._open.pop(number, None)


class Credit:
    """How many more messages a reader takes; ``left`` None: as many as come."""

    __slots__ = ("left",)

    MOST = 1 << 53  # what a JavaScript number counts exactly

    def __init__(self, left: int | None) -> None:
        self.left = left

    def allows(self, wanted: int) -> int:
        return wanted if self.left is None else min(wanted, self.left)

    def spend(self, count: int) -> None:
        if self.left is not None:
            self.left -= count

    def grant(self, more: int) -> int:
        """Returns what is left then. Raises `Conflict` where credit is not counted."""
        if self.left is None:
            raise Conflict(
                "the subscription was opened without credit, so it takes what comes",
                hint="say credit when subscribing",
            )
        self.left = min(self.left + more, self.MOST)
        return self.left
