"""Operations as the core knows them: a name, who may call it, how long it may take, and what is counted.

Arguments and results are values of the application's own types; what they look like outside is the business of the
contract and of each wire. A wire first asks `Calls.require`, then reads the arguments, then calls: nothing of a request
is decoded for who may not call.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from polywire.core.access import Action, Principal
from polywire.core.call import NOBODY, Call, Encoding, JobPolicy, Operation
from polywire.core.deadlines import Deadlines
from polywire.core.errors import Internal, LimitExceeded, NotFound, PolywireError, Unavailable, Unsupported
from polywire.core.message import Header, Origin
from polywire.core.replies import Replies

if TYPE_CHECKING:
    from polywire.core.core import Core

__all__ = ["Call", "Calls", "Encoding", "JobPolicy", "Operation"]

_logger = logging.getLogger("polywire.calls")
_LAST_WORDS = 0.5  # seconds for what is interrupted when the hub stops


class Calls:
    """Declare before the core starts; then `require`, `call` and `stream`, on the event loop."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._operations: dict[str, Operation] = {}
        self._running: set[Call] = set()
        self._deadlines = Deadlines(core.clock)
        self._idle: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # saves asking for it at each call
        self.replies = Replies(core)

    def declare(self, operation: Operation) -> None:
        if operation.name in self._operations:
            raise ValueError(f"operation {operation.name!r} is declared twice")
        self._operations[operation.name] = operation

    def __iter__(self) -> Iterator[Operation]:
        return iter(self._operations.values())

    def get(self, name: str) -> Operation | None:
        return self._operations.get(name)

    @property
    def running(self) -> int:
        return len(self._running)

    def allowed(self, principal: Principal) -> list[Operation]:
        """Those the principal may call."""
        return [o for o in self if self._core.access.allows(principal, Action.CALL, o.name)]

    def require(self, principal: Principal, name: str) -> Operation:
        """The operation. Raises `Denied`, `Unauthenticated`, `NotFound`, `Unavailable`."""
        self._core.require_running(principal)
        self._core.access.require(principal, Action.CALL, name)
        operation = self._operations.get(name)
        if operation is None:
            raise NotFound(f"there is no operation {name[:80]!r}", hint="polywire operations lists those there are")
        return operation

    async def call(
        self,
        principal: Principal,
        name: str,
        arguments: Mapping[str, Any],
        *,
        within: int | None = None,
        idempotency: str | None = None,
        headers: Sequence[Header] = (),
        origin: Origin = NOBODY,
    ) -> Any:
        """Call and wait for the result; when the waiting task is cancelled, so is the call.

        ``within`` (ms) can only shorten what the operation allows. ``idempotency``: a repeat of the same principal with
        the same key and arguments gets the first one's reply (or its error, where that blames the caller and a retry
        would not help) and runs nothing; while the first one runs it waits for it. Such a call goes on to its end when
        its caller leaves.

        Raises what `require` raises, `DeadlineExceeded`, `LimitExceeded`, `Conflict` (an idempotency key that was used
        with other arguments), the `PolywireError` that the operation raises, and `Internal` for any other exception of
        it.
        """
        operation = self.require(principal, name)
        now = self._core.clock.now()
        allowed = self._core.limits.call_timeout if operation.timeout is None else operation.timeout
        call = Call(
            name, arguments, principal,
            clock=self._core.clock, headers=headers, origin=origin, deadline=_deadline(now, allowed, within),
        )  # fmt: skip
        if idempotency is not None:
            return await self.replies.call(operation, call, idempotency)
        return await self.run(operation, call, now)

    async def run(self, operation: Operation, call: Call, now: int) -> Any:
        """A call that is admitted already, begun ``now``. Raises what the operation raises, as `call` says."""
        if operation.invoke is None:
            raise Unsupported(f"operation {operation.name!r} answers with a stream")
        self._begin(operation, call, now)
        begun = time.perf_counter()
        failed = False
        try:
            call.runs_in(asyncio.current_task(self._loop))
            return await operation.invoke(call)
        except BaseException as error:
            told = _told(operation, call, error)
            failed = isinstance(told, Exception)
            if told is error:
                raise
            raise told from error
        finally:
            call.rests()
            self._end(operation, call, time.perf_counter() - begun, failed)

    async def stream(
        self,
        principal: Principal,
        name: str,
        arguments: Mapping[str, Any],
        *,
        within: int | None = None,
        idempotency: str | None = None,
        headers: Sequence[Header] = (),
        origin: Origin = NOBODY,
    ) -> AsyncIterator[Any]:
        """The items of an operation that streams; close the iterator to end it. It has no deadline unless the operation
        or its caller gives it one.

        Raises as `call`, at the first item or later, and `Unsupported` for an idempotency key: a stream is not kept.
        """
        operation = self.require(principal, name)
        if operation.stream is None:
            raise Unsupported(f"operation {name!r} answers with one result, not a stream")
        if idempotency is not None:
            raise Unsupported(f"operation {name!r} answers with a stream, which is not kept for an idempotency key")
        now = self._core.clock.now()
        call = Call(
            name, arguments, principal,
            clock=self._core.clock, headers=headers, origin=origin,
            deadline=_deadline(now, operation.timeout or 0, within),
        )  # fmt: skip
        self._begin(operation, call, now)
        begun = time.perf_counter()
        failed = False
        forget = self.watch(call)
        items = operation.stream(call)
        try:
            while True:
                try:
                    item = await self._next(operation, call, items)
                except StopAsyncIteration:
                    return
                except Exception:
                    failed = True
                    raise
                yield item
        finally:
            forget()
            try:
                await _close(items)
            finally:
                self._end(operation, call, time.perf_counter() - begun, failed)

    async def _next(self, operation: Operation, call: Call, items: AsyncIterator[Any]) -> Any:
        """Raises `StopAsyncIteration` at the end."""
        try:
            call.runs_in(asyncio.current_task(self._loop))
            return await anext(items)
        except StopAsyncIteration:
            raise
        except BaseException as error:
            told = _told(operation, call, error)
            if told is error:
                raise
            raise told from error
        finally:
            call.rests()

    def watch(self, call: Call) -> Callable[[], None]:
        """Interrupt what goes on for long, a stream or a job, once its caller may no longer call; call what is returned
        at its end."""

        def revoked() -> None:
            try:
                self._core.access.require(call.principal, Action.CALL, call.operation)
            except PolywireError as error:
                call.interrupt(error)

        return call.principal.on_revoked(revoked)

    # Counting, and ending in time

    def _begin(self, operation: Operation, call: Call, now: int) -> None:
        if call.job is None and len(self._running) >= self._core.limits.calls:  # jobs have a bound of their own
            raise LimitExceeded(f"the hub runs its limit of {self._core.limits.calls} calls", retry_after=1)
        self._running.add(call)
        operation.counters.running += 1
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        if call.deadline is not None:
            self._deadlines.add(call, now)

    def _end(self, operation: Operation, call: Call, seconds: float, failed: bool) -> None:
        if call.deadline is not None:
            self._deadlines.discard(call)
        operation.counters.ended(seconds, failed=failed)
        self._running.discard(call)
        if self._idle is not None and not self._running and not self._idle.done():
            self._idle.set_result(None)

    async def drain(self, seconds: float) -> None:
        """Wait for what is running, for so long; then interrupt it: its callers are told that the hub stops."""
        if not await self._empty(seconds):
            _logger.warning("%d calls did not end within %.1f s", len(self._running), seconds)
            for call in [call for call in self._running if call.job is None]:  # jobs run again after a restart
                call.interrupt(Unavailable("the hub is stopping", retry_after=1))
            await self._empty(min(_LAST_WORDS, seconds))
        await self.replies.drain(min(_LAST_WORDS, seconds))

    async def _empty(self, seconds: float) -> bool:
        if self._running:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._idle], timeout=seconds)
        return not self._running


def _deadline(now: int, allowed: int, asked: int | None) -> int | None:
    """``allowed`` 0: as long as it likes."""
    if asked is None:
        return now + allowed if allowed else None
    return now + (min(asked, allowed) if allowed else asked)


def _told(operation: Operation, call: Call, error: BaseException) -> BaseException:
    """What the caller is told of what came out of an operation."""
    if isinstance(error, asyncio.CancelledError):
        return call.interrupted() or error
    if isinstance(error, PolywireError) or not isinstance(error, Exception):
        return error
    _logger.error("operation %s failed, call %s of %s", operation.name, call.id, call.principal.name, exc_info=error)
    return Internal(f"operation {operation.name!r} failed", hint="the hub's log says why")


async def _close(items: AsyncIterator[Any]) -> None:
    close = getattr(items, "aclose", None)
    if close is not None:
        await close()
