"""Idempotency keys of calls: the first one's reply is stored before it is given, and given again to each repeat."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from polywire.core.call import Call, Encoding, Operation
from polywire.core.errors import (
    Conflict,
    DeadlineExceeded,
    FieldError,
    Internal,
    Invalid,
    LimitExceeded,
    PolywireError,
    TooLarge,
    Unavailable,
    Unsupported,
)
from polywire.core.job import StoredError
from polywire.core.table import Table

if TYPE_CHECKING:
    from polywire.core.core import Core

__all__ = ["Asked", "Keep", "Replies", "Unwritable", "encoding_of", "written"]

_logger = logging.getLogger("polywire.calls")
REPLIES = "_replies"
_KEY_LENGTH = 255

Kind = Literal["call", "job"]


class Asked(NamedTuple):
    """What is to be done once: a call or a job of a principal, by its idempotency key."""

    kind: Kind
    principal: str
    operation: str
    key: str
    arguments: bytes


class _Reply(msgspec.Struct, array_like=True, frozen=True):
    """``digest``: of the arguments. ``error`` in place of ``payload``: the operation refused."""

    kind: Kind
    digest: bytes
    payload: bytes
    error: StoredError | None = None


Keep = Callable[[bytes, "PolywireError | None"], None]
"""Puts the reply (or the error) into the open transaction."""
Produce = Callable[[Keep], Awaitable[bytes]]
"""Does what was asked for, and returns the reply once it is stored."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Reply).decode


class _First:
    """The first one with its key, while it runs."""

    def __init__(self, asked: _Reply, task: asyncio.Task[bytes]) -> None:
        self.asked = asked
        self.task = task


class Replies:
    """Scope of a key: the principal and the operation. Kept for `Limits.reply_retention`; beyond `Limits.replies` the
    oldest give way."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._running: dict[bytes, _First] = {}
        self.table = Table(core, REPLIES, core.limits.replies)

    async def call(self, operation: Operation, call: Call, key: str) -> Any:
        """See `Calls.call`."""
        encoding = encoding_of(operation)
        now = self._core.clock.now()

        async def produce(keep: Keep) -> bytes:
            try:
                result = await self._core.calls.run(operation, call, now)
                payload = written(operation, result, self._core.limits.message_size)
            except PolywireError as error:
                # What was done once must not be done again because nobody can be told of it.
                if isinstance(error, Unwritable) or (error.blame == "caller" and not error.retryable):
                    keep(b"", error)
                    await self._core.log.committed()
                raise
            keep(payload, None)
            await self._core.log.committed()
            return payload

        asked = Asked("call", call.principal.name, operation.name, key, encoding.write_arguments(call.arguments))
        return _read(operation, await self.once(asked, produce, call.deadline))

    async def once(self, asked: Asked, produce: Produce, deadline: int | None = None) -> bytes:
        """What ``produce`` returns, or what it returned when the key was used before.

        Raises `DeadlineExceeded` at the ``deadline`` (ms since the epoch) for who waits for what somebody else began.
        """
        slot = _slot(asked)
        asked_for = _Reply(asked.kind, blake2b(asked.arguments, digest_size=16).digest(), b"")
        first = self._running.get(slot)
        if first is None:
            if len(self._running) >= self._core.limits.calls:
                raise LimitExceeded(f"the hub runs its limit of {self._core.limits.calls} calls", retry_after=1)
            task = asyncio.get_running_loop().create_task(self._first(slot, asked_for, produce))
            first = self._running[slot] = _First(asked_for, task)
            task.add_done_callback(lambda task: self._ended(slot, task))
            deadline = None  # of what it does itself
        _compare(asked_for, first.asked)
        # Who waits may leave; what was begun goes on, so that a repeat finds its reply.
        await self._wait(first.task, deadline)
        if first.task.cancelled():
            raise Unavailable("the hub is stopping", retry_after=1)
        if not first.task.done():
            raise DeadlineExceeded(f"operation {asked.operation!r} did not end in the time it was given")
        return first.task.result()

    async def _wait(self, task: asyncio.Task[bytes], deadline: int | None) -> None:
        if deadline is None:
            await asyncio.wait([task])
            return
        over = asyncio.Event()
        task.add_done_callback(lambda _: over.set())
        timer = self._core.clock.call_at(deadline, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()

    def _ended(self, slot: bytes, task: asyncio.Task[bytes]) -> None:
        del self._running[slot]
        if not task.cancelled():
            task.exception()  # whoever wanted to hear of it may have left

    async def _first(self, slot: bytes, asked: _Reply, produce: Produce) -> bytes:
        entry = await self.table.find(slot)
        if entry is not None:
            reply = _decode(entry.value)
            _compare(asked, reply)
            if reply.error is not None:
                raise reply.error.error()
            return reply.payload
        await self.table.require_room()
        return await produce(self._keeper(slot, asked))

    def _keeper(self, slot: bytes, asked: _Reply) -> Keep:
        def keep(payload: bytes, error: PolywireError | None) -> None:
            refused = StoredError.of(error) if error is not None else None
            reply = msgspec.structs.replace(asked, payload=payload, error=refused)
            expires = self._core.clock.now() + self._core.limits.reply_retention
            self.table.put(slot, _encode(reply), expires=expires)

        return keep

    async def drain(self, seconds: float) -> None:
        """Let replies that are on their way be stored, for so long."""
        tasks = [first.task for first in self._running.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()


class Unwritable(Internal):
    """An operation answered with what its declaration cannot tell."""


def _read(operation: Operation, payload: bytes) -> Any:
    """A kept result as a value. Raises `Internal`."""
    try:
        return encoding_of(operation).read_result(payload)
    except Exception as error:
        _logger.exception("operation %s answered with what it does not declare", operation.name)
        raise Internal(f"operation {operation.name!r} failed", hint="the hub's log says why") from error


def written(operation: Operation, result: Any, limit: int) -> bytes:
    """A result as it is kept. Raises `Unwritable`, `TooLarge`."""
    try:
        payload = encoding_of(operation).write_result(result)
    except Exception as error:
        _logger.exception("operation %s answered with what cannot be written", operation.name)
        raise Unwritable(f"operation {operation.name!r} failed", hint="the hub's log says why") from error
    if len(payload) > limit:
        raise TooLarge(f"the result has {len(payload)} bytes; at most {limit} are kept")
    return payload


def encoding_of(operation: Operation) -> Encoding:
    """Raises `Unsupported`."""
    if operation.encoding is None:
        raise Unsupported(f"nothing can be kept of calls of operation {operation.name!r}")
    return operation.encoding


def _slot(asked: Asked) -> bytes:
    """Raises `Invalid` for a key that is none."""
    key = asked.key
    if not 0 < len(key) <= _KEY_LENGTH or not key.isprintable():
        raise Invalid(
            f"an idempotency key has 1 to {_KEY_LENGTH} printable characters",
            fields=[FieldError("$.idempotency_key", "not an idempotency key")],
        )
    scope = msgspec.msgpack.encode((asked.principal, asked.operation, key))
    return blake2b(scope, digest_size=24).digest()


def _compare(asked: _Reply, first: _Reply) -> None:
    if asked.digest != first.digest:
        raise Conflict("the idempotency key was used with other arguments", hint="a key names one call; use a new one")
    if asked.kind != first.kind:
        what = "submit a job" if first.kind == "job" else "call"
        raise Conflict(f"the idempotency key was used to {what}", hint="a key names one call; use a new one")
